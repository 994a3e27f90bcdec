"""onnxruntime sessions on the CPU: loading, inner tensors as outputs, endless loops, operators without kernels."""
