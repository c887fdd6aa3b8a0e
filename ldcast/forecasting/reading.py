"""The radar images that one forecast starts from, as --data and its companions name them."""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ldcast.data.archive.events import for_one_forecast
from ldcast.data.event import RainEvent
from ldcast.data.formats import is_zarr
from ldcast.data.past import later_frames, past_event
from ldcast.data.readers.reading_flags import reader_with, reading_of
from ldcast.data.readers.services import READERS, read_frames
from ldcast.data.readers.specs import read_event
from ldcast.data.spans import parse_time
from ldcast.errors import InputError
from ldcast.forecasting.folder import frames_of_folder
from ldcast.products.forecast import check_grid


class Radar(NamedTuple):
    """past: the frames that a forecast starts from, (past_frames, H, W) float32 mm/h. later: what
    was observed at its lead times, (T, H, W), NaN where nothing was; None where no frame is."""

    past: RainEvent
    later: np.ndarray | None


def radar_of(flags: argparse.Namespace) -> Radar:
    """The images that the model, `flags.frames`, starts from, and those that came after.

    The latter only for a picture; of a folder of frames only those are read that it starts from.
    Raises InputError where --data does not have them.
    """
    issue_time = parse_time(flags.issue_time) if flags.issue_time else None
    frames = flags.frames
    num_later = flags.lead_minutes // frames.minutes_per_frame if flags.plot else 0
    how = reading_of(flags, frames.minutes_per_frame)
    read = reader_with(READERS.get(flags.reader, read_event), how)
    if not flags.reader:
        spec = f"synthetic:{flags.seed}" if flags.data is None else flags.data
        event = read(for_one_forecast(spec, how, frames, issue_time, num_later))
    else:
        path = Path(flags.data)
        _check_exists(path)
        if path.is_file() or is_zarr(path) or path.suffix.lower() == ".zarr":
            event = read_frames([path], read, frames.minutes_per_frame)
        else:
            event = frames_of_folder(path, read, frames, issue_time)
    check_grid(event.grid)
    past = past_event(event, frames, issue_time)
    if not num_later:
        return Radar(past, None)
    return Radar(past, later_frames(event, past.time[-1], num_later, frames.minutes_per_frame))


def _check_exists(path: Path) -> None:
    if not path.exists():
        raise InputError(
            f"--data {path}: expected a file or folder that exists; a folder takes no @START/END: "
            "use --issue-time"
        )
