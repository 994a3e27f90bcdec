"""Python scripts and notebooks that build an engine, read into orders by their syntax trees; nothing is run."""
