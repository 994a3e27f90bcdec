"""Engines built and measured to decide which Q/DQ pairs pay off: latency ratios, and the search over engines."""
