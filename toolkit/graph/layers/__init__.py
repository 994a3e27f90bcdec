"""What nodes compute: operators in all their exported forms, weights, biases, constants, multiply-accumulates."""
