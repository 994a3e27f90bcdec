"""The report: requested and actual precisions joined; JSON, HTML and terminal output; comparison of two runs."""
