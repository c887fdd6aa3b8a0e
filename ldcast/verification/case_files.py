"""What a forecast of another system starts from: the past frames of each case, in a file.

A case's name says what its file is called and what its forecasts belong to: event, issue time, the
crop's first row and column, and a digest of the past frames. So a forecast that was made of other
rain (data that were read again, another piece of the domain) is of no case, whatever its file is
called.
"""

import hashlib
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ldcast.data.archive.days import name_without_part
from ldcast.data.checks import format_time
from ldcast.data.crops import read_window
from ldcast.data.event import RainEvent
from ldcast.data.event_files import write_event
from ldcast.errors import InputError
from ldcast.machine.folders import check_writable
from ldcast.motion import fill_gaps
from ldcast.verification.cases import Case, case_grid

CASE_ENTRY = "case"  # of a past and, where its system copies it, of a forecast


def case_names(events: list[RainEvent], cases: Sequence[Case], crop_size: int) -> list[str]:
    """The name of each case, different for each; reads their past frames.

    Raises InputError where two would have the same, of copies of an event.
    """
    names = [_name(case, _read_past(events, case, crop_size)) for case in cases]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(
            f"{twice.count(twice[0])} cases are called {twice[0]}, expected one: give each event "
            "of --data once, and files of different events different names"
        )
    return names


def write_cases(
    events: list[RainEvent], cases: Sequence[Case], crop_size: int, folder: Path
) -> None:
    """Writes DIR/NAME.npz for each case, an event file of its past frames: no later one is read.

    rain_rate: (past_frames, H, W) float32 mm/h, gaps filled as for every forecaster of
        `ldcast.verify`; time; the crop's grid; and `case`, the case's name.
    Files of the same cases are replaced.
    Raises InputError, before anything is written, for a folder that cannot be written or that holds
    other .npz files, which would be taken for cases.
    """
    names = case_names(events, cases, crop_size)
    _check_folder(folder, names)
    for name, case in zip(names, cases, strict=True):
        past = _read_past(events, case, crop_size)
        first = case.window.first_frame
        frames = slice(first, first + case.frames.past_frames)
        event = RainEvent(
            fill_gaps(past, case.frames.minutes_per_frame).rain_rate.numpy(),
            events[case.window.event].time[frames],
            {**case_grid(events, case, crop_size), CASE_ENTRY: name},
            name,
        )
        write_event(event, folder / f"{name}.npz")


def _read_past(events: list[RainEvent], case: Case, crop_size: int) -> Tensor:
    """(past_frames, H, W) mm/h, as it is in the event."""
    return read_window(events, case.window, case.frames.past_frames, crop_size).rain_rate[0]


def _name(case: Case, past: Tensor) -> str:
    event = name_without_part(case.event).partition("@")[0]
    time = re.sub("[-:]", "", format_time(case.issue_time))
    values = torch.nan_to_num(past, nan=-1.0).contiguous().numpy()  # NaN has many bit patterns
    digest = hashlib.sha256(f"{values.shape}".encode() + values.tobytes()).hexdigest()[:8]
    place = f"y{case.window.y}_x{case.window.x}"
    return re.sub(r"[^\w.-]", "_", f"{event}_{time}_{place}_{digest}")


def _check_folder(folder: Path, names: list[str]) -> None:
    check_writable(folder, "--write-cases")
    others = sorted(
        {path.name for path in folder.glob("*.npz")} - {f"{name}.npz" for name in names}
    )
    if others:
        raise InputError(
            f"{folder} holds {len(others)} .npz files that are none of the {len(names)} cases, "
            f"such as {others[0]}, expected none: name another folder, or empty it"
        )
    for name in names:
        path = folder / f"{name}.npz"
        if path.is_file() and _is_forecast(path):
            raise InputError(
                f"{path} is a forecast, which past frames would replace: name another folder"
            )


def _is_forecast(path: Path) -> bool:
    """Whether an .npz file has lead times; not of one that is damaged, which may be replaced."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return "lead_minutes" in file.files
    except (OSError, ValueError, zipfile.BadZipFile):
        return False
