"""The steps of a run, one per file, each with the record that it leaves; and what several of them need."""
