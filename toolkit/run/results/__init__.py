"""Results of a finished run: loading, inspection, new measurements, export and viewing."""
