"""Simulation of a quantized model: fake quantization in onnxruntime, with a switch for every layer."""
