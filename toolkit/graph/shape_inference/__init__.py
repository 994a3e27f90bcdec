"""Types and shapes: inference of every tensor at every profile, and dynamic dimensions by name."""
