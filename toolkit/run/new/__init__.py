"""Generation of a recipe for a model: its samples, metric and limit, ranges from a file, fixed inputs."""
