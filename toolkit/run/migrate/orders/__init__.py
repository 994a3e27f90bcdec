"""Build instructions in flags and scripts (orders): their terms, their values, and their equivalents in a recipe."""
