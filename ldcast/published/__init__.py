"""The weights that MeteoSwiss published for LDCast, as model folders of this code."""
