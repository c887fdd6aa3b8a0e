"""Colours of maps that keep their order for everyone."""

import numpy as np
import pytest

from ldcast.products.maps import (
    CHANCE_SCALE,
    DRY_COLOUR,
    RAIN_SCALE,
    ColourScale,
    block_side,
    coarsen,
)

# What dichromats see, in linear RGB: Machado, Oliveira and Fernandes 2009 (IEEE Transactions on
# Visualization and Computer Graphics 15), the model's matrices for severity 1.0.
SIGHTS = {
    "normal": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
SRGB_TO_XYZ = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
MIN_DISTANCE, MIN_STEP = 7.0, 5.0  # in CIELAB, where 2.3 is what one can just tell apart


def seen_lab(colours: tuple[str, ...], sight: str) -> np.ndarray:
    """(n, 3) CIELAB (D65) of "#rrggbb" as seen; sRGB of IEC 61966-2-1."""
    rgb = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in colours])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.transpose(SIGHTS[sight]), 0, 1)
    x, y, z = (seen @ np.transpose(SRGB_TO_XYZ) / [0.9505, 1.0, 1.089]).T
    f_x, f_y, f_z = (
        np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29) for t in (x, y, z)
    )
    return np.stack([116 * f_y - 16, 500 * (f_x - f_y), 200 * (f_y - f_z)], axis=1)


def test_lab_of_known_colours() -> None:
    """Of white, of sRGB's red, and of what a protanope sees as red: dark."""
    white, red = seen_lab(("#ffffff", "#ff0000"), "normal")
    np.testing.assert_allclose(white, [100, 0, 0], atol=0.02)
    np.testing.assert_allclose(red, [53.24, 80.09, 67.2], atol=0.1)
    assert seen_lab(("#ff0000",), "protanopia")[0, 0] < 43


@pytest.mark.parametrize("sight", SIGHTS)
@pytest.mark.parametrize("scale", [RAIN_SCALE, CHANCE_SCALE])
def test_colours_get_darker_step_by_step_for_everyone(scale: ColourScale, sight: str) -> None:
    """From dry ground on, and with no two classes alike."""
    lab = seen_lab((DRY_COLOUR, *scale.colours), sight)
    assert (np.diff(lab[:, 0]) < -MIN_STEP).all()
    distance = np.linalg.norm(lab[:, None] - lab, axis=-1)
    assert distance[np.triu_indices(len(lab), k=1)].min() > MIN_DISTANCE


@pytest.mark.parametrize("scale", [RAIN_SCALE, CHANCE_SCALE])
def test_scales_are_complete(scale: ColourScale) -> None:
    assert len(scale.colours) in (len(scale.bounds), len(scale.bounds) - 1)
    assert len(scale.bound_labels) == len(scale.bounds)


def test_coarse_maps_keep_means_and_leave_out_gaps() -> None:
    values = np.arange(20.0).reshape(4, 5)
    values[0, 0] = np.nan
    coarse = coarsen(values, 3)
    assert block_side(values.shape, 3) == 2
    assert coarse.shape == (2, 3)
    assert coarse[0, 0] == np.mean([1, 5, 6])
    assert coarse[1, 2] == np.mean([14, 19])  # the last column, repeated
