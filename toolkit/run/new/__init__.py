"""A recipe written for a model: its samples, its metric and limit, ranges from a file, fixed inputs."""
