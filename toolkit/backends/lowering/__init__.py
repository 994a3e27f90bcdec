"""From a precision plan to a graph that a backend accepts.

``strong`` makes every decided float type explicit in the graph: Casts, float16 weights, scales. ``weak`` keeps a
float32 graph, with layer precisions beside it. The ``*_forms`` modules write forms that TensorRT's parsers need or run
faster.
"""
