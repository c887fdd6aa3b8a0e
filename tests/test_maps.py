"""Colours of maps that keep their order for everyone."""

import numpy as np
import pytest

from ldcast.products.maps import CHANCE_SCALE, RAIN_SCALE, ColourScale


@pytest.mark.parametrize("scale", [RAIN_SCALE, CHANCE_SCALE])
def test_colours_get_darker_step_by_step(scale: ColourScale) -> None:
    """CIE lightness L*, from the relative luminance of sRGB (IEC 61966-2-1)."""
    rgb = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in scale.colours])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    lightness = 116 * np.cbrt(linear @ [0.2126, 0.7152, 0.0722]) - 16
    assert (np.diff(lightness) < -6).all()
    assert len(scale.colours) in (len(scale.bounds), len(scale.bounds) - 1)
    assert len(scale.bound_labels) == len(scale.bounds)
