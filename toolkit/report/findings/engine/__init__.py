"""In words: what the engine runs and why, what opening it showed, and how fast it is."""
