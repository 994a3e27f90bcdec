"""What a model is for, guessed from shapes, values, names and operators; and how its outputs are read for it."""
