"""Runs of frames that a window may lie in, and what is lost."""

import numpy as np
import pytest

from ldcast.data.archive.runs import describe_lost, find_runs
from ldcast.data.archive.sidecar import State


def times(*minutes: int) -> np.ndarray:
    return np.datetime64("2020-06-01", "s") + np.array(minutes) * np.timedelta64(60, "s")


def runs_of(time, state=None, part=None, num_frames=3):
    state = np.full(len(time), State.GOOD) if state is None else state
    part = np.ones(len(time), bool) if part is None else part
    return find_runs(time, state, part, num_frames, minutes=5)


def test_a_whole_archive_is_one_run():
    runs = runs_of(times(*range(0, 50, 5)))
    assert runs.bounds.tolist() == [[0, 10]] and runs.num_windows == 8 and not runs.lost
    assert describe_lost(runs) == "8 windows in time"


def test_no_run_crosses_missing_times():
    runs = runs_of(times(*range(0, 25, 5), *range(40, 60, 5)))
    assert runs.bounds.tolist() == [[0, 5], [5, 9]]
    assert runs.lost == {"missing times": 2} and runs.num_windows == 3 + 2
    assert "5 windows in time; lost are 2 by missing times" in describe_lost(runs)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (State.BLANK, "without data"),
        (State.UNREADABLE, "cannot be read"),
        (State.NO_RAIN, "no rain"),
        (State.LISTED_MISSING, "calls missing"),
    ],
)
def test_no_run_holds_a_frame_that_cannot_be_used(kind, reason):
    state = np.full(10, State.GOOD)
    state[4] = kind
    runs = runs_of(times(*range(0, 50, 5)), state)
    assert runs.bounds.tolist() == [[0, 4], [5, 10]]
    ((found, count),) = runs.lost.items()
    assert reason in found and count == 3  # those that start at 2, 3 and 4


def test_a_change_of_cadence_ends_a_run():
    runs = runs_of(times(*range(0, 25, 5), *range(30, 80, 10)))
    assert runs.bounds.tolist() == [[0, 5]]
    assert set(runs.lost) == {"another cadence"}
    faster = runs_of(times(*range(0, 25, 5), 22, 24, 26))
    assert faster.bounds.tolist() == [[0, 5]] and set(faster.lost) == {"another cadence"}


def test_days_of_another_part_end_a_run():
    part = np.array([True] * 4 + [False] * 2 + [True] * 4)
    runs = runs_of(times(*range(0, 50, 5)), part=part)
    assert runs.bounds.tolist() == [[0, 4], [6, 10]]
    assert runs.lost == {"days of another part": 2}


def test_windows_that_are_offered_and_lost_are_all():
    rng = np.random.default_rng(0)
    time = times(*np.cumsum(rng.choice([5, 5, 5, 5, 5, 10, 2], 400)))
    state = rng.choice([State.GOOD] * 30 + [State.BLANK, State.UNREADABLE], 400)
    part = np.repeat(rng.random(40) < 0.8, 10)
    runs = runs_of(time, state, part, num_frames=4)
    steps, usable = np.diff(time).astype(int), part & (state == State.GOOD)
    offered = [usable[t : t + 4].all() and (steps[t : t + 3] == 300).all() for t in range(400 - 3)]
    assert runs.num_windows == sum(offered)
    assert sum(runs.lost.values()) == part[:397].sum() - sum(offered)
