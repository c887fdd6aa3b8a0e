"""Sums along the motion: no combs, the right amount in the right place, and all of it kept."""

import pytest
import torch
from torch import Tensor

from ldcast.motion import amounts_between

HEIGHT, WIDTH, SPEED = 64, 160, 8  # pixels, and pixels per image
MINUTES = 5


def shower(frame: float) -> Tensor:
    """(H, W) mm/h at a time in frames, moving to the east."""
    rows, columns = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    square = (rows - 32) ** 2 + (columns - 30 - SPEED * frame) ** 2
    return 20 * torch.exp(-square / (2 * 2.5**2))


def to_the_east(speed: float = SPEED) -> Tensor:
    motion = torch.zeros(2, HEIGHT, WIDTH)
    motion[1] = speed
    return motion


def images(num: int = 11) -> Tensor:
    return torch.stack([shower(frame) for frame in range(num)])[None]


@pytest.mark.core
def test_a_shower_between_two_images_has_rained_there() -> None:
    """Against its rate 40 times between two images; images just added have combs."""
    moments = (torch.arange(10 * 40) + 0.5) / 40
    truth = sum(shower(float(moment)) for moment in moments) * MINUTES / 60 / 40
    followed, added = (
        sum(amounts_between(images(), motion, MINUTES))[0] for motion in (to_the_east(), None)
    )
    assert (followed - truth).abs().max() < 0.01 * truth.max()
    assert (added - truth).abs().max() > 0.4 * truth.max()
    track = slice(40, 100)
    assert added[32, track].max() > 1.8 * added[32, track].min()
    assert followed[32, track].max() < 1.02 * followed[32, track].min()


@pytest.mark.core
def test_the_total_is_kept() -> None:
    """To 1 % that of a plain sum, of rain that stays inside, whatever its motion: one that spreads
    by a tenth of a pixel a pixel, and one that narrows."""
    generator = torch.Generator().manual_seed(0)
    rain = torch.zeros(3, 4, HEIGHT, WIDTH)
    inside = rain[..., 20:-20, 30:-30]
    inside[:] = torch.rand(inside.shape, generator=generator) ** 4 * 50
    spreading = to_the_east() * torch.linspace(-1, 1, WIDTH)
    for motion in (spreading, -spreading, to_the_east(-5.3)):
        for followed, added in zip(
            amounts_between(rain, motion, MINUTES),
            amounts_between(rain, None, MINUTES),
            strict=True,
        ):
            assert followed.shape == (3, HEIGHT, WIDTH)
            totals = (amount.sum(dim=(1, 2)) for amount in (followed, added))
            torch.testing.assert_close(*totals, rtol=0.01, atol=0)


def test_rain_that_leaves_the_domain_changes_nothing_elsewhere() -> None:
    """A factor that made up for it once made a shower at the other end 62 % too strong."""
    storm = torch.zeros(1, 3, HEIGHT, WIDTH)
    storm[0, 0, 30:34, -6:-2], storm[0, 1, 30:34, -1:] = 100.0, 100.0
    alone, together = (
        torch.stack(list(amounts_between(rain, to_the_east(), MINUTES)))
        for rain in (images(3), images(3) + storm)
    )
    assert torch.equal(together[..., :100], alone[..., :100])


def test_rain_that_stands_still_is_the_mean_of_both_images() -> None:
    rain = torch.rand(2, 3, 16, 24) * 10
    expected = (rain[:, :-1] + rain[:, 1:]) / 2 * 10 / 60
    for motion in (None, torch.zeros(2, 16, 24)):
        amounts = torch.stack(list(amounts_between(rain, motion, minutes=10)), dim=1)
        torch.testing.assert_close(amounts, expected)


def test_no_data_stay_and_the_rest_is_known() -> None:
    rain = images(3)
    rain[0, 1, :, 100:] = torch.nan
    rain[0, :, :4] = torch.nan
    for amount in amounts_between(rain, to_the_east(), MINUTES):
        assert amount[0, :4].isnan().all() and amount[0, :, 100:].isnan().all()
        assert amount[0, 4:, :100].isfinite().all()
    dry = torch.zeros(1, 2, 16, 16)
    assert (next(amounts_between(dry, torch.ones(2, 16, 16), MINUTES)) == 0).all()
    nothing = torch.full((1, 2, 16, 16), torch.nan)
    assert next(amounts_between(nothing, torch.ones(2, 16, 16), MINUTES)).isnan().all()
