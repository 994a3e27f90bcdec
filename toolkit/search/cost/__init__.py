"""The predicted latency of a plan: a roofline per layer, GPUs' datasheets, and layer times of earlier runs."""
