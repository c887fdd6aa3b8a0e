"""Building one shard of an archive: what a worker does, in this process or on another machine."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ldcast.data.building.archive import SHARD_FRAMES, Archive, place_of
from ldcast.data.building.plan import Part, Task
from ldcast.data.building.sources import Skipped, Source, one_line
from ldcast.data.building.store import read_frames, write_shard
from ldcast.data.checks import check_apart_in_time
from ldcast.data.event import RainEvent
from ldcast.data.pieces import PieceError
from ldcast.data.readers.reading_flags import check_used
from ldcast.data.readers.services import check_same_grid, require_reader
from ldcast.data.readers.times import read_span
from ldcast.data.reading import Reading
from ldcast.errors import InputError
from ldcast.rain import WET_THRESHOLD, is_wet


@dataclass
class Report:
    """What became of a shard.

    index: of the shard. positions: in it, of the frames that were written now.
    unreadable: those of them whose file is damaged; they are blank, and their files in `skipped`.
    num_frames, num_blank: how many, and how many of them are without data for other reasons.
    num_pixels, num_valid, num_wet: of them all. highest: mm/h.
    notes: of the events. about: the grid of the first event, which has its texts, too.
    """

    index: int
    positions: np.ndarray
    unreadable: list[int] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    num_frames: int = 0
    num_blank: int = 0
    num_pixels: int = 0
    num_valid: int = 0
    num_wet: int = 0
    highest: float = 0.0
    notes: list[str] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)


def build_shard(task: Task, how: Reading, is_strict: bool) -> Report:
    """Reads the frames of a shard and writes it; those that readers see stay as they are.

    is_strict: a file that cannot be read is an error. Else its frames are blank, and reported.
    Raises InputError for another grid and for intervals that overlap, OSError for a full disk.
    """
    report = Report(task.index, task.positions)
    frames = _kept_frames(task)
    starts, ends = [], []  # of the intervals of amounts
    for part in task.parts:
        event = _read(part, how, is_strict, report)
        if event is None:
            continue
        check_grid(task.archive, event)
        found = np.searchsorted(event.time, part.time)
        for position, index in zip(part.position, found, strict=True):  # one by one: less memory
            frames[position] = rounded(event.rain_rate[index], task.archive.bits)
        starts.append(_interval_start(event)[found])
        ends.append(event.time[found])
        _describe(event, report)
    if ends:
        _check_intervals(task, np.concatenate(starts), np.concatenate(ends), how)
    _count(frames, report)
    write_shard(task.archive, task.index, frames)
    return report


def read_source(source: Source, how: Reading, time: np.ndarray) -> RainEvent:
    """The frames of a source from the first to the last of `time`, at least.

    Raises InputError and OSError for a file that cannot be read; PieceError for a wrong request.
    """
    event = read_span(source.path, source.reader, how, time)
    check_used(how, [event])
    if not np.isin(time, event.time).all():
        raise InputError(f"{source.path} has other times than a moment ago; build again")
    return event


def check_grid(archive: Archive, event: RainEvent) -> None:
    """Raises InputError where an event is of another grid than the archive."""
    shape = event.rain_rate.shape[1:]
    placed = RainEvent(
        event.rain_rate, event.time, place_of(event.grid, shape, event.name), source=event.source
    )
    nothing = np.broadcast_to(np.float16(np.nan), (1, *archive.shape))  # without memory of its own
    check_same_grid(
        RainEvent(nothing, event.time[:1], archive.grid, source=str(archive.path)), placed
    )


def rounded(rain_rate: np.ndarray, bits: int) -> np.ndarray:
    """float16, with so many bits of the mantissa kept, of rain in mm/h; NaN and 0 stay.

    The relative error is at most 2^-(bits + 1) of 6e-5 mm/h and above, and what is wet stays so.
    """
    from numcodecs import BitRound

    values = np.array(rain_rate, np.float32, order="C")
    bare = np.asarray(BitRound(keepbits=bits).encode(values)).view(np.float32)
    bare = bare.reshape(values.shape).copy()
    bare[np.isnan(values)] = np.nan
    bare[is_wet(values, WET_THRESHOLD) & ~is_wet(bare, WET_THRESHOLD)] = WET_THRESHOLD
    return bare.astype(np.float16)


def _kept_frames(task: Task) -> np.ndarray:
    """The shard's frames (N, H, W) float16: those that it has now, and no data for the others."""
    frames = np.full((task.num_frames, *task.archive.shape), np.nan, np.float16)
    if task.num_kept:
        first = task.index * SHARD_FRAMES
        frames[: task.num_kept] = read_frames(task.archive, first, first + task.num_kept)
    return frames


def _read(part: Part, how: Reading, is_strict: bool, report: Report) -> RainEvent | None:
    """The event; None, and an entry in the report, where its file is damaged."""
    require_reader(part.source.reader)  # without its packages every file would seem damaged
    try:
        return read_source(part.source, how, part.time)
    except PieceError:
        raise
    except (InputError, OSError) as error:
        if is_strict:
            raise InputError(f"{one_line(error)}; without --strict it is skipped") from error
        report.skipped.append(Skipped(part.source.path, one_line(error)))
        report.unreadable += part.position.tolist()
        return None


def _interval_start(event: RainEvent) -> np.ndarray:
    if event.interval_start is None:
        return np.full_like(event.time, "NaT")
    return event.interval_start


def _check_intervals(task: Task, starts: np.ndarray, ends: np.ndarray, how: Reading) -> None:
    """As `check_apart_in_time`, of the new frames and the one before them."""
    order = np.argsort(ends)
    starts, ends = starts[order], ends[order]
    if task.time_before is not None:
        starts = np.insert(starts, 0, np.datetime64("NaT"))
        ends = np.insert(ends, 0, task.time_before)
    check_apart_in_time(starts, ends, task.parts[0].source.path, how.minutes)


def _describe(event: RainEvent, report: Report) -> None:
    report.notes += event.notes
    if event.fields:
        report.notes.append(f"its {', '.join(event.fields)} are not written: it keeps rain alone")
    report.about = report.about or event.grid


def _count(frames: np.ndarray, report: Report) -> None:
    """Adds what is in the new frames to the report."""
    for position in report.positions:
        frame = frames[position]
        num_valid = frame.size - np.count_nonzero(np.isnan(frame))
        report.num_frames += 1
        report.num_blank += num_valid == 0 and position not in report.unreadable
        report.num_pixels += frame.size
        report.num_valid += num_valid
        report.num_wet += np.count_nonzero(is_wet(frame, WET_THRESHOLD))
        if num_valid:
            report.highest = max(report.highest, float(np.nanmax(frame)))
