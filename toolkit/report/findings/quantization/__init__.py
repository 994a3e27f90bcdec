"""Messages on passes and the search: what they changed or declined and why, and where accuracy is lost."""
