"""Mean motion: known shifts, no data, nothing to track; and what it says was inside the crop."""

import pytest
import torch
from torch import Tensor

from ldcast.motion import (
    NO_FORECAST,
    UPSTREAM_OBSERVED,
    UPSTREAM_UNKNOWN,
    carry_mirrored,
    data_box,
    follow_upstream,
    forecast_quality,
    interior_mask,
    mean_motion,
    motion_field,
)
from ldcast.motion.quality import _trace_back


def moving_rain(
    down: float, right: float, num_frames: int = 24, height: int = 60, width: int = 90
) -> Tensor:
    """Rain (T, H, W) that drifts without change across the crop, by whole pixels a frame."""
    field = torch.randn(height + 300, width + 300, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.avg_pool2d(field[None], 9, stride=1, padding=4)[0]
    rain_rate = 10 ** (6 * smooth).clamp(-2, 2)
    frames = []
    for frame in range(num_frames):
        y, x = 150 - round(down * frame), 150 - round(right * frame)
        frames.append(rain_rate[y : y + height, x : x + width])
    return torch.stack(frames)


@pytest.mark.parametrize("motion", [(0, 0), (2, 0), (0, -3), (-4, 5), (1.5, -0.5)])
def test_motion_is_found_to_a_fraction_of_a_pixel(motion):
    assert mean_motion(moving_rain(*motion)) == pytest.approx(motion, abs=0.1)


def test_pixels_without_data_do_not_hold_the_motion_back():
    rain_rate = moving_rain(-2, 3)
    rain_rate[:, :, :30] = torch.nan  # an edge that stays where it is
    rain_rate[::2, :10] = torch.nan  # and one that comes and goes
    assert mean_motion(rain_rate) == pytest.approx((-2, 3), abs=0.1)


@pytest.mark.parametrize("fill", [0.0, 5.0, torch.nan])
def test_no_motion_where_there_is_nothing_to_follow(fill):
    assert mean_motion(torch.full((24, 20, 30), fill)) is None
    assert mean_motion(moving_rain(2, 2, num_frames=1)) is None


@pytest.mark.parametrize("num_frames", [2, 3])
def test_motion_is_found_in_few_frames(num_frames):
    assert mean_motion(moving_rain(2, -3, num_frames)) == pytest.approx((2, -3), abs=0.1)


def test_reach_grows_with_the_minutes():
    fast = moving_rain(0, 20, num_frames=4, width=200)  # 33 m/s at 10 minutes, 67 at 5
    assert mean_motion(fast, minutes=10) == pytest.approx((0, 20), abs=0.1)
    assert mean_motion(fast)[1] < 16
    is_unknown = (forecast_quality(fast, 1, minutes=10)[0] == UPSTREAM_UNKNOWN).all(dim=0)
    assert is_unknown.nonzero().flatten().tolist() == list(range(20))


def test_crops_smaller_than_the_reach():
    assert mean_motion(moving_rain(1, 1)[:, :8, :6]) is not None


def test_interior_is_what_was_inside_and_had_data():
    has_data = torch.ones(4, 6, dtype=torch.bool)
    has_data[3, 0] = False
    inside = interior_mask(has_data, (-1.0, 2.0), 3)  # up and to the right
    assert inside.shape == (3, 4, 6)
    expected = torch.tensor([[0, 0, 1, 1, 1, 1]] * 3 + [[0] * 6], dtype=torch.bool)
    expected[2, 2] = False  # came from the pixel without data
    assert (inside[0] == expected).all()
    # 3 frames: 3 rows and 6 columns have come in.
    assert not inside[2].any()


def test_nothing_is_interior_where_the_motion_is_unknown():
    assert not interior_mask(torch.ones(5, 7, dtype=torch.bool), None, 2).any()


def test_all_is_interior_without_motion():
    has_data = torch.rand(5, 7, generator=torch.Generator().manual_seed(0)) > 0.3
    assert (interior_mask(has_data, (0.0, 0.0), 2) == has_data).all()


# ---- quality of a forecast -----------------------------------------------------------------------


def test_what_comes_in_from_outside_is_unknown():
    quality = forecast_quality(moving_rain(0, 3, num_frames=4), 4)
    assert quality.shape == (4, 60, 90) and quality.dtype == torch.uint8
    for lead, frame in enumerate(quality, start=1):
        assert (frame[:, : 3 * lead - 1] == UPSTREAM_UNKNOWN).all()
        assert (frame[:, 3 * lead + 1 :] == UPSTREAM_OBSERVED).all()


def test_without_data_there_is_no_forecast_even_where_rain_drifts_in():
    past = moving_rain(0, 3, num_frames=4)
    past[:, :, 50:] = torch.nan
    quality = forecast_quality(past, 2)
    assert (quality[:, :, 50:] == NO_FORECAST).all()
    assert (quality[:, :, 7:50] == UPSTREAM_OBSERVED).all()


def test_half_precision_is_as_good():
    past = moving_rain(0, 3, num_frames=4)
    assert (forecast_quality(past.half(), 2) == forecast_quality(past, 2)).float().mean() > 0.99


def test_what_has_left_the_domain_on_its_way_is_unknown():
    """A vortex: air that was outside in between came from outside, wherever it was before."""
    motion = torch.zeros(2, 9, 9)
    motion[1, :, :3] = 5.0  # the first step back from column 2 leads outside
    motion[1, :, 0] = -5.0  # and were it clamped to column 0, the second would lead back in
    (is_observed,) = _trace_back(torch.ones(1, 9, 9, dtype=torch.bool), motion, 2)
    assert not is_observed[:, 4, 2].any()


def test_blocks_with_little_rain_move_as_the_whole(monkeypatch):
    field = torch.zeros(4, 520, 1400)
    field[:, :, :700] = moving_rain(2, 0, 4, height=520, width=700)
    field[:, 100:105, 1300:1305] = 3.0  # a few pixels of clutter that stay
    motion = motion_field(field)
    assert motion[0, 260, 1390] == pytest.approx(2, abs=0.3)


def test_overlaps_of_a_few_pixels_do_not_win():
    """Two showers that stay: moved by 40 pixels, one lies on the other, and little else is left."""
    field = torch.zeros(4, 64, 64)
    field[:, 2:22, 2:22] = field[:, 42:62, 42:62] = 30.0
    assert mean_motion(field) == pytest.approx((0, 0), abs=0.1)


def test_air_from_a_gap_is_unknown():
    past = moving_rain(0, 3, num_frames=4)
    past[-1, 20:30, 40:50] = torch.nan
    frame = forecast_quality(past, 1)[0]
    assert (frame[22:28, 51:52] == UPSTREAM_UNKNOWN).all()
    assert (frame[22:28, 40:50] == NO_FORECAST).all()
    assert (frame[22:28, 54:60] == UPSTREAM_OBSERVED).all()


def test_nothing_is_known_where_nothing_can_be_followed():
    past = torch.zeros(4, 20, 30)
    past[:, :, :10] = torch.nan
    quality = forecast_quality(past, 2)
    assert (quality[:, :, :10] == NO_FORECAST).all()
    assert (quality[:, :, 10:] == UPSTREAM_UNKNOWN).all()


def test_parts_of_a_large_field_move_for_themselves():
    left, right = (moving_rain(down, 0, 4, height=520, width=700) for down in (2, -2))
    field = torch.cat([left, right], dim=2)
    motion = motion_field(field)
    assert motion.shape == (2, 520, 1400)
    assert motion[0, 30, 100] == pytest.approx(2, abs=0.2)
    assert motion[0, 30, 1300] == pytest.approx(-2, abs=0.2)
    assert motion.diff(dim=2).abs().max() < 0.1  # no jump between blocks


@pytest.mark.parametrize("border", [0, 8])
@pytest.mark.parametrize("age", [0, 1])
def test_beyond_the_data_a_mirror_is_a_guess_and_nothing_is_known(border, age):
    """Rain as strong as its column, with a gap, that moves right by 2 pixels a frame."""
    rain_rate = torch.arange(20.0).expand(12, 20).clone()
    rain_rate[:, 15] = rain_rate[:, 16] = torch.nan
    padded = torch.full((12 + 2 * border, 20 + 2 * border), torch.nan)
    padded[border : border + 12, border : border + 20] = rain_rate
    motion = torch.zeros(2, *padded.shape)
    motion[1] = 2.0
    positions = follow_upstream(motion, motion, 3 + age, 5, border)[age:]
    known, filled = carry_mirrored(padded, positions)
    assert known.shape == filled.shape == (3, 12, 20)
    for frame in range(3):
        came_from = torch.arange(20.0) - 2 * (frame + 1 + age)
        is_gap = (came_from == 15) | (came_from == 16)
        expected = came_from.abs().masked_fill(is_gap, torch.nan).expand(12, 20)
        torch.testing.assert_close(filled[frame], expected, equal_nan=True)
        is_known = (came_from >= 0).expand(12, 20)
        torch.testing.assert_close(
            known[frame], expected.masked_fill(~is_known, torch.nan), equal_nan=True
        )
    assert data_box(padded) == (slice(border, border + 12), slice(border, border + 20))
    assert data_box(torch.full((2, 3, 4), torch.nan)) == (slice(0, 3), slice(0, 4))
