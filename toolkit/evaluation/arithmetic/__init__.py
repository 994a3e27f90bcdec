"""Run a lowered model in onnxruntime: with float16 rounding as Casts or without, widened weights, fatal sessions."""
