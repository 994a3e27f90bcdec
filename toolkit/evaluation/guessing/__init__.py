"""Guess a model's task from shapes, values, names and operators, and decide how each output is compared."""
