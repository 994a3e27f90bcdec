"""From an engine's layers back to ONNX nodes: what each node runs in, why, and how long it takes.

``nodes.attribute`` is the entry: it reads the engine inspector where an engine can be opened, else the typed network
definition. ``flow`` says which nodes the Q/DQ pairs quantize, ``reasons`` why a node runs in something else.
"""
