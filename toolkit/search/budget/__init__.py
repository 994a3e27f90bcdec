"""What a search may spend and decides by: its settings, the budget, the samples, how many inferences are left."""
