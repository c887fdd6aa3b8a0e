"""One forecast from file to file."""
