"""Sensitivity and bisection of a recipe's layers, on the simulation, on engines, or by the user's command."""
