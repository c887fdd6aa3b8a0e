"""Files of radar rain in, frames out: the event file and the checks that every use of it needs."""

import os
import re
import shlex
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from ldcast.data.cadence import (
    can_thin,
    describe_faster,
    frame_step,
    in_minutes,
    round_event,
)
from ldcast.data.checks import (
    FROM_DBZ,
    checked_rain_rate,
    checked_time,
    format_time,
    mm_per_hour,
)
from ldcast.data.fields import Field, arrays_of_fields, fields_of_arrays
from ldcast.data.formats import next_step
from ldcast.data.grids import with_metres
from ldcast.data.pieces import cut
from ldcast.data.reading import AS_STATED, Reading
from ldcast.errors import InputError
from ldcast.frames import FrameConfig
from ldcast.machine.files import open_atomically
from ldcast.rain import as_float32

GRIDDED_SUFFIXES = (".nc", ".nc4", ".cdf", ".zarr")

_CLOCK_MINUTES = 1  # that a clock may be wrong by without a word

_TIME = re.compile(r"\d{4}-\d\d-\d\d(T\d\d(:\d\d(:\d\d)?)?)?Z?")
_SPAN = re.compile(r"(?P<path>.+)@(?P<start>[\dTZ:-]*)/(?P<end>[\dTZ:-]*)")
_SYNTHETIC = re.compile(r"synthetic(:(?P<seed>.*))?")
_WRITE_AGAIN = "fetch it again or write plain arrays with numpy.savez_compressed"
_FORMS = (
    "PATH.npz, PATH.nc or PATH.zarr, each with @START/END if wanted, of ISO times (END not "
    "included), or synthetic:SEED"
)
_CONVERT = "files of weather services: python -m ldcast.data.convert"


# Fields of an event that have one entry for each frame.
PER_FRAME = ("rain_rate", "time", "interval_start", "time_as_read")


@dataclass(frozen=True)
class RainEvent:
    """A stretch of radar images on one domain, in order of time.

    rain_rate: (T, H, W) float16 or float32, mm/h, row 0 = north, NaN = no data.
    time: (T,) datetime64[s] UTC, the time of each frame, strictly increasing.
    grid: what the file says of its grid (`pixel_size_m`, `projection`, `x1 y1 x2 y2`, ...), to be
        copied into forecasts.
    name: short, for messages and tables.
    source: where it was read from, the same for all its spans; empty where it was not read.
    interval_start: (T,) datetime64[s], where the frames are amounts of rain made into rates, or
        means: when the interval of each began, which ends at `time`; NaT for a frame of an instant.
        None where all are.
    time_as_read: (T,) datetime64[s], the times before they were rounded; None where none was.
    notes: what the user should know of how it was read, one line each.
    fields: what it carries besides rain, by name, on the same pixels but with times of their own.
    """

    rain_rate: np.ndarray
    time: np.ndarray
    grid: dict[str, Any] = field(default_factory=dict)
    name: str = "event"
    source: str = ""
    interval_start: np.ndarray | None = None
    time_as_read: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    fields: dict[str, Field] = field(default_factory=dict)

    def select(self, frames: slice | np.ndarray) -> "RainEvent":
        """Some of the frames, by a slice (then as views) or by their indices."""
        per_frame = {
            name: None if getattr(self, name) is None else getattr(self, name)[frames]
            for name in PER_FRAME
        }
        return replace(self, **per_frame)


def read_event(spec: str | Path, how: Reading = AS_STATED) -> RainEvent:
    """The event that a `--data` argument names.

    spec: `PATH` of an event file, of NetCDF (.nc, .nc4, .cdf) or of a Zarr folder (.zarr),
        `synthetic:SEED` or `synthetic` (seed 0), of frames `how.minutes` apart. Each may end in
        `@START/END` (ISO times, UTC; END not included; either may be left out); of NetCDF and Zarr
        only that span is loaded.
    how: its piece is cut out, and its times are rounded.
    An event file's arrays on the grid of the rain become `fields`, see `ldcast.data.fields`.
    Returns the event with rain_rate as stored (float16 or float32; float64 becomes float32) and
    values within rounding below zero set to 0. Times within 30 s of the grid of whole `how.minutes`
    are rounded to it; START and END choose by those.
    Raises InputError if the file or the span is not what is described here.
    """
    source, start, end = _split_span(str(spec))
    if synthetic := _SYNTHETIC.fullmatch(source):
        event = cut(_synthetic_event(synthetic["seed"], how.minutes), how)
    elif _is_gridded(Path(source)):
        from ldcast.data.readers.gridded import read_gridded  # imports RainEvent from here

        event = read_gridded(Path(source), how, start, end)
    else:
        event = cut(read_npz(Path(source), how), how)
    event = round_event(event, how.minutes)
    return _select_span(event, start, end, how.minutes) if start or end else event


