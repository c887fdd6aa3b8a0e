"""Which frames an archive gets, and in which shards they go: decided before any is read."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ldcast.data.building.archive import SHARD_FRAMES, Archive
from ldcast.data.building.sources import Frames, Source
from ldcast.data.checks import format_time
from ldcast.data.event import list_frames
from ldcast.errors import InputError

_MAX_EQUAL_STEPS = 6  # longer than the cadence, one after the other: another cadence, not gaps


class Part(NamedTuple):
    """Frames of one source for one shard.

    time: (N,) as `frame_times` has them. position: (N,) in the shard.
    """

    source: Source
    time: np.ndarray
    position: np.ndarray


@dataclass(frozen=True)
class Task:
    """One shard to be written.

    archive: without its times. index: of the shard. num_kept: frames in it that readers see now.
    parts: what is to be read. time_before: of the frame before the shard's first new one; None at
        the beginning.
    """

    archive: Archive
    index: int
    num_kept: int
    parts: tuple[Part, ...]
    time_before: np.datetime64 | None

    @property
    def positions(self) -> np.ndarray:
        """(N,) in the shard, of the frames to be read."""
        return np.concatenate([part.position for part in self.parts])

    @property
    def num_frames(self) -> int:
        """Frames in the shard once it is written."""
        return max(self.num_kept, 1 + int(self.positions.max()))


class Choice(NamedTuple):
    """What is done with the frames that were found: both are Frames.

    new: after the archive's last. again: those that it has blank, because their file was damaged.
    num_known: how many others it has.
    """

    new: Frames
    again: Frames
    num_known: int


def cadence_seconds(time: np.ndarray, default: int) -> int:
    """Seconds between frames: the lower median of their steps; `default` minutes for one frame."""
    steps = np.sort(np.diff(time)).astype(np.int64)
    return int(steps[(len(steps) - 1) // 2]) if len(steps) else 60 * default


def cadence_of(time: np.ndarray, default: int) -> int:
    """Minutes between frames, as `cadence_seconds`.

    Raises InputError where that is no whole number of minutes.
    """
    seconds = cadence_seconds(time, default)
    if seconds % 60:
        nearest = max(1, round(seconds / 60))
        raise InputError(
            f"frames are {seconds / 60:.3g} minutes apart, expected whole minutes; round and "
            f"choose them by --minutes-per-frame, such as {nearest} or {default}"
        )
    return seconds // 60


def thin(found: Frames, minutes: int, archive: Archive | None) -> Frames:
    """The frames that are whole steps of `minutes` from the archive's last, or the newest."""
    origin = found.time[-1] if archive is None or not len(archive.time) else archive.time[-1]
    off = (found.time - origin) % np.timedelta64(60 * minutes, "s")
    return found.select(np.flatnonzero(off == np.timedelta64(0, "s")))


def choose(found: Frames, sources: Sequence[Source], archive: Archive | None) -> Choice:
    """What to do with the frames that were found.

    Raises InputError for a frame that is older than the archive's last and not in it.
    """
    if archive is None or not len(archive.time):
        return Choice(found, found.select(np.empty(0, np.int64)), 0)
    is_new = found.time > archive.time[-1]
    is_known = np.isin(found.time, archive.time)
    late = np.flatnonzero(~is_new & ~is_known)
    if len(late):
        raise InputError(
            f"{list_frames(found.time[late])} of {sources[found.source[late[0]]].path} "
            f"{'is' if len(late) == 1 else 'are'} not in {archive.path}, which goes on to "
            f"{format_time(archive.time[-1])}, expected later times, since it grows at its end; "
            "leave them out, or build another archive of all files"
        )
    is_again = is_known & np.isin(found.time, archive.unreadable)
    num_known = int(np.count_nonzero(is_known & ~is_again))
    return Choice(found.select(is_new), found.select(is_again), num_known)


def check_one_cadence(time: np.ndarray, minutes: int) -> None:
    """Raises InputError where the frames are not whole steps of `minutes` apart, gaps included."""
    steps = np.diff(time).astype("timedelta64[s]").astype(np.int64)
    wrong = np.flatnonzero(steps % (60 * minutes))
    other = f"expected {minutes} throughout, or a whole multiple of it at a gap; build what is of"
    other += " another cadence into an archive of its own, by PATH@START/END for a part of a file,"
    other += " or thin all to one by --minutes-per-frame"
    if len(wrong):
        first = wrong[0]
        raise InputError(
            f"frames {format_time(time[first])} and {format_time(time[first + 1])} are "
            f"{steps[first] / 60:.3g} minutes apart, {other}"
        )
    edges = np.flatnonzero(np.diff(steps, prepend=0, append=0))
    for start, stop in itertools.pairwise(edges):
        if stop - start >= _MAX_EQUAL_STEPS and steps[start] != 60 * minutes:
            raise InputError(
                f"the {stop - start + 1} frames from {format_time(time[start])} to "
                f"{format_time(time[stop])} are {steps[start] // 60} minutes apart, {other}"
            )


def count_tasks(choice: Choice, archive: Archive) -> int:
    """How many shards are to be written."""
    return len(np.unique(_places(choice, archive) // SHARD_FRAMES))


def make_tasks(choice: Choice, sources: Sequence[Source], archive: Archive) -> Iterator[Task]:
    """The shards to write, in order of time; each frame of the choice is in one."""
    num_now, place = len(archive.time), _places(choice, archive)
    as_read = np.concatenate([choice.again.as_read, choice.new.as_read])
    owner = np.concatenate([choice.again.source, choice.new.source])
    all_times = np.concatenate([archive.time, choice.new.time])
    header = replace(archive, time=archive.time[:0], unreadable=archive.unreadable[:0])
    shard = place // SHARD_FRAMES  # in order: frames again are before the new ones
    starts = np.flatnonzero(np.diff(shard, prepend=-1))
    for start, stop in itertools.pairwise([*starts, len(shard)]):
        of_shard, first, index = np.arange(start, stop), int(place[start]), int(shard[start])
        yield Task(
            archive=header,
            index=index,
            num_kept=int(np.clip(num_now - index * SHARD_FRAMES, 0, SHARD_FRAMES)),
            parts=tuple(_parts(of_shard, place, as_read, owner, sources)),
            time_before=all_times[first - 1] if first else None,
        )


def _places(choice: Choice, archive: Archive) -> np.ndarray:
    """Indices along the archive's time of the frames of a choice, increasing."""
    again = np.searchsorted(archive.time, choice.again.time)
    return np.concatenate([again, len(archive.time) + np.arange(len(choice.new.time))])


def _parts(
    of_shard: np.ndarray,
    place: np.ndarray,
    as_read: np.ndarray,
    owner: np.ndarray,
    sources: Sequence[Source],
) -> list[Part]:
    """The frames of a shard by their sources; those of one source are in order of time."""
    return [
        Part(sources[source], as_read[part], place[part] % SHARD_FRAMES)
        for source in dict.fromkeys(owner[of_shard])
        for part in [of_shard[owner[of_shard] == source]]
    ]
