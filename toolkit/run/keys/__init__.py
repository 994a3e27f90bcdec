"""What a step's result depends on, so that it is used again only where nothing changed: keys, code, the lock file."""
