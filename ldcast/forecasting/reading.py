"""The radar images that one forecast starts from, as --data and its companions name them."""

import argparse
from pathlib import Path

import numpy as np

from ldcast.data.event import RainEvent
from ldcast.data.fields import fields_at
from ldcast.data.formats import is_zarr
from ldcast.data.past import past_event
from ldcast.data.readers.reading_flags import reader_with, reading_of
from ldcast.data.readers.services import READERS, read_frames
from ldcast.data.readers.specs import read_event
from ldcast.data.spans import parse_time
from ldcast.errors import InputError
from ldcast.forecasting.folder import frames_of_folder
from ldcast.nowcast.ldcast import LDCast
from ldcast.products.forecast import check_grid


def past_of(flags: argparse.Namespace) -> RainEvent:
    """The frames that the model, `flags.frames`, starts from, (past_frames, H, W) float32 mm/h.

    Raises InputError where --data does not have them.
    """
    issue_time = parse_time(flags.issue_time) if flags.issue_time else None
    frames = flags.frames
    how = reading_of(flags, frames.minutes_per_frame)
    read = reader_with(READERS.get(flags.reader, read_event), how)
    if not flags.reader:
        event = read(f"synthetic:{flags.seed}" if flags.data is None else flags.data)
    else:
        path = Path(flags.data)
        _check_exists(path)
        if path.is_file() or is_zarr(path) or path.suffix.lower() == ".zarr":
            event = read_frames([path], read, frames.minutes_per_frame)
        else:
            event = frames_of_folder(path, read, frames, issue_time)
    check_grid(event.grid)
    return past_event(event, frames, issue_time)


def forecast_fields(model: LDCast, past: RainEvent, num_frames: int) -> dict[str, np.ndarray]:
    """What a model takes besides the past rain, from the event that the past is of.

    num_frames: of the forecast. Returns name -> (F, c, H, W), for past and future frames.
    Raises InputError for a field that the event lacks or that ends too soon.
    """
    frames = model.frames
    num_rounds = -(-num_frames // frames.future_frames)
    number = np.arange(1 - frames.past_frames, num_rounds * frames.future_frames + 1)
    times = past.time[-1] + frames.step * number
    later = (num_rounds - 1) * frames.future_frames
    needs = {
        name: need._replace(num_frames=need.num_frames + later)
        if need.num_frames > frames.past_frames
        else need
        for name, need in model.fields.items()
    }
    return fields_at(past, needs, times)


def _check_exists(path: Path) -> None:
    if not path.exists():
        raise InputError(
            f"--data {path}: expected a file or folder that exists; with --reader, spans are not "
            "for choosing frames: give --issue-time"
        )
