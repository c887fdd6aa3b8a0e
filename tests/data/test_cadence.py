"""Times with seconds, and frames that come more often than every 5 minutes."""

from dataclasses import replace

import numpy as np
import pytest

from ldcast.data.cadence import (
    describe_faster,
    frame_step,
    is_usable,
    round_event,
    rounded_times,
    times_before_rounding,
    unrounded,
)
from ldcast.data.event import RainEvent
from ldcast.data.event_files import write_event
from ldcast.data.past import past_event
from ldcast.data.readers.specs import read_event
from ldcast.errors import InputError
from ldcast.frames import FrameConfig

FRAMES = FrameConfig()

START = np.datetime64("2024-07-11T12:00:00", "s")


def at(*seconds: float) -> np.ndarray:
    """Times so many seconds after 12:00."""
    return START + np.array(seconds, "timedelta64[s]")


def every(seconds: float, num: int = 12, first: float = 0) -> np.ndarray:
    return at(*(int(first + seconds * index) for index in range(num)))


def event_of(time: np.ndarray, **changes) -> RainEvent:
    """Frame i holds i mm/h everywhere."""
    rain_rate = np.ones((len(time), 4, 5), np.float32) * np.arange(len(time))[:, None, None]
    return RainEvent(rain_rate, time, name="storm", **changes)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((3, 298, 570, 930), (0, 300, 600, 900)),
        ((-30, 330, 600), (0, 300, 600)),
        ((31, 331, 631), (31, 331, 631)),  # as even as it can be
        ((0, 300, 631, 900), (0, 300, 631, 900)),
        ((122, 418, 721), (120, 420, 720)),  # the grid of 12:02, 12:07, ...
        ((120, 420, 720), (120, 420, 720)),
        ((120, 420, 723), (120, 420, 720)),
        ((149, 451, 749), (120, 420, 720)),
        ((118, 420, 785), (118, 420, 785)),  # no grid: 65 s apart in it
        ((0, 20, 300, 600), (0, 20, 300, 600)),  # the nearest moves
        ((-10, 5, 300), (-10, 0, 300)),
        ((-15, 15, 300), (-15, 0, 300)),
        ((20, 321, 619, 885), (0, 300, 600, 900)),
        ((27, 347, 630, 944), (60, 360, 660, 960)),  # all of them near 12:01, ...
        ((132, 415, 723, 1049, 1291), (120, 420, 720, 1020, 1320)),  # 29 s from 12:22
        ((7,), (0,)),
        ((127,), (127,)),
        ((), ()),
    ],
)
def test_times_near_the_grid_are_put_on_it(given, expected) -> None:
    rounded = rounded_times(at(*given), 5)
    assert (rounded - START).astype(int).tolist() == list(expected)
    assert rounded.dtype == np.dtype("datetime64[s]")
    assert (rounded_times(rounded, 5) == rounded).all()


@pytest.mark.parametrize("seconds", [60, 150, 360, 600, 120, 180, 240])
def test_exact_frames_of_any_cadence_stay(seconds) -> None:
    time = every(seconds)
    assert (rounded_times(time, 5) == time).all()


@pytest.mark.parametrize("seconds", [90, 120, 180, 240, 360, 420])
def test_what_does_not_divide_5_minutes_is_never_made_to(seconds) -> None:
    time = every(seconds, 40, first=30)  # rounded, 2 minutes would be 4 or 6 minutes apart
    assert not is_usable(seconds, 5)
    assert (rounded_times(time, 5) == time).all()


def test_many_frames_stay_in_order() -> None:
    rng = np.random.default_rng(0)
    for spread in (40, 300, 4000):
        seconds = np.unique(rng.integers(0, spread * 60, 300))
        rounded = rounded_times(at(*seconds), 5)
        assert (np.diff(rounded) > np.timedelta64(0, "s")).all()
        assert np.abs(rounded - at(*seconds)).max() <= np.timedelta64(60, "s")


def test_an_event_keeps_its_times_as_read_and_says_so() -> None:
    event = event_of(at(2, 299, 600, 900))
    rounded = round_event(event, 5)
    assert rounded.time.tolist() == at(0, 300, 600, 900).tolist()
    assert rounded.time_as_read.tolist() == event.time.tolist()
    assert len(rounded.notes) == 1 and "were rounded to 5 minutes" in rounded.notes[0]
    assert unrounded(rounded).time.tolist() == event.time.tolist()
    assert times_before_rounding(rounded.select(slice(2, 4))) is None
    assert times_before_rounding(rounded).tolist() == event.time.tolist()
    assert times_before_rounding(event) is None
    exact = event_of(every(300))
    assert round_event(exact, 5) is exact