def spec_source(spec: str) -> str:
    """The path, or `synthetic...`, of a spec, without its span."""
    return _split_span(spec)[0]


def absolute_spec(spec: str) -> str:
    """The same data from any working folder."""
    source, start, end = _split_span(spec)
    if not _SYNTHETIC.fullmatch(source):
        source = os.path.abspath(source)
    return f"{source}@{start}/{end}" if start or end else source


def check_apart(train: list[RainEvent], validation: list[RainEvent]) -> None:
    """Raises InputError where a training and a validation event share a frame."""
    for first in train:
        for second in validation:
            _check_no_shared_frame(first, second, "training and validation")


def check_distinct(events: list[RainEvent]) -> None:
    """Raises InputError where two of the events share a frame."""
    for index, first in enumerate(events):
        for second in events[index + 1 :]:
            _check_no_shared_frame(first, second, "two of the events")


def _check_no_shared_frame(first: RainEvent, second: RainEvent, which: str) -> None:
    if not first.source or first.source != second.source:
        return
    shared = np.intersect1d(first.time, second.time)
    if len(shared):
        raise InputError(
            f"{which} share {len(shared)} frames of {first.source}, from "
            f"{format_time(shared[0])} to {format_time(shared[-1])}: choose spans apart"
        )


def notes_of(events: list[RainEvent]) -> list[str]:
    """What the user should know of how the events were read, one line each, none twice."""
    lines = [f"{event.name}: {note}" for event in events for note in event.notes]
    return list(dict.fromkeys(lines))


def write_event(event: RainEvent, path: str | Path) -> None:
    """Write an event file that `read_event` reads; `path` appears complete or not at all.

    Raises InputError if the name does not end in .npz, OSError if it cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".npz":
        raise InputError(f"cannot write an event to '{path}': expected a name that ends in .npz")
    as_read = {} if event.time_as_read is None else {"time_as_read": event.time_as_read}
    with open_atomically(path) as file:
        np.savez_compressed(
            file,
            rain_rate=event.rain_rate,
            time=event.time,
            **as_read,
            **event.grid,
            **arrays_of_fields(event.fields),
        )


def check_cadence(event: RainEvent, minutes: int, flag: str = "") -> None:
    """Raises InputError if two neighbouring frames are not `minutes` apart, naming the first two.

    flag: by which the caller takes another cadence; empty where it has none.
    An event of one frame passes.
    """
    steps = np.diff(event.time).astype("timedelta64[s]").astype(np.int64)
    wrong = np.flatnonzero(steps != 60 * minutes)
    if len(wrong) == 0:
        return
    first, is_even = wrong[0], bool((steps == steps[0]).all())
    remedies = []
    if can_thin(frame_step(event.time, minutes), minutes):
        remedies.append(f"leave out those between by {_thinning_command(event, minutes)}")
    elif not is_even:
        remedies.append("select a stretch without this break by PATH@START/END")
    if is_even:
        can_set = flag and steps[0] % 60 == 0
        remedies.append(
            f"give {flag} {steps[0] // 60}" if can_set else "use a model of its own cadence"
        )
    raise InputError(
        f"{event.name}: frames {format_time(event.time[first])} and "
        f"{format_time(event.time[first + 1])} are {in_minutes(steps[first])} apart"
        f"{' throughout' if is_even else ''}, expected {minutes}; {', or '.join(remedies)}"
    )


def _thinning_command(event: RainEvent, minutes: int) -> str:
    """The command that writes an event's file anew, of frames `minutes` apart."""
    is_file = event.source and Path(event.source).exists()  # not synthetic, not of many files
    path = Path(event.source if is_file else "FILE")
    return (
        f"python -m ldcast.data.convert {shlex.quote(str(path))} --minutes-per-frame {minutes} "
        f"--out {shlex.quote(f'{path.stem}_{minutes}min.npz')}"
    )


