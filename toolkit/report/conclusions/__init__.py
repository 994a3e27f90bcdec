"""What follows from a joined report: the verdict, the first line, the warnings, what to try next, and why."""
