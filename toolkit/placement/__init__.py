"""What TensorRT fuses: which tensors need a Q/DQ pair, and which must not have one."""