def past_event(
    event: RainEvent, frames: FrameConfig, issue_time: np.datetime64 | None = None
) -> RainEvent:
    """The frames that a forecast starts from, oldest first; the last one's time is its issue time.

    frames: the model's.
    issue_time: time of the newest frame to use; None for the newest that holds data, as do all the
        past frames before it. Where there is none such, fewer of them hold data. Of frames that
        are closer than the model's, those between are left out.
    Returns the past frames, rain_rate float32; a copy. Its notes say which frames were left out
    or passed over and why, and where the issue time is ahead of the clock.
    Raises InputError for too few frames, another cadence, an issue time that is not in the event,
    or one that lacks frames before it.
    """
    if issue_time is None and len(event.time) < frames.past_frames:
        raise InputError(
            f"{event.name}: got {len(event.time)} frames, expected {frames.past_frames} to start "
            "from; give more frames"
        )
    notes = list(event.notes)
    if issue_time is None:
        issue_time = _newest_issue_time(event, frames)
        notes += _note_of_newer(event, issue_time, frames)
    issue_time = _as_rounded(event, np.datetime64(issue_time, "s"))
    _check_past(event, issue_time, frames)
    notes += _note_of_clock(issue_time)
    past = event.select(np.searchsorted(event.time, issue_time - frames.ages))
    minutes = frames.minutes_per_frame
    left_out = describe_faster(frame_step(event.time, minutes), minutes)
    notes += [left_out] if left_out else []
    return replace(past, rain_rate=as_float32(past.rain_rate), notes=tuple(notes))


