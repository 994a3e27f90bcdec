"""In words: what passes and a search did or declined, why layers are quantized or not, and what they lose."""
