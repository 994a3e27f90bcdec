"""Python scripts and notebooks that build an engine: instructions are read from the syntax tree; nothing is run."""
