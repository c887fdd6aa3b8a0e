"""Windows cover a field, their weights add up, and what they predict together has no seam."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from ldcast.diffusion import NoiseSchedule, PLMSSampler, Prediction
from ldcast.diffusion.windows import OVERLAP, LatentWindow, cover, denoise_together

pytestmark = pytest.mark.core

SCHEDULE = NoiseSchedule.sqrt_linear()
SIZES = [(40, 52, 16), (16, 100, 16), (17, 33, 16), (8, 12, 16), (64, 64, 12)]


@pytest.mark.parametrize(("height", "width", "size"), SIZES)
def test_weights_add_up_to_one_everywhere(height, width, size) -> None:
    total = torch.zeros(height, width)
    for window in cover(height, width, size):
        assert window.weight.shape == window.cut(total).shape
        assert window.weight.shape == (min(size, height), min(size, width))
        window.cut(total).add_(window.weight)
    torch.testing.assert_close(total, torch.ones(height, width))


@pytest.mark.parametrize(("height", "width", "size"), SIZES)
def test_neighbours_overlap(height, width, size) -> None:
    starts = sorted({window.columns.start for window in cover(height, width, size)})
    for left, right in pairwise(starts):
        assert left + size - right >= int(OVERLAP * size)


def test_weights_fall_to_nearly_nothing_where_windows_end() -> None:
    for window in cover(16, 40, 16):
        if window.columns.stop < 40:
            assert window.weight[0, -1] < 0.2
        if window.columns.start > 0:
            assert window.weight[0, 0] < 0.2


def test_a_field_that_fits_is_one_window_of_weight_one() -> None:
    (window,) = cover(8, 12, 16)
    torch.testing.assert_close(window.weight, torch.ones(8, 12))


def denoiser_of(windows: list[LatentWindow]) -> object:
    """A denoiser that treats each cell by itself, so windows must make no difference."""

    def predict(z_noisy: Tensor, diffusion_step: Tensor) -> Prediction:
        assert len(z_noisy) == len(diffusion_step) == len(windows)
        assert z_noisy.shape[-2:] == windows[0].weight.shape
        noise = torch.tanh(z_noisy) * (1 + diffusion_step.reshape(-1, 1, 1, 1, 1) / 1000)
        return SCHEDULE.predict("noise", noise, z_noisy, diffusion_step)

    return predict


def test_a_local_denoiser_gives_what_it_gives_without_windows() -> None:
    z = torch.randn(1, 3, 5, 20, 28, generator=torch.Generator().manual_seed(0))
    sampler = PLMSSampler(SCHEDULE, num_sampling_steps=12)
    windows = cover(20, 28, 12)
    assert len(windows) > 4
    groups = [windows[:3], windows[3:]]
    together = denoise_together([(group, denoiser_of(group)) for group in groups])
    whole = denoiser_of([LatentWindow(slice(0, 20), slice(0, 28), torch.ones(20, 28))])
    torch.testing.assert_close(sampler(together, z), sampler(whole, z), rtol=1e-5, atol=1e-5)


def test_windows_that_disagree_are_blended_without_a_jump() -> None:
    windows = cover(16, 40, 16)
    levels = [
        lambda z, step, level=level: Prediction(*[torch.full_like(z, level)] * 3)
        for level in range(3)
    ]
    assert len(windows) == 3
    groups = [([window], level) for window, level in zip(windows, levels, strict=True)]
    blends = denoise_together(groups)(torch.zeros(1, 1, 1, 16, 40), torch.zeros(1))
    blend = blends.noise
    assert torch.equal(blends.z, blend) and torch.equal(blends.output, blend)
    assert (blend[..., 0] == 0).all()
    assert (blend[..., -1] == 2).all()
    assert blend.diff(dim=-1).abs().max() <= 0.5
    assert (blend.diff(dim=-1) >= -1e-6).all()
