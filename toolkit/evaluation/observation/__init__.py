"""Collect what a few samples and the graph show about a model's outputs, before anything is judged."""
