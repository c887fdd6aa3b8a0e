"""Indexes an archive of radar, so that training, verify and calibrate read it in place.

  python -m ldcast.data.index radar.zarr                        -> radar.index.zarr beside it
  python -m ldcast.data.index s3://BUCKET/radar.zarr --out radar.index.zarr

For each 32-px tile of each frame the index holds the share of data, the wet share, the mean and the
99th percentile of the rain; ldcast/data/archive/sidecar.py describes it. The same command again
continues after a kill, and adds frames that are new in the archive.
"""

import argparse
import os
import sys
from pathlib import Path

from tqdm import tqdm

from ldcast.data.addresses import is_remote, located
from ldcast.data.archive.building import Indexed, build_index
from ldcast.data.archive.sidecar import SUFFIX, State, index_address
from ldcast.data.readers.reflectivity import check_relation
from ldcast.data.reading import Reading
from ldcast.errors import InputError, check_count, run_script
from ldcast.frames import FrameConfig
from ldcast.machine.folders import check_writable

_WORDS = {
    State.BLANK: "without data",
    State.UNREADABLE: "that cannot be read",
    State.NO_RAIN: "whose values are no rain",
    State.LISTED_MISSING: "that the archive calls missing",
}


def describe(indexed: Indexed, out: str | Path) -> str:
    """What was done, in one line, and one for each problem."""
    bad = [f"{indexed.counts[kind]:,} {text}" for kind, text in _WORDS.items()]
    bad = [text for text in bad if not text.startswith("0 ")]
    lines = [
        f"{out}: {indexed.num_frames:,} frames, {indexed.num_new:,} of them new; "
        f"{indexed.counts[State.GOOD]:,} are good{''.join(f', {text}' for text in bad)}"
    ]
    lines += indexed.notes
    if indexed.problems:
        lines.append("frames that cannot be used, such as these; repaired ones are tried --again:")
    return "\n".join([*lines, *indexed.problems])


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m ldcast.data.index",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("archive", metavar="ARCHIVE", help="a Zarr store: a path, or an address such as s3://...")
    add("--out", metavar="PATH", help="of the index; default: beside the archive")
    add("--workers", type=int, default=os.cpu_count(), metavar="N", help="processes (%(default)s)")
    add(
        "--zr",
        type=float,
        nargs=2,
        metavar=("A", "B"),
        help="reflectivity becomes rain by Z = A R^B, such as 200 1.6; recorded in the index",
    )
    add("--again", action="store_true", help="try frames again that could not be used")
    minutes = FrameConfig.minutes_per_frame
    add("--minutes-per-frame", type=int, default=minutes, metavar="M", help="(%(default)s)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    flags = parse_arguments(argv)
    check_count("--workers", flags.workers)
    check_count("--minutes-per-frame", flags.minutes_per_frame)
    if flags.zr:
        check_relation(flags.zr)
    archive = located(flags.archive)
    if is_remote(archive) and not flags.out:
        raise InputError(
            f"{archive} is no path, expected --out PATH for its index, which lies beside archives "
            "otherwise; then name the index as --data"
        )
    out = Path(flags.out) if flags.out else index_address(archive)
    if not str(out).endswith(SUFFIX):
        raise InputError(f"got --out {out}, expected a name that ends in {SUFFIX}")
    check_writable(Path(out).absolute().parent)
    how = Reading(zr=tuple(flags.zr) if flags.zr else None, minutes=flags.minutes_per_frame)
    with tqdm(desc="index", unit="frame", disable=None) as bar:

        def start(total: int) -> None:
            bar.total = total

        indexed = build_index(archive, out, how, flags.workers, bar.update, start, flags.again)
    print(describe(indexed, out))


if __name__ == "__main__":
    sys.exit(run_script(main))
