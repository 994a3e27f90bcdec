"""Messages on the engine: actual precisions and their reasons, opened blocks, and speed."""
