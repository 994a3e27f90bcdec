"""The parts of a report made from what a run found: tensors, times, shares, the search, connections of nodes."""
