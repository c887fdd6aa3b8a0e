"""Years of radar in a Zarr store, read in place: its index of tiles, its runs and its days."""
