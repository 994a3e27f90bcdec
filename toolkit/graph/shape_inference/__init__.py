"""Types and shapes: what inference knows of every tensor at every profile, and dynamic dimensions by name."""
