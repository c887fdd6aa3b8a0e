"""What a build says when it is done: what was read, checked, written and skipped."""

import textwrap
from collections.abc import Sequence

import numpy as np

from ldcast.data.building.archive import SHARD_FRAMES, Archive, chunks_of, missing_times
from ldcast.data.building.run import Summary
from ldcast.data.building.sources import Skipped
from ldcast.data.checks import format_time
from ldcast.data.event import RainEvent
from ldcast.data.grids import is_in_degrees
from ldcast.rain import MAX_RAIN_RATE, WET_THRESHOLD, is_wet

_NUM_NAMED = 10  # skipped files that have a line each
_MAX_TEXT = 120  # characters of how rain was read; the archive's attributes have all


def describe_event(event: RainEvent) -> str:
    """Frames, span, cadence, size, and what is in them, in one line."""
    num_frames, height, width = event.rain_rate.shape
    num_valid = num_frames * height * width - np.count_nonzero(np.isnan(event.rain_rate))
    wet = np.count_nonzero(is_wet(event.rain_rate, WET_THRESHOLD)) / max(num_valid, 1)
    pixel = event.grid.get("pixel_size_m")
    return (
        f"{num_frames} frames, {format_time(event.time[0])} to {format_time(event.time[-1])}, "
        f"{height} x {width} pixels{f' of {pixel:g} m' if pixel else ''}, {wet:.1%} wet, at most "
        f"{np.fmax.reduce(event.rain_rate, axis=None):.1f} mm/h, no data "
        f"{1 - num_valid / event.rain_rate.size:.1%}"
    )


def lines_of_skipped(skipped: Sequence[Skipped], num_sources: int) -> list[str]:
    """The files that could not be read, by name, and how many there are."""
    if not skipped:
        return []
    lines = [f"skipped {one.path.name}: {one.why}" for one in skipped[:_NUM_NAMED]]
    unnamed = [one.path.name for one in skipped[_NUM_NAMED:]]
    lines += [f"skipped, too: {', '.join(unnamed)}"] if unnamed else []
    return [*lines, f"{len(skipped)} of {num_sources} files could not be read"]


def lines_of_summary(summary: Summary, num_sources: int) -> list[str]:
    """What a build did and what the archive is now."""
    archive, num_written = summary.archive, summary.total("num_frames")
    known = f"; {summary.num_known} were there" if summary.num_known else ""
    lines = [f"wrote {count_of(num_written, 'frame')} into {archive.path}{known}"]
    if num_written:
        lines.append(f"  they are {_describe_values(summary)}")
    lines += [f"  archive: {line}" for line in lines_of_archive(archive)]
    damaged = [one for report in summary.reports for one in report.skipped]
    by_path = {one.path: one for one in [*summary.skipped, *damaged]}  # one file, many shards
    lines += lines_of_skipped(list(by_path.values()), num_sources)
    notes = dict.fromkeys(note for report in summary.reports for note in report.notes)
    if any("projection" in report.about for report in summary.reports):
        notes |= _note_of_place(archive)
    return [*lines, *(f"note: {note}" for note in notes)]


def _note_of_place(archive: Archive) -> dict[str, None]:
    if "projection" in archive.grid:
        return {}
    return dict.fromkeys(["no projection that is known: places count from the south-west corner"])


def lines_of_archive(archive: Archive) -> list[str]:
    """Units, orientation, cadence and layout of an archive, and how much room it takes."""
    chunk = " x ".join(map(str, chunks_of(archive).chunk))
    size = sum(file.stat().st_size for file in archive.path.rglob("*") if file.is_file())
    grid, (height, width) = archive.grid, archive.shape
    unit = "degrees" if is_in_degrees(str(grid.get("projection", ""))) else "m"
    corners = ", ".join(f"{name} {grid[name]:.10g}" for name in ("x1", "y1", "x2", "y2"))
    processing = archive.about.get("processing", "")
    read_as = f"; from {textwrap.shorten(processing, _MAX_TEXT)}" if processing else ""
    return [
        f"{len(archive.time)} frames, {format_time(archive.time[0])} to "
        f"{format_time(archive.time[-1])}, {archive.minutes} minutes apart, "
        f"{_describe_gaps(archive)}",
        f"{height} x {width} pixels, row 0 in the north, column 0 in the west; {corners} {unit}",
        f"mm/h, NaN for no data and above {MAX_RAIN_RATE:g}{read_as}",
        f"rounded to {archive.bits} bits: relative error at most {archive.relative_error:.2%}",
        f"chunks of {chunk} in shards of {SHARD_FRAMES} frames, {size / 1e6:.1f} MB",
    ]


def _describe_values(summary: Summary) -> str:
    num_pixels, num_valid = summary.total("num_pixels"), summary.total("num_valid")
    highest = max(report.highest for report in summary.reports)
    blank = summary.total("num_blank")
    return (
        f"{summary.total('num_wet') / max(num_valid, 1):.1%} wet, at most {highest:.1f} mm/h, no "
        f"data {1 - num_valid / max(num_pixels, 1):.1%}"
        f"{f', {blank} of them without any' if blank else ''}"
    )


def _describe_gaps(archive: Archive) -> str:
    missing = len(missing_times(archive.time, archive.minutes))
    blank = f", {len(archive.unreadable)} blank of damaged files" if len(archive.unreadable) else ""
    num_gaps = np.count_nonzero(np.diff(archive.time) > np.timedelta64(60 * archive.minutes, "s"))
    gaps = f"{count_of(num_gaps, 'gap')} with {count_of(missing, 'time')} missing"
    return f"{gaps if missing else 'no gap'}{blank}"


def count_of(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
