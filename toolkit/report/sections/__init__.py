"""Builds the parts of a report from a run's results: tensors, ranges, times, shares, the search, node connections."""
