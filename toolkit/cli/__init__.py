"""The qtool command."""
