"""Makes the index of an archive, block after block, in several processes; continues after a kill.

Workers write the tiles of their block, a chunk that is theirs alone; this process then writes what
is known of its frames, their state last: so what a kill leaves is done again.
"""

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ldcast.data.addresses import absolute, is_remote, located
from ldcast.data.archive.patience import Patience
from ldcast.data.archive.sidecar import (
    About,
    State,
    create_group,
    open_group,
    read_about,
    write_about,
)
from ldcast.data.archive.store import describe_archive
from ldcast.data.checks import check_apart_in_time, format_time, rounded_to_seconds
from ldcast.data.readers.allocated import without_unwritten_end
from ldcast.data.readers.cf import time_dimension
from ldcast.data.readers.gridded import GriddedRain, describe_rain, find_rain
from ldcast.data.readers.opening import open_dataset
from ldcast.data.reading import Reading
from ldcast.data.tile_index import (
    BLOCK,
    BOUNDED,
    STATISTICS,
    classes_of_tiles,
    count_classes,
    highest_of_block,
    tile_statistics,
)
from ldcast.errors import InputError, UnreadableError
from ldcast.machine.folders import lock_folder

_BYTES_AT_ONCE = 64e6  # of rain that is read at a time
_MAX_PROBLEMS = 5
_MAX_BAD_SHARE = 0.5  # of the frames, that cannot be read or are no rain


class Indexed(NamedTuple):
    """What was done: frames that are new in the index, all in it, and how many of each state."""

    num_new: int
    num_frames: int
    counts: dict[State, int]
    problems: tuple[str, ...]
    notes: tuple[str, ...]


class _Block(NamedTuple):
    """What a worker found of one block of frames."""

    number: int
    state: np.ndarray
    class_counts: np.ndarray
    highest: dict[str, np.ndarray]
    problems: list[str]


def build_index(
    archive: str | Path,
    out: str | Path,
    how: Reading,
    num_workers: int,
    progress: Callable[[int], None],
    say_total: Callable[[int], None] = lambda total: None,
    again: bool = False,
) -> Indexed:
    """Makes the index of an archive at `out`, or adds what is not in it yet.

    num_workers: processes; 1 works in this one. progress: called with the number of frames done.
    say_total: called with the number of frames to do, before.
    again: whether frames that could not be used are tried again, which may have been repaired.
    Raises InputError where the archive cannot be read, or `out` is the index of another one, and
    where over half of the frames cannot be used.
    """
    found, listed, num_times, notes = _look_at(archive, how)
    about = About(absolute(archive), found.shape[1:], num_times, how.zr)
    with _locked(out, about) as group:
        about = replace(about, problems=() if again else read_about(group).problems)
        if again:
            state = group["state"][:]
            state[np.isin(state, (State.UNREADABLE, State.NO_RAIN))] = State.NOT_INDEXED
            group["state"][:] = state
        _extend(group, found.time, about)
        pending, num_new = _pending(group)
        num_frames = len(found.time)
        say_total(sum(min(BLOCK, num_frames - BLOCK * block) for block in pending))
        where = located(absolute(archive))
        tasks = [(where, out, how, block, num_frames, listed) for block in pending]
        for block in _in_workers(tasks, num_workers):
            problems = (*about.problems, *block.problems)
            about = replace(about, problems=tuple(dict.fromkeys(problems))[:_MAX_PROBLEMS])
            _write(group, block)
            progress(len(block.state))
        write_about(group, about)
        state = group["state"][:]
    counts = {kind: int((state == kind).sum()) for kind in State}
    num_bad = counts[State.UNREADABLE] + counts[State.NO_RAIN]
    if num_bad > _MAX_BAD_SHARE * len(state):
        raise InputError(
            f"{archive}: {num_bad} of {len(state)} frames cannot be used, such as: "
            f"{about.problems[0]}"
        )
    return Indexed(num_new, len(state), counts, about.problems, tuple(notes))


