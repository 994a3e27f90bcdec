"""Where samples come from, and which profile each belongs to."""
