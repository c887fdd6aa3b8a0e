"""Cases: reproducible, different, of every wetness, never from an image without data."""

import numpy as np
import pytest

from ldcast.data.crops import read_window
from ldcast.data.event import RainEvent
from ldcast.data.synthetic import synthetic_event
from ldcast.errors import InputError
from ldcast.frames import FrameConfig
from ldcast.verification.cases import draw_cases

FRAMES = FrameConfig()

FIVE_MINUTES = np.timedelta64(300, "s")
CROP = 32  # pixels


def make_event(rain_rate: np.ndarray, **grid) -> RainEvent:
    time = np.datetime64("2020-06-01", "s") + np.arange(len(rain_rate)) * FIVE_MINUTES
    return RainEvent(rain_rate.astype(np.float32), time, grid, name="storm")


def test_cases_are_reproducible_different_and_say_what_they_are():
    events = [synthetic_event(seed, 30, 48, 64) for seed in range(2)]
    cases = draw_cases(events, FRAMES, 6, CROP, seed=3)
    assert cases == draw_cases(events, FRAMES, 6, CROP, seed=3)
    assert cases != draw_cases(events, FRAMES, 6, CROP, seed=4)
    assert len({case.window for case in cases}) == len({case.seed for case in cases}) == 6
    for case in cases:
        event = events[case.window.event]
        rain_rate = read_window(events, case.window, FRAMES.num_frames, CROP).rain_rate
        assert rain_rate.shape == (1, 24, CROP, CROP)
        assert case.event == event.name
        assert case.issue_time == event.time[case.window.first_frame] + 3 * FIVE_MINUTES
        assert case.wet_share == pytest.approx((rain_rate >= 0.1).float().mean().item())


def test_cases_keep_the_share_of_wet_windows():
    rain_rate = np.zeros((123, CROP, CROP + 99))  # 100 first frames, 100 first columns
    rain_rate[48:] = 1  # three quarters of the windows end there
    events = [make_event(rain_rate)]
    for seed in range(16):
        cases = draw_cases(events, FRAMES, 8, CROP, seed)
        num_wet = sum(case.wet_share > 0 for case in cases)
        assert num_wet in (5, 6, 7)  # plain draws would leave this range in every fifth set
        assert [case.wet_share for case in cases] == sorted(case.wet_share for case in cases)


def test_no_case_starts_from_an_image_without_data():
    rain_rate = np.ones((60, CROP, CROP))
    rain_rate[::2] = np.nan
    for case in draw_cases([make_event(rain_rate)], FRAMES, 4, CROP, seed=0):
        assert (case.window.first_frame + 3) % 2 == 1


def test_too_few_windows_for_the_cases():
    with pytest.raises(InputError, match=r"1 .*expected 2.* --data"):
        draw_cases([synthetic_event(0, FRAMES.num_frames, CROP, CROP)], FRAMES, 2, CROP, seed=0)


def test_cases_know_the_size_of_a_pixel():
    rain_rate = np.ones((FRAMES.num_frames, CROP, CROP))
    (case,) = draw_cases([make_event(rain_rate)], FRAMES, 1, CROP, seed=0)
    assert case.pixel_km == 1
    (case,) = draw_cases([make_event(rain_rate, pixel_size_m=2000)], FRAMES, 1, CROP, seed=0)
    assert case.pixel_km == 2


def test_cases_whose_past_cannot_be_filled_are_left_out_and_counted():
    """Every third image is blank: the newest of some pasts, an earlier one, filled, of others."""
    rain_rate = np.tile(synthetic_event(0, 1, 48, 48).rain_rate, (60, 1, 1))
    rain_rate[::3] = np.nan
    said = []
    cases = draw_cases([make_event(rain_rate)], FRAMES, 4, CROP, 0, said.append)
    assert all((case.window.first_frame + 3) % 3 for case in cases)
    (line,) = said
    assert "of 32 drawn cases: more than half of a past frame is without data" in line
    num_left_out = int(line.split()[2])
    assert 5 < num_left_out < 20
    assert draw_cases([make_event(rain_rate)], FRAMES, 4, CROP, 0) == cases  # nothing need be said


def test_nothing_is_said_where_every_case_has_its_past():
    said = []
    draw_cases([synthetic_event(0, 30, 48, 48)], FRAMES, 4, CROP, 0, said.append)
    assert said == []


def test_too_few_cases_for_their_gaps_are_said_in_the_error():
    rain_rate = np.ones((FRAMES.num_frames, CROP, CROP))
    rain_rate[:3] = np.nan  # nothing tells what moved
    match = r"found 0 different cases \(left out 8 of 8 drawn cases: .*\), expected 1: give"
    with pytest.raises(InputError, match=match):
        draw_cases([make_event(rain_rate)], FRAMES, 1, CROP, seed=0)
