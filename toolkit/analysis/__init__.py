"""What quantization does to accuracy and time: evaluation, sensitivity, search, bisection."""
