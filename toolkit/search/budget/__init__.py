"""What a search decides by and may spend: its settings, the budget, the samples, the number of inferences."""
