"""The cases to verify: a small, reproducible and representative set of crops."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ldcast.data.archive.days import name_without_part
from ldcast.data.crops import read_window, wet_share
from ldcast.data.event import RainEvent, check_distinct
from ldcast.data.pickers import Window
from ldcast.data.picking import build_picker
from ldcast.data.pieces import Piece, grid_of_piece
from ldcast.data.tiles import MIN_VALID_SHARE
from ldcast.errors import InputError
from ldcast.frames import FrameConfig
from ldcast.motion import fill_gaps
from ldcast.rain import valid_mask
from ldcast.seeds import STREAM_CASE, keyed_rng

CANDIDATES_PER_CASE = 8


@dataclass(frozen=True)
class Case:
    """One forecast start on one crop.

    window: the crop's place among the events; its frames are past, then future.
    event: name of the event. source: where that was read from, the same for all spans of a file.
        Of an archive, each day is an event.
    issue_time: UTC, the time of the newest past frame.
    wet_share: of the valid pixels of all frames, past and future, the share with 0.1 mm/h or more.
    seed: for the noise of this case's forecasts, different for each case.
    pixel_km: side of a pixel; 1 where the event does not say.
    frames: how many are past and future, and how far apart they are.
    """

    window: Window
    event: str
    issue_time: np.datetime64
    wet_share: float
    seed: int
    pixel_km: float = 1.0
    source: str = ""
    frames: FrameConfig = field(default_factory=FrameConfig)


def draw_cases(
    events: list[RainEvent],
    frames: FrameConfig,
    num_cases: int,
    crop_size: int,
    seed: int,
    say: Callable[[str], None] | None = None,
) -> list[Case]:
    """Different cases, driest first: `draw_candidates`, thinned by `spread_over`.

    No wetness is favoured: a mean over the cases estimates the mean over all windows, as plain
    draws do, but hangs less on chance. Windows may overlap, so cases from few events are far from
    independent.

    frames: of the models. crop_size: pixels. say: as for `draw_candidates`.
    Raises InputError as `draw_candidates` does, and where there are too few windows.
    """
    notes: list[str] = []
    num_draws = CANDIDATES_PER_CASE * num_cases
    candidates = draw_candidates(events, frames, num_draws, crop_size, seed, notes.append)
    if len(candidates) < num_cases:
        why = f" ({notes[0]})" if notes else ""
        raise InputError(
            f"found {len(candidates)} different cases{why}, expected {num_cases}: give more "
            "--data, fewer --cases or a smaller --crop-size"
        )
    for note in notes if say is not None else []:
        say(note)
    return spread_over(candidates, num_cases)


def draw_candidates(
    events: list[RainEvent],
    frames: FrameConfig,
    num_draws: int,
    crop_size: int,
    seed: int,
    say: Callable[[str], None] | None = None,
) -> list[Case]:
    """Different cases, driest first, of windows drawn uniformly over all windows of all events.

    Dropped are repeated windows and those of which a past frame lacks more than half of its data,
    after `fill_gaps`, so there may be fewer cases than draws.
    say: takes a line on how many were dropped for their gaps, if any were.
    Raises InputError for events that share a frame or that the uniform picker refuses.
    """
    check_distinct(events)
    minutes = frames.minutes_per_frame
    picker = build_picker("uniform", events, frames.num_frames, crop_size, minutes)
    candidates: dict[Window, Case] = {}
    num_dropped = 0
    for index in range(num_draws):
        rng = keyed_rng(seed, STREAM_CASE, index)
        window = picker(rng)
        rain_rate = read_window(events, window, frames.num_frames, crop_size).rain_rate[0]
        past = fill_gaps(rain_rate[: frames.past_frames], frames.minutes_per_frame).rain_rate
        if valid_mask(past).float().mean(dim=(1, 2)).min() < MIN_VALID_SHARE:
            num_dropped += 1
            continue
        event = events[window.event]
        issue_time = event.time[window.first_frame + frames.past_frames - 1]
        name, source = event.name, event.source or event.name
        if event.is_stored:  # each day of an archive counts as an event of its own
            day = np.datetime_as_string(issue_time, "D")
            name, source = (f"{of}@{day}" for of in (name_without_part(name), source))
        candidates[window] = Case(
            window,
            name,
            issue_time=issue_time,
            wet_share=wet_share(rain_rate).item(),
            seed=int(rng.integers(2**31)),
            pixel_km=float(event.grid.get("pixel_size_m", 1000.0)) / 1000,
            source=source,
            frames=frames,
        )
    if num_dropped and say is not None:
        say(
            f"left out {num_dropped} of {num_draws} drawn cases: more than half of a past frame is "
            "without data that could be filled in"
        )
    return sorted(candidates.values(), key=lambda case: case.wet_share)


def spread_over(candidates: list[Case], num_cases: int) -> list[Case]:
    """The middle one of each of `num_cases` runs of candidates, in their order."""
    ranks = (np.arange(num_cases) + 0.5) * len(candidates) / num_cases
    return [candidates[int(rank)] for rank in ranks]


def case_grid(events: list[RainEvent], case: Case, crop_size: int) -> dict[str, Any]:
    """What the event says of its grid, with the corners of the crop."""
    event, (y, x) = events[case.window.event], (case.window.y, case.window.x)
    crop = Piece(slice(y, y + crop_size), slice(x, x + crop_size))
    return grid_of_piece(event.grid, event.rain_rate.shape[1:], crop)
