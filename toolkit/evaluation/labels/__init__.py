"""The user's labels: which metric and output they fit, and whether the float model agrees with them."""