def test_intervals_that_touch_do_so_after_rounding() -> None:
    ends = at(-10, 310, 595, 900)
    starts = at(-300, -10, 310, 595)
    rounded = round_event(event_of(ends, interval_start=starts), 5)
    assert rounded.interval_start.tolist() == at(-300, 0, 300, 600).tolist()
    assert rounded.time.tolist() == at(0, 300, 600, 900).tolist()


def test_frames_without_an_interval_get_none() -> None:
    starts = np.array(["NaT", "2024-07-11T12:00:05"], "datetime64[s]")
    rounded = round_event(event_of(at(5, 305), interval_start=starts), 5)
    assert np.isnat(rounded.interval_start[0]) and rounded.interval_start[1] == START


def test_an_interval_of_seconds_does_not_vanish() -> None:
    event = event_of(at(10, 300), interval_start=at(-20, 280))
    assert round_event(event, 5).interval_start.tolist() == at(-20, 280).tolist()


@pytest.mark.parametrize(
    ("seconds", "line"),
    [
        (60, "frames are 1 minute apart: every fifth one is used"),
        (150, "frames are 2.5 minutes apart: every second one is used"),
        (61, "frames are 1 minute apart: every fifth one is used"),
        (30, "frames are 0.5 minutes apart: every 10th one is used"),
        (300, ""),
        (280, ""),
        (600, ""),
        (120, ""),
    ],
)
def test_a_faster_cadence_is_described(seconds, line) -> None:
    assert describe_faster(seconds, 5) == line
    assert frame_step(every(seconds), 5) == seconds


# ---- events --------------------------------------------------------------------------------------


def test_a_file_with_seconds_is_forecast_from(tmp_path) -> None:
    write_event(event_of(at(2, 299, 615, 888)), tmp_path / "storm.npz")
    event = read_event(tmp_path / "storm.npz")
    past = past_event(event, FRAMES)
    assert past.time.tolist() == at(0, 300, 600, 900).tolist()
    assert past.time_as_read.tolist() == at(2, 299, 615, 888).tolist()
    # A time as it was read means the frame that it was read of.
    assert (
        past_event(event, FRAMES, at(888)[0]).time[-1]
        == at(900)[0]
        == past_event(event, FRAMES, at(900)[0]).time[-1]
    )
    # Written again, it still knows them.
    write_event(event, tmp_path / "again.npz")
    again = read_event(tmp_path / "again.npz")
    assert again.time.tolist() == event.time.tolist()
    assert again.time_as_read.tolist() == event.time_as_read.tolist()


def test_a_span_chooses_by_rounded_times(tmp_path) -> None:
    write_event(event_of(at(-4, 299, 615, 896)), tmp_path / "storm.npz")
    span = f"{tmp_path / 'storm.npz'}@2024-07-11T12:00/2024-07-11T12:15"
    assert read_event(span).time.tolist() == at(0, 300, 600).tolist()


@pytest.mark.parametrize(("seconds", "every_nth"), [(60, 5), (150, 2)])
def test_of_a_faster_event_some_frames_are_used_and_that_is_said(seconds, every_nth) -> None:
    event = event_of(every(seconds, 18))
    past = past_event(event, FRAMES)
    assert past.rain_rate[:, 0, 0].tolist() == [17 - every_nth * age for age in (3, 2, 1, 0)]
    assert past.notes == (describe_faster(seconds, 5),)
    jittered = replace(event, time=event.time + np.arange(18) % 3)
    past = past_event(round_event(jittered, 5), FRAMES)
    assert past.time[-1] == at(every_nth * seconds * (17 * seconds // 300)).item()


@pytest.mark.parametrize("seconds", [90, 120, 180, 240, 360, 600])
def test_other_cadences_are_refused_without_a_syntax_that_does_not_fit(seconds) -> None:
    event = round_event(event_of(every(seconds, 20)), 5)
    with pytest.raises(InputError, match=f"are {seconds / 60:g} minutes apart throughout") as error:
        past_event(event.select(slice(0, 5)), FRAMES)
    assert "@" not in str(error.value) and "span" not in str(error.value)


def test_too_few_minutes_of_a_faster_event_are_refused() -> None:
    with pytest.raises(InputError, match=r"its 10 frames, 1 minute apart from .*too few"):
        past_event(event_of(every(60, 10)), FRAMES)


def test_an_issue_time_that_is_not_there_says_what_is() -> None:
    with pytest.raises(InputError, match=r"no frame at .*12:31; the nearest is .*12:30, of frames"):
        past_event(event_of(every(300)), FRAMES, np.datetime64("2024-07-11T12:31"))
