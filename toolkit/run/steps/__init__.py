"""The steps of a run, one a file, each with the record that it leaves for those after it."""
