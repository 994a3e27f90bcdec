"""Each layer's effect on the model's output, and the smallest set of layers to keep in float (bisection)."""
