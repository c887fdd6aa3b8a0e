"""Checks and measurements to be run as `python -m ldcast.tools.NAME`; nothing imports them."""

GIB = 2**30  # bytes
