"""Numerics on arrays: errors of tensors, ranks, masked values, boxes, confidence intervals and resampling."""
