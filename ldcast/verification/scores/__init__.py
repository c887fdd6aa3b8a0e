"""Scores: a new one is a file here and a line in `ldcast/verification/scoring.py`."""
