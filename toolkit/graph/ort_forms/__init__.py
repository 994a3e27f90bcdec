"""Rewrites of a message so that onnxruntime computes what the model means: float32 twins, seeds, masks, layouts."""
