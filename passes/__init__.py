"""qtool's built-in passes, one file each, found through the same entry-point group as third-party passes."""
