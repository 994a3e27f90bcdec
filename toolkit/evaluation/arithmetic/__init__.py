"""A lowered model in onnxruntime: float16's rounding written out or left out, wide weights, ended sessions."""
