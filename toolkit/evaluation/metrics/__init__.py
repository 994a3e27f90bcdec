"""The built-in metrics: by name, by kind of output, their options, and their baselines without a model."""
