"""A build from sources to an archive: find the frames, plan the shards, have them written."""

import contextlib
import itertools
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ldcast.data.building.archive import SHARD_FRAMES, Archive, place_of
from ldcast.data.building.plan import (
    Choice,
    cadence_of,
    check_one_cadence,
    choose,
    count_tasks,
    make_tasks,
    thin,
)
from ldcast.data.building.pools import Pool, results_in_order
from ldcast.data.building.sources import (
    Frames,
    Skipped,
    Source,
    check_some,
    in_order,
    list_names,
    one_line,
    times_of,
)
from ldcast.data.building.store import clear_unfinished_shards, commit, open_archive, require_zarr
from ldcast.data.building.work import Report, build_shard, read_source
from ldcast.data.pieces import PieceError
from ldcast.data.reading import Reading
from ldcast.errors import InputError
from ldcast.machine.folders import lock_folder

DEFAULT_BITS, DEFAULT_LAYOUT = 7, "crops"
_COMMIT_SECONDS = 5.0  # after which finished shards are made visible
_BATCH = 64  # files whose times are read at once

Progress = Callable[[Iterable, str, int], Iterable]  # items, what they are, how many


@dataclass(frozen=True)
class Settings:
    """What is asked of an archive.

    minutes: between frames; None: as the archive has, or as the frames are.
    bits, layout: None: as the archive has, or the defaults. is_strict: as of `build_shard`.
    """

    minutes: int | None = None
    bits: int | None = None
    layout: str | None = None
    is_strict: bool = False


@dataclass
class Summary:
    """What became of a build. num_known: frames that the archive had before."""

    archive: Archive
    num_known: int
    skipped: list[Skipped]
    reports: list[Report] = field(default_factory=list)

    def total(self, name: str) -> int:
        return sum(getattr(report, name) for report in self.reports)


@dataclass(frozen=True)
class Job:
    """What is to be built of what, and who does it. progress: shows how far it is."""

    sources: Sequence[Source]
    how: Reading
    settings: Settings
    pool: Pool
    progress: Progress


def build_archive(out: Path, job: Job) -> Summary:
    """Adds what the archive at `out` does not have yet of the sources, or makes it.

    Where anything stops the build, the archive has what was finished, and the same build continues
    from there. Raises InputError for what the user can fix, OSError for a full disk.
    """
    require_zarr()
    with _held(out):
        archive = open_archive(out)
        clear_unfinished_shards(out)
        _check_settings(job.settings, archive)
        return _build(out, archive, job)


def _build(out: Path, archive: Archive | None, job: Job) -> Summary:
    asked = job.settings.minutes
    minutes = asked or (archive.minutes if archive else job.how.minutes)
    job = replace(job, how=replace(job.how, minutes=minutes))
    found, skipped = _find_frames(job)
    if asked:
        found = thin(found, asked, archive)
    elif not archive:
        minutes = cadence_of(found.time, minutes)
    choice = choose(found, job.sources, archive)
    seen = archive.time if archive else found.time[:0]
    check_one_cadence(np.concatenate([seen[-1:], choice.new.time]), minutes)
    if archive is None:
        archive = _new_archive(out, found, job, minutes)
    summary = Summary(archive, choice.num_known, skipped)
    _write(summary, choice, job)
    return summary


def _check_settings(settings: Settings, archive: Archive | None) -> None:
    for name, flag in (("minutes", "minutes-per-frame"), ("bits", "keep-bits"), ("layout",) * 2):
        asked, has = getattr(settings, name), getattr(archive, name, None)
        if archive and asked is not None and asked != has:
            raise InputError(
                f"got --{flag} {asked}, but {archive.path} was built with {has}; leave it out, or "
                "name another --out"
            )


def _find_frames(job: Job) -> tuple[Frames, list[Skipped]]:
    """All frames in order of time, and the files that show no times.

    Raises InputError where none does, and for the first of them where that is asked for.
    """
    sources, how = job.sources, job.how
    batches = [sources[first : first + _BATCH] for first in range(0, len(sources), _BATCH)]
    results = results_in_order(job.pool, times_of, batches, how)
    found = list(itertools.chain.from_iterable(job.progress(results, "find times", len(batches))))
    skipped = [times for times in found if isinstance(times, Skipped)]
    if len(skipped) == len(sources) or (skipped and job.settings.is_strict):
        others = f" (and {len(skipped) - 1} more)" if len(skipped) > 1 else ""
        raise InputError(f"{skipped[0].why}{others}")
    nothing = np.empty(0, "datetime64[s]")
    times = [nothing if isinstance(times, Skipped) else times for times in found]
    check_some(sum(map(len, times)), sources)
    return in_order(sources, times, how.minutes), skipped


def _new_archive(out: Path, found: Frames, job: Job, minutes: int) -> Archive:
    """An archive without frames, of the grid of the first frame that can be read."""
    why: Exception | None = None
    for source in dict.fromkeys(found.source):
        first = found.as_read[found.source == source][:1]
        try:
            event = read_source(job.sources[source], job.how, first)
        except PieceError:
            raise
        except (InputError, OSError) as error:
            why = why or error
            if job.settings.is_strict:
                break
            continue
        shape = event.rain_rate.shape[1:]
        return Archive(
            path=out,
            grid=place_of(event.grid, shape, event.name),
            shape=shape,
            minutes=minutes,
            bits=job.settings.bits or DEFAULT_BITS,
            layout=job.settings.layout or DEFAULT_LAYOUT,
        )
    raise InputError(one_line(why))


@contextlib.contextmanager
def _held(out: Path) -> Iterator[None]:
    """The archive's folder, for this process alone; it goes again where nothing came of it."""
    is_new = not out.exists()
    if not is_new and not out.is_dir():
        raise InputError(f"{out} is a file, an archive is a folder; remove it or name another")
    out.mkdir(exist_ok=True)
    try:
        with lock_folder(out):
            yield
    finally:
        if is_new and open_archive(out) is None:
            shutil.rmtree(out, ignore_errors=True)


def _write(summary: Summary, choice: Choice, job: Job) -> None:
    """Writes the shards and makes them visible in order of time, all that are finished at the
    latest when something fails."""
    tasks = make_tasks(choice, job.sources, summary.archive)
    num_tasks = count_tasks(choice, summary.archive)
    times = np.concatenate([summary.archive.time, choice.new.time])
    names = list_names([source.path for source in job.sources])
    visible, since = summary.archive, time.monotonic()
    reports = results_in_order(job.pool, build_shard, tasks, job.how, job.settings.is_strict)
    try:
        for report in job.progress(reports, "write", num_tasks):
            summary.archive = _with_shard(summary.archive, report, times, names)
            summary.reports.append(report)
            if time.monotonic() - since > _COMMIT_SECONDS:
                commit(summary.archive)
                visible, since = summary.archive, time.monotonic()
    except BaseException:  # Ctrl-C, too
        with contextlib.suppress(OSError):  # of a disk that is full
            if summary.archive is not visible:
                commit(summary.archive)
        raise
    if summary.archive is not visible:
        commit(summary.archive)


def _with_shard(archive: Archive, report: Report, times: np.ndarray, names: str) -> Archive:
    """The archive with the frames of a shard that was written."""
    first = report.index * SHARD_FRAMES
    others = np.setdiff1d(archive.unreadable, times[first + report.positions])
    unreadable = np.union1d(others, times[first + np.array(report.unreadable, np.int64)])
    stop = max(len(archive.time), first + int(report.positions.max()) + 1)
    texts = {"source": names, **report.about} if report.about else {}
    return replace(archive, time=times[:stop], unreadable=unreadable).with_about(texts)
