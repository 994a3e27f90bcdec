"""ONNX's protobuf messages: walking their nodes, stored tensors, scopes of names, and large weights beside them."""
