"""onnxruntime sessions on the CPU: what they load, any inner tensor as an output, endless loops, plugins left out."""
