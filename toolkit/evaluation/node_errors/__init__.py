"""Node errors relative to the float model: the reference, the measurement, and its checkpoint."""
