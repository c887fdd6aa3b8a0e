"""Forecasts for users: one from file to file, those of a feed, and those of DataArrays."""
