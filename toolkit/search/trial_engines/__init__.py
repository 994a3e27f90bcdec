"""Engines built and measured to decide which Q/DQ pairs pay: latency ratios, and the search over such engines."""
