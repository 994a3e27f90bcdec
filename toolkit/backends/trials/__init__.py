"""Trial engines: built to be compared, with the settings of the run's own engine.

``bench`` lowers, builds and times them, and keeps a log. The others have engines ready before they are asked for: built
alongside other work, on other GPUs, or kept on disk.
"""
