"""What nodes compute: forms of operators, weights, biases, constants and multiply-accumulates."""
