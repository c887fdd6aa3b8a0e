"""Gaps in the past: filled from the other frames along the motion, and flagged where they stay."""

import numpy as np
import pytest
import torch
from test_motion import moving_rain
from torch import Tensor

from ldcast.motion import (
    NO_FORECAST,
    PAST_INCOMPLETE,
    UPSTREAM_OBSERVED,
    carry,
    far_motion,
    fill_gaps,
    follow_upstream,
    forecast_quality,
    mean_motion,
    rain_at,
)

HEIGHT, WIDTH = 96, 128


def past(down: float = 2.0, right: float = -3.0) -> Tensor:
    """(4, 96, 128) mm/h of rain that moves without change."""
    return moving_rain(down, right, 4, HEIGHT, WIDTH)


def without(rain_rate: Tensor, frames: list[int], columns: slice = slice(None, 64)) -> Tensor:
    gapped = rain_rate.clone()
    gapped[frames, :, columns] = torch.nan
    return gapped


def share_of_error(got: Tensor, expected: Tensor, where: Tensor) -> float:
    """Mean absolute error over the mean of what was to be found."""
    return ((got - expected)[where].abs().mean() / expected[where].mean()).item()


def test_rain_carried_to_all_frames_is_that_of_each() -> None:
    """Up to half an hour; what is left out at the border is as without one."""
    generator = torch.Generator().manual_seed(2)
    rain_rate = torch.rand(24, 30, generator=generator)
    rain_rate[3:6, 20:] = torch.nan
    motion = torch.randn(2, 24, 30, generator=generator)
    still = torch.zeros_like(motion)
    through = rain_at(follow_upstream(motion, still, 6, 5), rain_rate)
    for k in range(6):
        alone = carry(rain_rate, motion, k + 1)
        torch.testing.assert_close(through[k], alone, rtol=0, atol=0, equal_nan=True)
    inner = rain_at(follow_upstream(motion, still, 6, 5, border=4), rain_rate)
    torch.testing.assert_close(inner, through[:, 4:-4, 4:-4], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("minutes", [5, 10])
def test_after_half_an_hour_the_way_turns_into_that_of_the_far_motion(minutes: int) -> None:
    """2 pixels a frame down near by, 3 to the right far off; three quarters of an hour is half."""
    near, far = torch.zeros(2, 8, 8), torch.zeros(2, 8, 8)
    near[0], far[1] = 2.0, 3.0
    frames = torch.arange(1, 90 // minutes + 1)
    came_from = follow_upstream(near, far, len(frames), minutes)[:, :, 5, 5] - 5
    share = ((frames * minutes - 30) / 30).clamp(0, 1)
    expected = torch.stack([-2 * frames * (1 - share), -3 * frames * share], dim=1)
    torch.testing.assert_close(came_from, expected)


@pytest.mark.parametrize(("wavelength", "left"), [(20, 0.0), (300, 0.407), (2000, 0.98)])
def test_far_motion_is_that_of_wide_surroundings(wavelength: int, left: float) -> None:
    """A Gaussian of 64 pixels leaves exp(-2 pi^2 64^2 / wavelength^2) of a wave."""
    columns = torch.arange(1400.0).expand(64, 1400)
    wave = torch.cos(2 * torch.pi * (columns - 700) / wavelength)
    motion = torch.stack([2 * wave, torch.full_like(wave, 3.0)])
    found = far_motion(torch.ones(4, 64, 1400), motion)
    assert found[0, 32, 700].item() == pytest.approx(2 * left, abs=0.02)
    torch.testing.assert_close(found[1], motion[1])


@pytest.mark.parametrize("num_frames", [-3, -1, 1, 2])
def test_rain_is_carried_both_ways(num_frames):
    rain_rate = past(2, -3)
    start = 0 if num_frames > 0 else 3
    motion = torch.tensor([2.0, -3.0])[:, None, None].expand(2, HEIGHT, WIDTH)
    carried = carry(rain_rate[start], motion, num_frames)
    is_known = ~carried.isnan()
    expected = rain_rate[start + num_frames][is_known]
    torch.testing.assert_close(carried[is_known], expected, rtol=1e-4, atol=1e-4)
    rows, columns = abs(2 * num_frames), abs(3 * num_frames)
    assert (~is_known).sum() == HEIGHT * WIDTH - (HEIGHT - rows) * (WIDTH - columns)


def test_rain_is_carried_between_pixels_and_around_what_is_not_known():
    rain_rate = torch.arange(5.0).expand(4, 5).clone()
    motion = torch.zeros(2, 4, 5)
    motion[1] = 0.25
    carried = carry(rain_rate, motion, 1)
    torch.testing.assert_close(carried[:, 1:], rain_rate[:, 1:] - 0.25)
    rain_rate[0, 2] = torch.nan
    carried = carry(rain_rate, motion, 1)
    assert carried[0, 2].isnan()  # three quarters of it is without data
    assert carried[0, 3] == 3  # of which the known three quarters are there


@pytest.mark.parametrize("frames", [[0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2]])
@pytest.mark.parametrize("columns", [slice(None, 64), slice(64, None), slice(40, 80)])
def test_a_radar_that_is_out_for_some_images_is_filled(frames, columns):
    rain_rate = past()
    filled = fill_gaps(without(rain_rate, frames, columns))
    assert torch.equal(filled.rain_rate[3], rain_rate[3])
    kept = ~filled.was_gap
    assert torch.equal(filled.rain_rate[kept], rain_rate[kept])
    assert filled.is_gap.sum() < 0.2 * filled.was_gap.sum()
    was_filled = filled.was_gap & ~filled.is_gap
    assert share_of_error(filled.rain_rate, rain_rate, was_filled) < 0.15
    assert torch.equal(filled.rain_rate.isnan(), filled.is_gap)


@pytest.mark.parametrize("blank", [[0], [1], [2], [0, 1], [1, 2], [0, 2]])
def test_whole_images_that_are_blank_are_filled(blank):
    rain_rate = past()
    filled = fill_gaps(without(rain_rate, blank, slice(None)))
    was_filled = filled.was_gap & ~filled.is_gap
    assert was_filled.sum() > 0.8 * filled.was_gap.sum()
    assert share_of_error(filled.rain_rate, rain_rate, was_filled) < 0.15


def test_motion_is_that_of_the_frames_that_have_data():
    """Of the first and the last frame only the eastern half can be compared, and it is dry."""
    rain_rate = past(0, 4)
    rain_rate[:, :, 64:] = 0.0
    assert mean_motion(without(rain_rate, [0])) == pytest.approx((0, 4), abs=0.3)


def test_both_sides_of_a_gap_count():
    """Rain that grows from 1 to 4 mm/h and stays where it is was 1.5 squared in between."""
    rain_rate = torch.ones(4, 40, 40) * torch.tensor([0.0, 1.0, 2.25, 4.0])[:, None, None]
    torch.testing.assert_close(fill_gaps(without(rain_rate, [2])).rain_rate, rain_rate)


def test_a_dry_gap_is_dry():
    assert torch.equal(
        fill_gaps(without(torch.zeros(4, 40, 40), [1])).rain_rate, torch.zeros(4, 40, 40)
    )


def test_what_the_newest_image_lacks_is_no_gap():
    gapped = without(past(), [0, 1, 2, 3])
    filled = fill_gaps(gapped)
    assert torch.equal(filled.rain_rate.isnan(), gapped.isnan())
    assert not filled.was_gap.any()


def test_specks_stay_and_are_flagged():
    gapped = past()
    gapped[1, 20:28, 60:68] = torch.nan
    assert torch.equal(fill_gaps(gapped).rain_rate.isnan(), gapped.isnan())
    assert (forecast_quality(gapped, 1) == PAST_INCOMPLETE).sum() == 64
    gapped[1, 28, 60] = torch.nan  # 65 of them are a gap
    assert not fill_gaps(gapped).rain_rate.isnan().any()
    assert not (forecast_quality(gapped, 1) == PAST_INCOMPLETE).any()


def test_without_any_earlier_data_nothing_is_filled():
    gapped = without(past(), [0, 1, 2], slice(None))
    assert torch.equal(fill_gaps(gapped).is_gap, gapped.isnan())


def test_gaps_that_stay_are_flagged_downstream_of_them():
    """Air that none of the images saw before: it was in the gap, and is hidden in the newest."""
    rain_rate = past(0, 3)
    gapped = without(rain_rate, [0, 1, 2], slice(None, 30))
    gapped[3, :, 30:42] = torch.nan  # so nothing of the newest tells what was at columns 27 to 29
    quality = forecast_quality(gapped, 4)
    is_gap = fill_gaps(gapped).is_gap.any(dim=0)
    assert is_gap[:, 27:30].all() and not is_gap[:, :20].any()
    for lead in (1, 2, 3, 4):
        seen = quality[lead - 1]
        downstream = slice(28 + 3 * lead, 29 + 3 * lead)
        expected = NO_FORECAST if 30 <= downstream.start < 42 else PAST_INCOMPLETE
        assert (seen[5:-5, downstream] == expected).all()
        assert (seen[5:-5, 60:] == UPSTREAM_OBSERVED).all()


def test_the_past_is_left_alone_and_keeps_its_type():
    gapped = without(past(), [1]).half()
    before = gapped.clone()
    filled = fill_gaps(gapped)
    assert filled.rain_rate.dtype == torch.float16
    assert torch.equal(filled.rain_rate.isnan(), filled.is_gap) and filled.is_gap.sum() < 20
    np.testing.assert_array_equal(gapped.numpy(), before.numpy())
    whole = past()
    assert fill_gaps(whole).rain_rate is whole


def test_what_rounding_left_below_zero_is_filled_as_dry():
    rain_rate = torch.full((4, 40, 40), -5e-4)
    filled = fill_gaps(without(rain_rate, [1]))
    assert not filled.is_gap.any()
    assert (filled.rain_rate[1, :, :64] == 0).all()
