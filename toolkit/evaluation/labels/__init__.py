"""Find the metric and output that the user's labels fit, and check the float model against them."""
