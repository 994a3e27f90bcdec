"""The content of report.json, part by part, as pydantic models, validated whenever a report is made or read."""
