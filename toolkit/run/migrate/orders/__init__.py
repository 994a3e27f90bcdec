"""What flags and scripts say about an engine: the terms, their values, and what each becomes in a recipe."""
