"""Gaussian means: of all pixels where they are narrow, of cells where they are wide."""

import math

import pytest
import torch

from ldcast.motion.gaussian import gaussian_means


@pytest.mark.parametrize(
    ("deviation", "tolerance"), [(0.7, 0.02), (2.8, 0.01), (6.0, 0.03), (22.4, 0.01)]
)
def test_of_a_wave_is_left_what_a_gaussian_leaves(deviation: float, tolerance: float) -> None:
    wavelength = 6 * deviation
    wave = torch.cos(2 * torch.pi * (torch.arange(400.0) - 200) / wavelength)
    fields = torch.stack([wave.expand(400, 400), wave[:, None].expand(400, 400)])
    found = gaussian_means(fields, deviation)[:, 200, 200]
    left = math.exp(-2 * math.pi**2 * deviation**2 / wavelength**2)
    torch.testing.assert_close(found, torch.full((2,), left), rtol=0, atol=tolerance)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 2), (33, 57)])
@pytest.mark.parametrize("deviation", [0.7, 11.2, 64.0])
def test_what_is_the_same_everywhere_stays(size: tuple[int, int], deviation: float) -> None:
    fields = torch.full((2, *size), 3.0)
    torch.testing.assert_close(gaussian_means(fields, deviation), fields)
