"""The recipe: its tables, settings and passes, line numbers in its text, and settings without effect."""
