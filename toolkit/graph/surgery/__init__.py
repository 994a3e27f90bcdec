"""onnx-graphsurgeon's graph: made from an ONNX message and written back; its tensors, its order, its opset."""
