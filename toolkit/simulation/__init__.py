"""Fake quantization in onnxruntime, with switches for single layers."""
