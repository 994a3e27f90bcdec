"""The report as one HTML file: its data, charts and network, and in assets/ templates, scripts and style sheet."""
