"""Trial engines: built for comparison, with the settings of the run's own engine.

``bench`` lowers, builds and times them, and keeps a log. The other modules make engines available before they are
needed: built in parallel with other work, on other GPUs, or cached on disk.
"""
