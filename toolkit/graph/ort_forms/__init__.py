"""Rewrites of a message that let onnxruntime compute what the model means: float32 twins, seeds, masks, layouts."""
