"""Conversion between TensorRT's implicit quantization with weak typing and Q/DQ pairs with types in the graph."""
