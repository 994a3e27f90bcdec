"""What the model is for, whether labels and samples fit that, and the verdict by the recipe's limits."""
