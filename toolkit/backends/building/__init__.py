"""Configuring a TensorRT build, and interpreting its messages.

Builder configuration, calibrators, precisions and ranges of a weakly typed network, marked tensors, and TensorRT's
messages. ``command_lines`` writes equivalent trtexec and Polygraphy commands.
"""
