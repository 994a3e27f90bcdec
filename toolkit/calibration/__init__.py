"""Calibration: collecting statistics of tensors, choosing their ranges, reading and writing those of other tools."""
