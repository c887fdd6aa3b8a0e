"""Parts of the page of figures; `ldcast/verification/figures.py` puts them together."""
