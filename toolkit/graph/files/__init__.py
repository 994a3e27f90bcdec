"""ONNX files: reading and writing, external data, streaming, and checks of what was read."""
