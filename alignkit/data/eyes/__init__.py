"""Looking at data before it is trained on: rows as tokens, counts, faults. Nothing here changes a row."""
