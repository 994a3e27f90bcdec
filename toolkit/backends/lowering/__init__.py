"""From a plan to a graph that a backend takes.

``strong`` writes every decided float type into the graph: Casts, float16 weights, scales. ``weak`` keeps a float32
graph, with layer precisions beside it. The ``*_forms`` modules write what TensorRT's parsers need or run faster.
"""
