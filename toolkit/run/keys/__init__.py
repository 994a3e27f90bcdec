"""Keys of a step's result, which is reused only if nothing it depends on changed: content, code, the lock file."""
