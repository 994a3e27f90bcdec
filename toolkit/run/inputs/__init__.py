"""Inputs of a run: model, samples in batches, their fingerprints, calibration, engine settings."""
