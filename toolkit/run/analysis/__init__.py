"""Sensitivity and bisection of a recipe's layers, in simulation, on engines, or with a user's command."""
