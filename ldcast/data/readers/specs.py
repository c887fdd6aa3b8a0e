"""What a `--data` names: a file, a store, the sample or synthetic rain, perhaps a span of it."""

import os
import re
from dataclasses import replace
from pathlib import Path

from ldcast.data.addresses import is_remote, located
from ldcast.data.cadence import round_event
from ldcast.data.event import RainEvent
from ldcast.data.event_files import read_event_file
from ldcast.data.pieces import cut
from ldcast.data.readers.gridded import GRIDDED_SUFFIXES, read_gridded
from ldcast.data.reading import AS_STATED, Reading
from ldcast.data.spans import select_span
from ldcast.data.synthetic import synthetic_event
from ldcast.errors import InputError

_SPAN = re.compile(r"(?P<path>.+)@(?P<start>[\dTZ:-]*)/(?P<end>[\dTZ:-]*)")
_SYNTHETIC = re.compile(r"synthetic(:(?P<seed>.*))?")
SAMPLE = "sample"
_SAMPLE_PATH = Path(__file__).parents[1] / "samples" / "meteonet_20160828.npz"


def read_event(spec: str | Path, how: Reading = AS_STATED) -> RainEvent:
    """The event that a `--data` argument names.

    spec: `PATH` of an event file, of NetCDF (.nc, .nc4, .cdf) or of a Zarr folder (.zarr),
        `synthetic:SEED` or `synthetic` (seed 0), of frames `how.minutes` apart; or `sample`, an
        hour of radar that comes with the package (NOTICE says whose). Each may end in
        `@START/END` (ISO times, UTC; END not included; either may be left out); of NetCDF and Zarr
        only that span is loaded.
    how: its piece is cut out, and its times are rounded.
    An event file's arrays on the grid of the rain become `fields`, see `ldcast.data.fields`.
    Returns the event with rain_rate as stored (float16 or float32; float64 becomes float32) and
    values within rounding below zero set to 0. Times within 30 s of the grid of whole `how.minutes`
    are rounded to it; START and END choose by those.
    Raises InputError if the file or the span is not what is described here.
    """
    source, start, end = split_span(str(spec))
    if synthetic := _SYNTHETIC.fullmatch(source):
        event = cut(_synthetic_event(synthetic["seed"], how.minutes), how)
    elif _is_sample(source):
        event = cut(read_event_file(_SAMPLE_PATH, how), how)
    elif _is_gridded(source):
        event = read_gridded(located(source), how, start, end)
    else:
        event = cut(read_event_file(Path(source), how), how)
    event = round_event(event, how.minutes)
    return select_span(event, start, end, how.minutes) if start or end else event


def spec_source(spec: str) -> str:
    """The path, or `synthetic...`, of a spec, without its span."""
    return split_span(spec)[0]


def spec_span(spec: str) -> tuple[str, str]:
    """START and END of a spec; an empty text where there is no bound."""
    return split_span(spec)[1:]


def absolute_spec(spec: str) -> str:
    """The same data from any working folder."""
    source, start, end = split_span(spec)
    if not (_SYNTHETIC.fullmatch(source) or _is_sample(source) or is_remote(source)):
        source = os.path.abspath(source)
    return f"{source}@{start}/{end}" if start or end else source


def split_span(spec: str) -> tuple[str, str, str]:
    """(path or `synthetic...`, START, END) of a spec; an empty text where there is no bound."""
    if Path(spec).exists():  # a path may contain @
        return spec, "", ""
    if match := _SPAN.fullmatch(spec):
        return match["path"], match["start"], match["end"]
    source, _, span = spec.rpartition("@")
    is_made_here = _SYNTHETIC.fullmatch(source) or _is_sample(source)
    if Path(source).is_file() or _is_gridded(source) or is_made_here:
        raise InputError(
            f"span '{span}' of {source}: expected START/END with ISO times, either may be empty, "
            "such as @2016-07-11T21:00/2016-07-11T23:00 or @/2016-07-11T23:00"
        )
    return spec, "", ""


def _is_sample(source: str) -> bool:
    """A file or folder of that name, which one may have, is meant before."""
    return source == SAMPLE and not Path(source).exists()


def _is_gridded(source: str) -> bool:
    return is_remote(source) or Path(source).suffix.lower() in GRIDDED_SUFFIXES


def _synthetic_event(seed: str | None, minutes: int) -> RainEvent:
    if seed is None:
        seed = "0"
    if not (seed.isascii() and seed.isdigit()):
        raise InputError(f"seed '{seed}' of synthetic rain: expected a number, such as synthetic:3")
    event = synthetic_event(int(seed), minutes=minutes)
    return replace(event, source=f"synthetic:{int(seed)}")
