"""ONNX files: reading and writing them, external data, streaming, and checks of what was read."""