class _Look(NamedTuple):
    """An archive without an end that was allocated ahead.

    listed: times that it calls missing. num_times: with that end. notes: lines on it.
    """

    found: GriddedRain
    listed: np.ndarray
    num_times: int
    notes: list[str]


def _look_at(archive: str | Path, how: Reading) -> _Look:
    dataset = open_dataset(archive)
    rain, _ = find_rain(dataset, archive, how)
    notes: list[str] = []
    time_axis = time_dimension(rain)
    num_times = 1 if time_axis is None else rain.sizes[time_axis]
    if time_axis is not None:
        dataset, _, notes = without_unwritten_end(dataset, rain, time_axis, archive)
    listed = np.empty(0, "M8[s]")
    if "missing_times" in dataset and dataset["missing_times"].dtype.kind == "M":
        listed = rounded_to_seconds(np.atleast_1d(dataset["missing_times"].to_numpy()))
    rain, bounds = find_rain(dataset, archive, how)
    found = describe_rain(rain, str(archive), bounds, how)
    if found.interval_start is not None:
        check_apart_in_time(found.interval_start, found.time, found.where, how.minutes)
    return _Look(found, listed, num_times, [*notes, *found.notes])


@contextlib.contextmanager
def _locked(out: str | Path, about: About) -> Iterator[Any]:
    """The group of the index, made if there is none, held by this process."""
    if is_remote(out):
        raise InputError(f"got --out {out}, expected a path: write it to a disk, then copy it")
    group = open_group(out)
    if group is None and Path(out).exists():
        raise InputError(f"{out} is there and is no index: remove it, or choose another --out")
    if group is not None:
        known = read_about(group)
        _check_same(known, about, out)
        group = open_group(out, "r+")
    else:
        group = create_group(out, about)
    with lock_folder(Path(out)):
        yield group


def _check_same(known: About, about: About, out: str | Path) -> None:
    """An archive may have been moved; its grid and its relation of rain stay."""
    for name in ("size", "zr"):
        before, now = getattr(known, name), getattr(about, name)
        if before != now:
            raise InputError(
                f"{out} is of an archive with {name} {before}, got {now}: remove it to build it "
                "again, or choose another --out"
            )


