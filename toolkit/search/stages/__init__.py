"""The stages of a plan search: helper passes, layer times, runs in the real types, successive searches, the record."""
