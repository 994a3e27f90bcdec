"""From TensorRT's implicit quantization and weak typing to Q/DQ pairs and types in the graph, and back."""
