"""Runs and ranges side by side: which nodes correspond, what differs, in the terminal and as HTML."""