def _extend(group: Any, time: np.ndarray, about: About) -> None:
    """Makes room for all frames of the archive.

    The last block is done again where it was not full, and so are frames without data at the end,
    which may have been written since. Raises InputError where frames are others than before.
    """
    seconds = time.astype(np.int64)
    before = group["time"][:]
    if len(before) > len(seconds) or (before != seconds[: len(before)]).any():
        raise InputError(
            f"{about.archive} has other times than when its index was made: remove the index, and "
            "build it again"
        )
    num_blocks = -(-len(seconds) // BLOCK)
    if len(seconds) > len(before):
        for name in ("time", "state", "class_counts", *STATISTICS):
            group[name].resize((len(seconds), *group[name].shape[1:]))
        for name in BOUNDED:
            of = group[f"highest_{name}"]
            of.resize((num_blocks, *of.shape[1:]))
        group["time"][len(before) :] = seconds[len(before) :]
    state = group["state"][:]
    is_empty = np.isin(state, (State.BLANK, State.UNREADABLE))
    stop = int(np.flatnonzero(~is_empty)[-1]) + 1 if not is_empty.all() else 0
    if stop < len(state):
        group["state"][stop:] = State.NOT_INDEXED
    write_about(group, about)


def _pending(group: Any) -> tuple[list[int], int]:
    """The blocks that hold frames which are not indexed, and how many frames these are."""
    waiting = np.flatnonzero(group["state"][:] == State.NOT_INDEXED)
    return np.unique(waiting // BLOCK).tolist(), len(waiting)


def _write(group: Any, block: _Block) -> None:
    frames = slice(BLOCK * block.number, BLOCK * block.number + len(block.state))
    for name, highest in block.highest.items():
        group[f"highest_{name}"][block.number] = highest
    group["class_counts"][frames] = block.class_counts
    group["state"][frames] = block.state


def _in_workers(tasks: list[tuple], num_workers: int) -> Iterator[_Block]:
    """The blocks as they are done; few are waited for at a time, so that a kill loses little."""
    if num_workers <= 1 or len(tasks) <= 1:
        yield from (_index_block(*task) for task in tasks)
        return
    # Not forked: stores that are open here do not survive it.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(num_workers, len(tasks)), mp_context=context) as pool:
        waiting = {pool.submit(_index_block, *task) for task in tasks}
        try:
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


_OPEN: dict[tuple[str | Path, Reading], GriddedRain] = {}  # archives of this worker, opened once


def _index_block(
    archive: str | Path,
    out: str | Path,
    how: Reading,
    number: int,
    num_frames: int,
    listed: np.ndarray,
) -> _Block:
    """Writes the tiles of a block of frames; the rest is returned."""
    if (archive, how) not in _OPEN:
        _OPEN[archive, how] = describe_archive(archive, how)
    found = _OPEN[archive, how]
    frames = range(BLOCK * number, min(BLOCK * (number + 1), num_frames))
    state = np.full(len(frames), State.GOOD, np.uint8)
    problems: list[str] = []
    tables = []
    patience = Patience(str(archive)) if is_remote(archive) else _at_once
    for first in range(frames.start, frames.stop, at_once := _frames_at_once(found)):
        part = range(first, min(first + at_once, frames.stop))
        for frame, rain_rate in zip(part, _load(found, part, patience, problems), strict=True):
            index = frame - frames.start
            if isinstance(rain_rate, State):
                state[index] = rain_rate
                rain_rate = np.full(found.shape[1:], np.nan, np.float32)
            elif np.isnan(rain_rate).all():
                state[index] = State.BLANK
            tables.append(tile_statistics(rain_rate))
    if np.isin(state, (State.BLANK, State.UNREADABLE)).any():
        _OPEN[archive, how] = describe_archive(archive, how)  # raises where all of it is away
    state[np.isin(found.time[frames.start : frames.stop], listed)] = State.LISTED_MISSING
    rows = {name: np.stack([table[name] for table in tables]) for name in STATISTICS}
    group = open_group(out, "r+")
    assert group is not None, out
    for name, values in rows.items():
        group[name][frames.start : frames.stop] = values
    of_tiles = rows["percentile_99"], rows["valid_share"]
    counts = count_classes(classes_of_tiles(*of_tiles, found.shape[1:]))
    highest = {name: highest_of_block(rows[name]) for name in BOUNDED}
    return _Block(number, state, counts, highest, problems)


def _frames_at_once(found: GriddedRain) -> int:
    """Frames of whole chunks, about `_BYTES_AT_ONCE` of them."""
    per_chunk = found.rain.encoding.get("preferred_chunks", {}).get(found.rain.dims[0], 1)
    frame_bytes = 4 * found.shape[1] * found.shape[2]
    return max(int(_BYTES_AT_ONCE / frame_bytes) // per_chunk, 1) * per_chunk


def _load(
    found: GriddedRain,
    frames: range,
    patience: Callable[..., np.ndarray],
    problems: list[str],
) -> Iterator[np.ndarray | State]:
    """Each frame (H, W) mm/h, or why it cannot be used; one by one where not all can be read."""
    part = found.select(slice(frames.start, frames.stop))
    try:
        yield from patience(part.load, lambda: None)
        return
    except InputError as error:
        if len(frames) == 1:
            problems.append(f"{format_time(part.time[0])}: {error}"[:300])
            is_unreadable = isinstance(error, UnreadableError)
            yield State.UNREADABLE if is_unreadable else State.NO_RAIN
            return
    for frame in frames:
        yield from _load(found, range(frame, frame + 1), patience, problems)


def _at_once(read: Callable[[], np.ndarray], _: Callable[[], None]) -> np.ndarray:
    """In place of `Patience`, for a disk, whose bad chunks stay bad."""
    return read()
