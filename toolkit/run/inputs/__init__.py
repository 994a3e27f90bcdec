"""What a run starts from: the model, its samples in batches, their fingerprints, calibration, engine settings."""
