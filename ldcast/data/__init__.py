"""Radar rain: events, the past frames that a forecast starts from, and training examples."""
