"""What TensorRT fuses: which tensors want a Q/DQ pair, and which must not have one."""
