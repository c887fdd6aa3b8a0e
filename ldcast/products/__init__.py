"""What a forecast is turned into: files, maps of statistics, a summary, pictures."""
