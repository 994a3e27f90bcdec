"""The run folder: which run it belongs to, how results are kept, and which files must not be overwritten."""
