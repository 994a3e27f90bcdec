"""What a run left: opened again, shown, measured again, exported and viewed."""
