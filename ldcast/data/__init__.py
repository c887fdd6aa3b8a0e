"""Radar rain: events, what of them is the past of a forecast, and training examples."""
