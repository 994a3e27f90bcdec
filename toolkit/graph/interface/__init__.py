"""A model's inputs and outputs: which inputs are used, batch axes, and states that are passed from run to run."""
