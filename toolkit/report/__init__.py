"""The report: joining what was asked with what runs; JSON, HTML, terminal, and the comparison of two runs."""
