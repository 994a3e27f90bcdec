"""What a TensorRT build is told and what it says.

Builder configuration, calibrators, precisions and ranges of a weakly typed network, marked tensors, and TensorRT's
messages. ``command_lines`` writes the same for trtexec and Polygraphy.
"""
