"""Search for the cheapest plan within a budget: evaluate plans, model their noise, choose ranges, propose plans."""
