"""ONNX's protobuf messages: walking nodes, stored tensors, scopes of names, and large weights stored separately."""
