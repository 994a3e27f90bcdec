"""Sensitivity analysis, plan search, bisection, cost models, and the causes of layers' quantization error."""
