"""What an archive is built from: files in folders, and of when their frames are."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ldcast.data.cadence import rounded_times
from ldcast.data.checks import format_time
from ldcast.data.formats import is_zarr, looks_like
from ldcast.data.readers.services import READERS, reader_name
from ldcast.data.readers.specs import spec_source, spec_span
from ldcast.data.readers.times import frame_times
from ldcast.data.reading import Reading
from ldcast.data.spans import parse_time
from ldcast.errors import InputError


@dataclass(frozen=True)
class Source:
    """A file or store, its reader, and START and END of the span that is wanted of it."""

    path: Path
    reader: str
    span: tuple[str, str] = ("", "")


class Skipped(NamedTuple):
    """A file that cannot be read, and why, in one line."""

    path: Path
    why: str


class Frames(NamedTuple):
    """Frames of many sources in order of time; all (N,).

    time: datetime64[s], rounded. as_read: as `frame_times` has them. source: index into a list.
    """

    time: np.ndarray
    as_read: np.ndarray
    source: np.ndarray

    def select(self, which: np.ndarray) -> "Frames":
        return Frames(*(part[which] for part in self))


def list_sources(specs: Sequence[str], reader: str | None, out: Path) -> list[Source]:
    """The files that `SOURCE` arguments name: files, stores, and folders with what is in them.

    reader: of `READERS`; None: by each suffix. Hidden files are left alone.
    Raises InputError for what is missing or empty, for a suffix that shows no reader, and for `out`
    among them.
    """
    sources = []
    for spec in specs:
        path = Path(spec_source(spec))
        if not path.exists():
            raise InputError(f"{path} is missing, expected a file or a folder of radar rain")
        files = list(_files(path))
        if not files:
            raise InputError(f"{path} has no files, expected some of radar rain")
        namesakes = [file for file in (path, *files) if file.name == out.name]
        if out.resolve() in [file.resolve() for file in namesakes]:
            raise InputError(f"--out {out} is one of the files to read: name another")
        sources += [Source(file.absolute(), reader or "", spec_span(spec)) for file in files]
    return sources if reader else _with_readers(sources)


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir() or is_zarr(path):
        yield path
        return
    for entry in sorted(path.iterdir()):
        if not entry.name.startswith("."):
            yield from _files(entry)


def _with_readers(sources: list[Source]) -> list[Source]:
    """Those with the readers of their suffixes."""
    names = [reader_name(source.path) for source in sources]
    unknown = [source.path for source, name in zip(sources, names, strict=True) if not name]
    if unknown:
        known = looks_like(unknown[0])
        suffixes = ", ".join(sorted({f"'{path.suffix}'" for path in unknown}))
        raise InputError(
            f"the suffix {suffixes} does not show the format, expected --reader with one of "
            f"{', '.join(READERS)}{f'; {known}' if known else ''}"
        )
    return [
        Source(source.path, str(name), source.span)
        for source, name in zip(sources, names, strict=True)
    ]


def times_of(sources: Sequence[Source], how: Reading) -> list[np.ndarray | Skipped]:
    """The times of each source's frames, (T,) datetime64[s]; or why they are not known."""
    return [_times_or_why(source, how) for source in sources]


def _times_or_why(source: Source, how: Reading) -> np.ndarray | Skipped:
    try:
        time = frame_times(source.path, source.reader, how)
    except (InputError, OSError) as error:
        return Skipped(source.path, one_line(error))
    return time[in_span(rounded_times(time, how.minutes), source.span)]


def in_span(time: np.ndarray, span: tuple[str, str]) -> slice:
    """The frames of START/END, of either of which an empty text is no bound; perhaps none.

    time: (T,) datetime64[s], rounded. Raises InputError for what is no time.
    """
    start, end = span
    first = np.searchsorted(time, parse_time(start)) if start else 0
    stop = np.searchsorted(time, parse_time(end)) if end else len(time)
    return slice(int(first), int(max(first, stop)))


def check_some(num_frames: int, sources: Sequence[Source]) -> None:
    """Raises InputError where no frame lies in the spans of the sources."""
    if not num_frames:
        raise InputError(
            f"none of {len(sources)} sources, such as {sources[0].path}, has a frame in "
            f"@{'/'.join(sources[0].span)}, expected some; choose another START/END"
        )


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def in_order(sources: Sequence[Source], times: Sequence[np.ndarray], minutes: int) -> Frames:
    """The frames of all sources in order of time, those near the grid of `minutes` rounded to it.

    times: of each source; empty of those that were skipped.
    Raises InputError for a time that occurs twice.
    """
    as_read = np.concatenate(times)
    owner = np.repeat(np.arange(len(times)), [len(time) for time in times])
    order = np.argsort(as_read, kind="stable")
    as_read, owner = as_read[order], owner[order]
    repeated = np.flatnonzero(np.diff(as_read) == np.timedelta64(0, "s"))
    if len(repeated):
        one, other = owner[repeated[0]], owner[repeated[0] + 1]
        raise InputError(
            f"{sources[one].path} and {sources[other].path} both have the frame of "
            f"{format_time(as_read[repeated[0]])}, expected times that occur once; leave one out"
        )
    return Frames(rounded_times(as_read, minutes), as_read, owner)


def list_names(paths: Sequence[Path]) -> str:
    """Names without folders: all of three, the first and the last of more."""
    names = sorted({path.name for path in paths})
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} to {names[-1]}, {len(names)} files"
