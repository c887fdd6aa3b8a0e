"""What `--data` names, archives included: events whose rain is in memory, or read in place."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ldcast.data.addresses import absolute, is_remote, located, stem
from ldcast.data.archive.days import PARTS, TEST, DaySplit, part_name
from ldcast.data.archive.runs import describe_lost, find_runs
from ldcast.data.archive.sidecar import (
    SUFFIX,
    StoredTiles,
    index_address,
    open_group,
    read_about,
)
from ldcast.data.archive.store import ArchiveStore, describe_archive
from ldcast.data.cadence import rounded_times
from ldcast.data.checks import format_time
from ldcast.data.event import RainEvent
from ldcast.data.formats import is_zarr
from ldcast.data.grids import CORNERS
from ldcast.data.readers.allocated import without_unwritten_end
from ldcast.data.readers.cf import time_dimension
from ldcast.data.readers.gridded import GriddedRain, describe_rain, find_rain
from ldcast.data.readers.opening import open_dataset
from ldcast.data.readers.reading_flags import check_used
from ldcast.data.readers.specs import read_event, split_span
from ldcast.data.reading import Reading
from ldcast.data.spans import frames_in_span
from ldcast.data.stored import StoredRain
from ldcast.errors import InputError
from ldcast.frames import FrameConfig

MAX_BYTES = 4e9  # of rain that is read as a whole
_HOURS = 6  # without data, that a forecast may look back over


@dataclass(frozen=True)
class Archive:
    """An archive with its index, or a span of it.

    time, state: (T,) of all its indexed frames. is_in_span: (T,) bool.
    name: with the span. source: its path or address.
    """

    store: ArchiveStore
    time: np.ndarray
    state: np.ndarray
    is_in_span: np.ndarray
    grid: dict
    name: str
    source: str

    def events(
        self, num_frames: int, minutes: int, part: str = "", split: DaySplit | None = None
    ) -> list[RainEvent]:
        """Its runs of at least `num_frames` frames, `minutes` apart, each an event; or those of the
        days of one of `PARTS`.

        Each has a note on what is lost, the same for all. There are none where no run is so long.
        """
        is_of_part, name = self.is_in_span, self.name
        if split is not None:
            is_of_part = is_of_part & (split.part_of(self.time) == PARTS.index(part))
            name = part_name(name, part, split)
        runs = find_runs(self.time, self.state, is_of_part, num_frames, minutes)
        notes = (describe_lost(runs),)
        return [
            RainEvent(
                rain_rate=StoredRain(self.store, range(first, stop)),
                time=self.time[first:stop],
                grid=self.grid,
                name=name,
                source=self.source,
                notes=notes,
            )
            for first, stop in runs.bounds.tolist()
        ]


def find_archive(spec: str, how: Reading) -> Archive | None:
    """The archive that a `--data` argument names, PATH, an address or that of its index, each with
    @START/END if wanted; None for anything else, such as a store without an index.

    how: of a piece of the domain nothing is indexed, so such a store is no archive.
    Raises InputError for an index that is older than its archive, a store that is too large to be
    read without one, and as `describe_archive` does.
    """
    source, start, end = split_span(spec)
    if not source.rstrip("/").endswith(".zarr") or how.crop is not None or how.box is not None:
        return None
    address = located(source)
    index = address if source.rstrip("/").endswith(SUFFIX) else index_address(address)
    if open_group(index) is None:
        _check_fits_into_memory(address, how)
        return None
    return _open_archive(index, address, how, (start, end))


def read_events(
    specs: Sequence[str], how: Reading, num_frames: int, split: DaySplit | None = None
) -> list[RainEvent]:
    """What the `--data` arguments of verify and calibrate name: of archives, runs of `num_frames`
    or more, of the days for testing where `split` is given.

    Raises InputError as `read_event` and `find_archive` do, where an archive has no such run, and
    where there is a split but an archive lacks the index that it needs, or there is none at all. Of
    several archives some may have no day for testing, which a note says.
    """
    events: list[RainEvent] = []
    lacking: list[str] = []
    has_archive = False
    for spec in specs:
        archive = find_archive(spec, how)
        if archive is None:
            _check_needs_no_split(spec, split)
            events.append(read_event(spec, how))
            continue
        has_archive = True
        if split is None:
            events += check_found(archive.events(num_frames, how.minutes), archive, num_frames)
            continue
        found = archive.events(num_frames, how.minutes, TEST, split)
        events += found
        if not found:
            lacking.append(describe_lack(archive, TEST, split, num_frames))
    check_is_split(split, has_archive)
    events = with_lacks(events, lacking)
    if files := [event for event in events if not event.is_stored]:
        check_used(how, files)
    return events


def for_one_forecast(
    spec: str,
    how: Reading,
    frames: FrameConfig,
    issue_time: np.datetime64 | None,
    num_later: int = 0,
) -> str:
    """The spec with a span of what a forecast may start from, where it names a store that is too
    large for memory: the last hours that were written, or those up to the issue time, and as many
    later frames, to compare with."""
    source, *span = split_span(spec)
    if any(span) or not source.rstrip("/").endswith(".zarr"):
        return spec
    address = located(source)
    if (not is_remote(address) and not is_zarr(address)) or _num_bytes(address, how) <= MAX_BYTES:
        return spec
    is_given = issue_time is not None  # else nothing is later
    if not is_given:
        dataset = open_dataset(address)
        rain, _ = find_rain(dataset, address, how)
        dataset, _, _ = without_unwritten_end(dataset, rain, time_dimension(rain), address)
        rain, bounds = find_rain(dataset, address, how)
        issue_time = describe_rain(rain, str(address), bounds, how).time[-1]
    age = frames.ages.max() + np.timedelta64(_HOURS, "h")
    after = issue_time + np.timedelta64(60 * frames.minutes_per_frame, "s")
    if is_given:
        after += np.timedelta64(60 * frames.minutes_per_frame * num_later, "s")
    return f"{source}@{issue_time - age}/{after}"


def check_found(events: list[RainEvent], archive: Archive, num_frames: int) -> list[RainEvent]:
    """The events. Raises InputError if there are none, with what is in the way."""
    if events:
        return events
    minutes = archive.store.how.minutes
    runs = find_runs(archive.time, archive.state, archive.is_in_span, num_frames, minutes)
    raise InputError(
        f"{archive.name} has no {num_frames} frames in a row, {minutes} minutes apart, for an "
        f"example of the days asked for: in all its days there are {describe_lost(runs)}; choose "
        "other data or days"
    )


def describe_lack(archive: Archive, part: str, split: DaySplit, num_frames: int) -> str:
    """One line on an archive without a run of frames among the days of a part."""
    days = np.unique(archive.time[archive.is_in_span].astype("M8[D]"))
    counts = np.bincount(split.part_of(days), minlength=len(PARTS))
    by_part = ", ".join(f"{count} for {name}" for count, name in zip(counts, PARTS, strict=True))
    minutes = archive.store.how.minutes
    runs = find_runs(archive.time, archive.state, archive.is_in_span, num_frames, minutes)
    return (
        f"{archive.name} has no {num_frames} frames in a row, {minutes} minutes apart, on its days "
        f"for {part}: by shares of {split.describe()}, its days are {by_part}; in all of them "
        f"there are {describe_lost(runs)}; name days by PATH@START/END, or other shares by "
        "--split-days"
    )


def with_lacks(events: list[RainEvent], lacking: Sequence[str]) -> list[RainEvent]:
    """The events, the first with notes on archives that gave none. Raises InputError for the first
    of these where there is no event at all."""
    if not lacking:
        return events
    if not events:
        raise InputError(lacking[0])
    first, *others = events
    return [replace(first, notes=(*first.notes, *lacking)), *others]


def check_is_split(split: DaySplit | None, has_archive: bool) -> None:
    """Raises InputError where days are to be split and there is no archive."""
    if split is not None and not has_archive:
        raise InputError(
            "got --split-days and no archive with an index, whose days it splits: leave it out, or "
            "make an index by python -m ldcast.data.index ARCHIVE"
        )


def check_not_in(archive: Archive, events: Sequence[RainEvent]) -> None:
    """Raises InputError where one of the events holds frames of the archive, whatever their file.

    So an event that an archive was built from does not train on the days that it keeps apart.
    """
    time = archive.time[archive.is_in_span]
    for event in events:
        if event.rain_rate.shape[1:] != archive.store.shape[1:]:
            continue
        known = [name for name in CORNERS if name in event.grid and name in archive.grid]
        corners = [(event.grid[name], archive.grid[name]) for name in known]
        if corners and not np.allclose(*zip(*corners, strict=True)):
            continue
        shared = np.intersect1d(event.time, time)
        if len(shared):
            raise InputError(
                f"{event.name} and the archive {archive.name}, which trains and validates on "
                f"different days, share {len(shared)} frames, from {format_time(shared[0])} to "
                f"{format_time(shared[-1])}: expected none; leave {event.name} out"
            )


def _check_needs_no_split(spec: str, split: DaySplit | None) -> None:
    source = split_span(spec)[0].rstrip("/")
    if split is not None and source.endswith(".zarr"):
        raise InputError(
            f"got --split-days for {source}, which has no index, so that its days are not split: "
            f"make one by python -m ldcast.data.index {source}, or leave --split-days out"
        )


def _open_archive(
    index: str | Path, address: str | Path, how: Reading, span: tuple[str, str]
) -> Archive:
    group = open_group(index)
    assert group is not None, index
    about = read_about(group)
    archive = located(about.archive) if index == address else address
    if how.zr not in (None, about.zr):
        raise InputError(
            f"got --zr {how.zr[0]:g} {how.zr[1]:g} for {archive}, whose index was made with "
            f"{about.zr or 'none'}: leave it out, or remove the index and make it again"
        )
    how = Reading(zr=about.zr, minutes=how.minutes)
    found = describe_archive(archive, how)
    time, state = group["time"][:].astype("M8[s]"), group["state"][:]
    _check_not_older(found, time, about.num_times, archive, index)
    time = rounded_times(time, how.minutes)
    name, is_in_span = stem(archive), np.ones(len(time), bool)
    if any(span):
        first, stop = frames_in_span(time, *span, name)
        is_in_span[:first] = is_in_span[stop:] = False
        end = time[stop - 1] + np.timedelta64(60 * how.minutes, "s")
        name = f"{name}@{format_time(time[first])}/{format_time(end)}"
    tiles = StoredTiles(index)
    fingerprint = _fingerprint(group, time)
    store = ArchiveStore(archive, (len(time), *found.shape[1:]), tiles, fingerprint, how)
    return Archive(store, time, state, is_in_span, found.grid, name, absolute(archive))


def _check_not_older(
    found: GriddedRain, time: np.ndarray, num_times: int, archive: str | Path, index: str | Path
) -> None:
    again = f"bring it up to date by python -m ldcast.data.index {archive}"
    if len(found.time) != num_times:
        raise InputError(
            f"{index} is older than its archive, which has {len(found.time)} frames, expected "
            f"{num_times}; {again}"
        )
    if (found.time[: len(time)] != time).any():
        raise InputError(f"{index} is of other times than {archive}: remove it, then {again}")


def _fingerprint(group: object, time: np.ndarray) -> str:
    """SHA-256 of what is known of all frames, by their classes of rain."""
    digest = hashlib.sha256(time.view(np.uint8))
    for name in ("state", "highest_mean", "highest_valid_share"):
        digest.update(np.ascontiguousarray(group[name][:]).view(np.uint8))
    return digest.hexdigest()


def _check_fits_into_memory(address: str | Path, how: Reading) -> None:
    """A store without an index is read as a whole."""
    if not is_remote(address) and not is_zarr(address):
        return
    if (num_bytes := _num_bytes(address, how)) > MAX_BYTES:
        raise InputError(
            f"{address} has {num_bytes / 1e9:.0f} GB of rain and no index, expected one to read it "
            f"in place: make it by python -m ldcast.data.index {address}"
            f"{' --out PATH.index.zarr' if is_remote(address) else ''}"
        )


def _num_bytes(address: str | Path, how: Reading) -> int:
    """Of its rain in memory."""
    return int(4 * np.prod(describe_archive(address, how).shape, dtype=np.int64))
