"""The stages of a plan search: helper passes tried, layer times, real types, one search after the other, the record."""
