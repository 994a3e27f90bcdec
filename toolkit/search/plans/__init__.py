"""The cheapest plan within a budget: plans evaluated, their noise learnt, better ranges and next plans proposed."""
