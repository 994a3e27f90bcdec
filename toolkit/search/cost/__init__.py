"""The time of a plan without building it: a roofline per layer, GPUs' datasheets, layer times of earlier runs."""
