"""The recipe: its tables and settings, its passes, where in its text a thing is written, settings without effect."""
