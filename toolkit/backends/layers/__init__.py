"""The content of an engine: its layers, with their types, tensors and origin in the ONNX graph.

``layer`` defines the records of a layer, for any TensorRT version, and of a build. The other modules read layers from
the engine inspector's JSON, from the typed network definition, and from a TensorRT-RTX engine's program.
"""
