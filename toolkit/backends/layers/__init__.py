"""What an engine consists of: its layers, with their types, tensors and origin in the ONNX graph.

``layer`` holds the one record of a layer, whatever the TensorRT version, and of a build. The other modules read such
records: from the engine inspector's JSON, from the typed network definition, from a TensorRT-RTX engine's program.
"""
