"""A model's inputs and outputs: which are used, along which axes samples are joined, which states are handed on."""
