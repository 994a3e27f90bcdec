"""The model and its ONNX file; types and shapes, node selection, multiply-accumulates, sessions."""
