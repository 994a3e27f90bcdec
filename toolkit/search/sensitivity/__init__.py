"""What each layer costs at the model's output, one by one, and the smallest set to keep in float (bisection)."""
