"""Comparison of runs and of ranges: corresponding nodes and differences, in the terminal and as HTML."""
