"""Evaluate a quantized model: metrics, budgets, comparison of outputs with the float model's."""
