"""What report.json holds, part by part: pydantic models, checked whenever a report is made or read."""
