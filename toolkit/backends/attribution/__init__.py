"""From an engine's layers back to ONNX nodes: the precision each node runs in, why, and how long it takes.

``nodes.attribute`` is the entry point: it uses the engine inspector if an engine can be opened, else the typed network
definition. ``flow`` finds the nodes that Q/DQ pairs quantize, ``reasons`` why a node runs in another precision.
"""
