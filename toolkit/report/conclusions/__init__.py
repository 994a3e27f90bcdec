"""Conclusions from a joined report: verdict, first line, warnings, and suggestions with their reasons."""
