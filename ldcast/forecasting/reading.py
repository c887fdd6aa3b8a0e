"""The four radar images that one forecast starts from, as --data and its companions name them."""

import argparse
from pathlib import Path

import numpy as np

from ldcast.config import FUTURE_FRAMES, LEAD_MINUTES, MINUTES_PER_FRAME, PAST_FRAMES
from ldcast.data.archive import RainEvent, parse_time, past_event, read_event
from ldcast.data.fields import fields_at
from ldcast.data.formats import is_zarr
from ldcast.data.reading_flags import reader_with, reading_of
from ldcast.data.services import READERS, read_frames
from ldcast.errors import InputError
from ldcast.forecasting.folder import frames_of_folder
from ldcast.nowcaster import LDCast
from ldcast.products.forecast import check_grid


def past_of(flags: argparse.Namespace) -> RainEvent:
    """The four frames to start from, (4, H, W) float32 mm/h.

    Raises InputError where --data does not have them.
    """
    issue_time = parse_time(flags.issue_time) if flags.issue_time else None
    read = reader_with(READERS.get(flags.reader, read_event), reading_of(flags))
    if not flags.reader:
        event = read(f"synthetic:{flags.seed}" if flags.data is None else flags.data)
    else:
        path = Path(flags.data)
        _check_exists(path)
        if path.is_file() or is_zarr(path) or path.suffix.lower() == ".zarr":
            event = read_frames([path], read)
        else:
            event = frames_of_folder(path, read, issue_time)
    check_grid(event.grid)
    return past_event(event, issue_time)


def forecast_fields(model: LDCast, past: RainEvent, lead_minutes: int) -> dict[str, np.ndarray]:
    """What a model takes besides the past rain, from the event that the past is of.

    lead_minutes: of the last frame. Returns name -> (F, c, H, W), for past and future frames.
    Raises InputError for a field that the event lacks or that ends too soon.
    """
    num_rounds = -(-lead_minutes // LEAD_MINUTES[-1])
    last = num_rounds * FUTURE_FRAMES
    step = np.timedelta64(MINUTES_PER_FRAME, "m")
    times = past.time[-1] + step * np.arange(1 - PAST_FRAMES, last + 1)
    return fields_at(past, model.fields, times)


def _check_exists(path: Path) -> None:
    if not path.exists():
        raise InputError(
            f"--data {path}: expected a file or folder that exists; with --reader, spans are not "
            "for choosing frames: give --issue-time"
        )
