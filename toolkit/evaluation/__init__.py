"""Whether the result is what the user needs: metrics, budgets, differences of outputs."""
