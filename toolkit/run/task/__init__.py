"""The model's task, its fit with labels and samples, and the verdict by the recipe's limits."""
