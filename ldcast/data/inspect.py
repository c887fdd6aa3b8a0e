"""Shows what is in an archive of rain: coverage by month, gaps, how wet it is, and a picture.

    python -m ldcast.data.inspect radar.zarr
    python -m ldcast.data.inspect radar.zarr --frames 5000 --plot radar.png

ARCHIVE is any Zarr store or NetCDF file that this package reads. Times are all looked at; of rain
some frames, evenly over the archive: what is said of it is as sure as that many frames are.
"""

import argparse
import itertools
import sys
from pathlib import Path

from tqdm import tqdm

from ldcast.data.building.overview import QUANTILES, Month, Overview, look_at, spread
from ldcast.data.building.picture import draw_overview
from ldcast.data.building.report import count_of
from ldcast.data.checks import format_time
from ldcast.data.readers.reading_flags import add_reading_flags, reading_of
from ldcast.data.readers.services import require_reader
from ldcast.data.readers.times import open_rain
from ldcast.data.reading import Reading
from ldcast.errors import check_count, run_script
from ldcast.machine.folders import check_output_path
from ldcast.products.plot import require_matplotlib

_NUM_GAPS = 5  # that have a line each


def describe(overview: Overview) -> list[str]:
    """Lines for a terminal, a table of months among them."""
    time, (height, width) = overview.time, overview.shape
    pixel = overview.grid.get("pixel_size_m")
    num_seen = sum(month.num_seen for month in overview.months)
    return [
        f"{overview.path}: {len(time)} frames, {format_time(time[0])} to {format_time(time[-1])}, "
        f"{overview.minutes:g} minutes apart, {height} x {width} pixels"
        f"{f' of {pixel:g} m' if pixel else ''}",
        *_lines_of_gaps(overview),
        f"of {num_seen} frames, evenly over all:",
        *_table(overview),
        "wet pixels: "
        + ", ".join(
            f"{level:.1%} below {rate:.2g} mm/h"
            for level, rate in zip(QUANTILES, overview.quantiles(), strict=True)
        ),
    ]


def _lines_of_gaps(overview: Overview) -> list[str]:
    lines = [
        f"{count} times frames are {seconds / 60:.3g} minutes apart, no multiple of the cadence"
        for seconds, count in overview.other_steps.items()
    ]
    gaps, num_missing = overview.gaps, overview.num_missing
    if not gaps:
        return [*lines, "no gap"]
    share = num_missing / (num_missing + len(overview.time))
    longest = f", the {_NUM_GAPS} longest" if len(gaps) > _NUM_GAPS else ""
    counts = f"{count_of(len(gaps), 'gap')} with {count_of(num_missing, 'time')} missing"
    lines.append(f"{counts} ({share:.1%}){longest}:")
    return lines + [
        f"  {count_of(gap.num_missing, 'time')} between {format_time(gap.before)} and "
        f"{format_time(gap.after)}"
        for gap in gaps[:_NUM_GAPS]
    ]


def _table(overview: Overview) -> list[str]:
    """A row for each month, and for each stretch of months without a frame.

    What no frame was looked at for is a dash.
    """
    rows = [("month", "frames", "coverage", "blank", "no data", "wet", "mean", "highest")]
    for has_frames, group in itertools.groupby(overview.months, lambda of: of.num_frames > 0):
        months = list(group)
        rows += _rows(months) if has_frames else [_row_of_none(months)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]


def _row_of_none(months: list[Month]) -> tuple[str, ...]:
    names = dict.fromkeys([str(months[0].month), str(months[-1].month)])
    return (" to ".join(names), "0", "0.0%", *5 * "-")


def _rows(months: list[Month]) -> list[tuple[str, ...]]:
    rows = []
    for of in months:
        seen = of.num_seen > of.num_blank
        rows.append(
            (
                str(of.month),
                str(of.num_frames),
                f"{of.num_frames / of.num_expected:.1%}",
                f"{of.num_blank / of.num_seen:.1%}" if of.num_seen else "-",
                *(f"{share:.1%}" if seen else "-" for share in (1 - of.valid, of.wet)),
                *(f"{rate:.3g}" if seen else "-" for rate in (of.mean, of.highest)),
            )
        )
    return rows


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m ldcast.data.inspect",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("archive", type=Path, metavar="ARCHIVE")
    parser.add_argument("--frames", type=int, default=500, help="to look at (%(default)s)")
    parser.add_argument("--plot", type=Path, metavar="PICTURE.png", help="draw it, too")
    add_reading_flags(parser.add_argument)
    flags = parser.parse_args(argv)
    check_count("frames", flags.frames)
    if flags.plot is not None:
        check_output_path(flags.plot, (".png",))
        require_matplotlib()
    require_reader("xarray")
    rain = open_rain(flags.archive, reading_of(flags, Reading.minutes))
    frames = tqdm(spread(rain.time, flags.frames), desc="look", unit="frame", disable=None)
    overview = look_at(rain, Reading.minutes, frames)
    print("\n".join(describe(overview)))
    if flags.plot is not None:
        draw_overview(overview, flags.plot)
        print(f"wrote {flags.plot}")


if __name__ == "__main__":
    sys.exit(run_script(main))
