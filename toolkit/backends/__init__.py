"""What builds engines: TensorRT, TensorRT-RTX or nothing; lowering to their types, and attribution of what they run."""
