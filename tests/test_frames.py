"""How a model counts time: lead times, past times, and numbers that an autoencoder divides."""

from dataclasses import replace

import numpy as np
import pytest
from tiny_models import tiny_config

from ldcast.errors import InputError
from ldcast.frames import FrameConfig, nearest_leads
from ldcast.nowcast.ldcast import build
from ldcast.settings import from_dict

pytestmark = pytest.mark.core


def test_the_defaults_are_the_published_ones():
    frames = from_dict(FrameConfig, {})
    assert (frames.past_frames, frames.future_frames, frames.minutes_per_frame) == (4, 20, 5)
    assert frames.lead_minutes == tuple(range(5, 101, 5)) and frames.num_frames == 24


def test_times_follow_the_minutes():
    frames = FrameConfig(past_frames=3, future_frames=2, minutes_per_frame=10)
    assert frames.lead_minutes == (10, 20)
    assert frames.leads(3).tolist() == [10, 20, 30]
    assert frames.is_continued(3).tolist() == [False, False, True]
    assert frames.ages.tolist() == np.array([1200, 600, 0], "m8[s]").tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"past_frames": 10}, "past_frames: got 10, expected a multiple of 4, .*: 8 or 12$"),
        ({"future_frames": 3}, "future_frames: got 3, expected a multiple of 4, .*: 4$"),
    ],
)
def test_counts_that_the_autoencoder_does_not_divide_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        build(replace(tiny_config(), frames=FrameConfig(**changes)))


@pytest.mark.parametrize("changes", [{"past_frames": 1}, {"minutes_per_frame": 0}])
def test_impossible_frames_are_refused(changes):
    with pytest.raises(InputError, match=f"{next(iter(changes))}: got ., expected . or more"):
        FrameConfig(**changes)


@pytest.mark.parametrize(
    ("minutes", "num_frames", "shown"),
    [(5, 20, [5, 15, 30, 60, 100]), (10, 12, [10, 30, 60, 100, 120]), (30, 2, [30, 60])],
)
def test_shown_leads_are_the_nearest_and_the_last(minutes, num_frames, shown):
    leads = FrameConfig(future_frames=num_frames, minutes_per_frame=minutes).lead_minutes
    chosen = nearest_leads(leads, (5, 15, 30, 60, 100))
    assert [leads[index] for index in chosen] == shown
