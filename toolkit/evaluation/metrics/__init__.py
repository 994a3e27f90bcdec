"""The built-in metrics: by name, by kind of output, their options, and what they reach without a model."""
