"""The steps of a run, one per file, each with its record; and functions that several steps share."""
