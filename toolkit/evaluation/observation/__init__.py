"""What is seen of a model and its outputs on a few samples and in its graph, before anything is judged."""
