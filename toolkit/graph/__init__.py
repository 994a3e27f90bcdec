"""The model and its ONNX file; types and shapes, selecting nodes, multiply-accumulates, sessions."""
