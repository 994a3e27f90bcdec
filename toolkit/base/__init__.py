"""Errors, precision, profiles, files, text: nothing here knows a graph."""
