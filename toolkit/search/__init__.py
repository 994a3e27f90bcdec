"""Sensitivity, search, bisection, cost models, and why a layer is bad."""