def hold_out(
    events: list[RainEvent], minutes: int, held_out_frames: int = 24, num_frames: int = 1
) -> tuple[list[RainEvent], list[RainEvent]]:
    """Split events, of frames so many minutes apart, into training and validation parts that share
    no frame.

    Each event of at least twice as many frames gives its last `held_out_frames`, or its last fifth
    where that is more. Shorter ones train whole, and so do those of which a part would have fewer
    than the `num_frames` of an example. The parts are views, named `NAME@START/END`.
    Returns (train, validation); validation is empty if no event is long enough.
    """
    train, validation = [], []
    for event in events:
        length = len(event.time)
        cut = length - max(held_out_frames, length // 5)
        if length < 2 * held_out_frames or min(cut, length - cut) < num_frames:
            train.append(event)
            continue
        train.append(_slice_event(event, 0, cut, minutes))
        validation.append(_slice_event(event, cut, length, minutes))
    return train, validation


def list_frames(times: Sequence[np.datetime64]) -> str:
    """Of when frames are, for messages: up to three times, or how many from the first to the last.

    times: datetime64[s].
    """
    if len(times) <= 3:
        return ", ".join(map(format_time, times))
    return f"{len(times)} frames from {format_time(times[0])} to {format_time(times[-1])}"


def parse_time(text: str) -> np.datetime64:
    """An ISO time (UTC, trailing Z allowed) as datetime64[s].

    Raises InputError for anything else, offsets from UTC included.
    """
    try:
        if _TIME.fullmatch(text):
            return np.datetime64(text.removesuffix("Z"), "s")
    except ValueError:  # right form, but no such date
        pass
    raise InputError(f"time '{text}': expected ISO and UTC, such as 2016-07-11T22:00")


# ---- what a spec names ---------------------------------------------------------------------------


def _split_span(spec: str) -> tuple[str, str, str]:
    """(path or `synthetic...`, START, END) of a spec; an empty text where there is no bound."""
    if Path(spec).exists():  # a path may contain @
        return spec, "", ""
    if match := _SPAN.fullmatch(spec):
        return match["path"], match["start"], match["end"]
    source, _, span = spec.rpartition("@")
    if Path(source).is_file() or _is_gridded(Path(source)) or _SYNTHETIC.fullmatch(source):
        raise InputError(
            f"span '{span}' of {source}: expected START/END with ISO times, either may be empty, "
            "such as @2016-07-11T21:00/2016-07-11T23:00 or @/2016-07-11T23:00"
        )
    return spec, "", ""


def _is_gridded(path: Path) -> bool:
    return path.suffix.lower() in GRIDDED_SUFFIXES


def frames_in_span(time: np.ndarray, start: str, end: str, name: str) -> tuple[int, int]:
    """The first frame of START/END, and the first after it; InputError if there is none between.

    time: (T,) of the event `name`. start, end: ISO times, or empty for no bound.
    """
    first = np.searchsorted(time, parse_time(start)) if start else 0
    stop = np.searchsorted(time, parse_time(end)) if end else len(time)
    if first >= stop:
        raise InputError(
            f"span '{start}/{end}' selects no frame of {name}, which goes from "
            f"{format_time(time[0])} to {format_time(time[-1])}; "
            "choose START and END (not included) around those"
        )
    return int(first), int(stop)


def _select_span(event: RainEvent, start: str, end: str, minutes: int) -> RainEvent:
    return _slice_event(event, *frames_in_span(event.time, start, end, event.name), minutes)


def _slice_event(event: RainEvent, first: int, stop: int, minutes: int) -> RainEvent:
    """Frames first..stop-1 as views, named so that the name tells the span that selects them."""
    part = event.select(slice(first, stop))
    end = part.time[-1] + np.timedelta64(60 * minutes, "s")
    name = f"{event.name.partition('@')[0]}@{format_time(part.time[0])}/{format_time(end)}"
    return replace(part, name=name)


def _synthetic_event(seed: str | None, minutes: int) -> RainEvent:
    from ldcast.data.synthetic import synthetic_event  # imports RainEvent from here

    if seed is None:
        seed = "0"
    if not (seed.isascii() and seed.isdigit()):
        raise InputError(f"seed '{seed}' of synthetic rain: expected a number, such as synthetic:3")
    event = synthetic_event(int(seed), minutes=minutes)
    return replace(event, source=f"synthetic:{int(seed)}")


# ---- event files ---------------------------------------------------------------------------------


def read_npz(path: Path, how: Reading = AS_STATED) -> RainEvent:
    """The event in an event file; InputError if it is none."""
    arrays = _load_arrays(path)
    missing = [key for key in ("rain_rate", "time") if key not in arrays]
    if missing:
        raise InputError(
            f"{path} has no {' and no '.join(missing)}: it has {', '.join(arrays) or 'nothing'}; "
            "expected rain_rate (time, y, x) in mm/h and time (datetime64, UTC)"
        )
    rain_rate, time = arrays.pop("rain_rate"), arrays.pop("time")
    as_read = arrays.pop("time_as_read", None)
    grid = {key: _scalar(value) for key, value in arrays.items() if value.ndim == 0}
    _check_units(grid.get("units", "mm/h"), path)
    rain_rate = checked_rain_rate(rain_rate, path)
    time = checked_time(time, len(rain_rate), path)
    arrays = {key: value for key, value in arrays.items() if key not in grid}
    fields = fields_of_arrays(arrays, time, rain_rate.shape[1:], path)
    return RainEvent(
        rain_rate=rain_rate,
        time=time,
        grid=with_metres(grid, rain_rate.shape[1:]),
        name=path.stem,
        source=str(path.resolve()),
        time_as_read=None if as_read is None else checked_time(as_read, len(rain_rate), path),
        notes=(f"its arrays {', '.join(arrays)} are not used",) if arrays else (),
        fields=fields,
    )


def _load_arrays(path: Path) -> dict[str, np.ndarray]:
    if path.is_dir():
        raise InputError(f"{path} is a folder, expected a file; {next_step(path)}")
    if not path.exists():
        raise InputError(f"no event file {path}: expected {_FORMS}")
    with open(path, "rb") as stream:
        if not zipfile.is_zipfile(stream):
            if step := next_step(path):
                raise InputError(f"{path} is not an .npz file; {step}")
            raise InputError(
                f"{path} is not an .npz file, or its end is missing; {_WRITE_AGAIN}; {_CONVERT}"
            )
        stream.seek(0)
        try:
            with np.load(stream, allow_pickle=False) as file:
                return {key: file[key] for key in file.files}
        except Exception as why:  # of a dozen kinds from zipfile, zlib and NumPy: it is damaged
            raise InputError(f"{path} cannot be read: {why}; {_WRITE_AGAIN}") from why


def _scalar(value: np.ndarray) -> Any:
    # .item() would make a datetime or a bare number of a time, according to its unit.
    return value[()] if value.dtype.kind == "M" else value.item()


def _check_units(units: Any, path: Path) -> None:
    if mm_per_hour(str(units)) == 1:
        return
    mend = FROM_DBZ if "dbz" in str(units).lower() else "convert it (mm in 5 min times 12)"
    raise InputError(f"{path}: units '{units}', expected rain_rate in mm/h; {mend}")


# ---- past frames ---------------------------------------------------------------------------------


def _newest_issue_time(event: RainEvent, frames: FrameConfig) -> np.datetime64:
    """The newest time whose frames are all there and hold data; else with as many as there are.

    A forecast needs data in the newest frame more than in the others.
    """
    ages = frames.ages
    complete = np.isin(event.time[:, None] - ages, event.time).all(axis=1)
    if not complete.any():
        _refuse_cadence(event, frames)
    best, most = event.time[complete][-1], (False, 0)
    for issue_time in event.time[complete][::-1]:
        has_data = [_holds_data(event, time) for time in issue_time - ages]
        if all(has_data):
            return issue_time
        if (found := (has_data[-1], sum(has_data))) > most:
            best, most = issue_time, found
    return best


def _holds_data(event: RainEvent, time: np.datetime64) -> bool:
    return not np.isnan(event.rain_rate[np.searchsorted(event.time, time)]).all()


def _note_of_newer(event: RainEvent, issue_time: np.datetime64, frames: FrameConfig) -> list[str]:
    """Why there is no forecast from the frames after the issue time; no line where none is."""
    newer = event.time[event.time > issue_time]
    if len(newer) == 0:
        return []
    needed = np.unique(newer[:, None] - frames.ages)
    is_there = np.isin(needed, event.time)
    blank = [time for time in needed[is_there] if not _holds_data(event, time)]
    missing = needed[~is_there]
    causes = [f"{list_frames(blank)} without data"] if blank else []
    causes += [f"{list_frames(missing)} missing"] if len(missing) else []
    return [
        f"forecast from {format_time(issue_time)}, not from the {len(newer)} newer "
        f"frame{'s' if len(newer) > 1 else ''} up to {format_time(newer[-1])}: they lack what a "
        f"forecast starts from, with {' and '.join(causes)}"
    ]


def _note_of_clock(issue_time: np.datetime64) -> list[str]:
    ahead = (issue_time - np.datetime64("now", "s")) / np.timedelta64(1, "m")
    if ahead <= _CLOCK_MINUTES:
        return []
    return [
        f"issue time {format_time(issue_time)} is {ahead:.0f} minutes ahead of the clock: are the "
        "data's times UTC, and is the clock right?"
    ]


def _refuse_cadence(event: RainEvent, frames: FrameConfig) -> NoReturn:
    """Of frames that no forecast can start from: of another cadence throughout, or with gaps."""
    minutes = frames.minutes_per_frame
    wanted = f"{frames.past_frames} frames {minutes} minutes apart"
    time, step = event.time, frame_step(event.time, minutes)
    if can_thin(step, minutes):
        raise InputError(
            f"{event.name}: its {len(time)} frames, {in_minutes(step)} apart from "
            f"{format_time(time[0])} to {format_time(time[-1])}, are too few or have gaps, "
            f"expected {wanted} among them; give more frames"
        )
    steps = np.diff(time) / np.timedelta64(1, "s")
    wrong = int(np.flatnonzero(steps != 60 * minutes)[0])  # else all would be complete
    is_even = (steps == steps[0]).all()
    remedy = "give frames without such breaks"
    if is_even:
        remedy = "forecast with a model of that cadence"
    raise InputError(
        f"{event.name}: frames {format_time(time[wrong])} and {format_time(time[wrong + 1])} are "
        f"{in_minutes(steps[wrong])} apart{' throughout' if is_even else ''}, expected {minutes} "
        f"minutes, or a part of them such as {minutes / 5:g} or {minutes / 2:g}, and {wanted} in a "
        f"row; {remedy}"
    )


def _as_rounded(event: RainEvent, issue_time: np.datetime64) -> np.datetime64:
    """The time of the frame that was read with that time, where there is one."""
    if event.time_as_read is None or issue_time in event.time:
        return issue_time
    found = event.time[event.time_as_read == issue_time]
    return found[0] if len(found) else issue_time


def _check_past(event: RainEvent, issue_time: np.datetime64, frames: FrameConfig) -> None:
    if issue_time not in event.time:
        nearest = event.time[np.abs(event.time - issue_time).argmin()]
        raise InputError(
            f"{event.name} has no frame at issue time {format_time(issue_time)}; the nearest is "
            f"{format_time(nearest)}, of frames from {format_time(event.time[0])} to "
            f"{format_time(event.time[-1])}"
        )
    needed = issue_time - frames.ages
    missing = needed[~np.isin(needed, event.time)]
    if len(missing):
        raise InputError(
            f"{event.name} lacks {', '.join(map(format_time, missing))}, needed for issue time "
            f"{format_time(issue_time)}: expected {frames.past_frames} frames "
            f"{frames.minutes_per_frame} minutes apart; choose another issue time"
        )
