"""Rain from NetCDF, Zarr and xarray, found by its CF standard name and converted by its units.

Rates and amounts with the standard names of `RATES` and `AMOUNTS` are read. An amount fell in the
interval that the time bounds give or, without them, an attribute or the spacing of the frames.
Source: CF Conventions 1.11; CF Standard Name Table.
"""

import itertools
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ldcast.data.addresses import absolute, is_remote, stem
from ldcast.data.cadence import rounded_times
from ldcast.data.checks import (
    FROM_DBZ,
    JITTER,
    amounts_note,
    check_apart_in_time,
    checked_rain_rate,
    checked_time,
    has_overlap,
    millimetres,
    mm_per_hour,
    possible_rain_rate,
    rounded_to_seconds,
)
from ldcast.data.event import RainEvent
from ldcast.data.formats import looks_like
from ldcast.data.pieces import cut_unloaded
from ldcast.data.readers.allocated import without_empty_end, without_unwritten_end
from ldcast.data.readers.cf import oriented, time_dimension, with_axes
from ldcast.data.readers.chunks import Written
from ldcast.data.readers.importers import relation_text
from ldcast.data.readers.opening import open_dataset
from ldcast.data.readers.reflectivity import BY_ZR, is_reflectivity_unit, rain_from_reflectivity
from ldcast.data.reading import AS_STATED, Reading
from ldcast.data.spans import frames_in_span
from ldcast.errors import InputError, UnreadableError
from ldcast.rain import MAX_RAIN_RATE, as_float32

if TYPE_CHECKING:  # an extra, imported where it is used
    from xarray import DataArray, Dataset

GRIDDED_SUFFIXES = (".nc", ".nc4", ".cdf", ".zarr")
RATES = ("rainfall_rate", "lwe_precipitation_rate", "precipitation_flux", "rainfall_flux")
AMOUNTS = (
    "lwe_thickness_of_precipitation_amount",
    "thickness_of_rainfall_amount",
    "precipitation_amount",
    "rainfall_amount",
)

_MIN_SUMS = 4  # frames that show whether they only grow
_MINUTES = ("accutime",)  # attributes with the minutes of an amount: pysteps writes this one
_DURATIONS = ("accumulation_period", "accumulation_time", "accumulation_interval")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(
    r"(pt)?(?P<number>\d+(\.\d+)?)\s*(?P<unit>s|sec|second|m|min|minute|h|hr|hour|d|day)s?"
)


def read_gridded(
    path: Path | str, how: Reading = AS_STATED, start: str = "", end: str = ""
) -> RainEvent:
    """The event in a NetCDF file or a Zarr store, perhaps behind an address; only the frames of the
    span and the piece that `how` asks for are loaded.

    start, end: ISO times as in PATH@START/END, end not included; empty for no bound.
    Returns what `event_from_dataarray` does, of the one variable with a standard name of rain. Its
    times are the ends of the time bounds where the file has them.
    Raises InputError for a file that cannot be read, for none or several such variables, and as
    `event_from_dataarray` does.
    """
    with open_dataset(path) as dataset:
        rain = _rain_variable(dataset, path, how.zr)
        written, notes = None, []
        if (time_axis := time_dimension(rain)) is not None:
            dataset, written, notes = without_unwritten_end(dataset, rain, time_axis, path)
        rain, bounds = find_rain(dataset, path, how)
        event = _event(describe_rain(rain, str(path), bounds, how), (start, end), written)
    notes += event.notes
    return replace(event, name=stem(path), source=absolute(path), notes=tuple(notes))


def event_from_dataarray(rain: "DataArray", how: Reading = AS_STATED) -> RainEvent:
    """The event in a DataArray of rain: float32 mm/h, row 0 = north, NaN = no data.

    rain: dimensions time (UTC), y and x in any order and direction, each with a coordinate; a time
        that is only a coordinate, and other dimensions of size 1, are fine. It needs `units`, and
        so do x and y: m, km or degrees.
    The grid is that of `oriented` in ldcast/data/readers/cf.py. Above 500 mm/h counts as no data.
    Raises InputError, naming what is missing or wrong.
    """
    return _event(describe_rain(rain, "the DataArray", how=how))


@dataclass(frozen=True)
class GriddedRain:
    """Rain that was found, placed and checked by what its file says of it, but not loaded.

    rain: (time, y, x), the piece that was asked for, row 0 = north. whole: what it was cut out of.
    where: named in messages. grid: as an event has it.
    time: (T,) datetime64[s]. factors: (T,), by which frames become mm/h.
    interval_start: as an event has it. bounds: (T, 2), start and end of each frame; None without.
    """

    rain: "DataArray"
    whole: "DataArray"
    where: str
    grid: dict[str, Any]
    time: np.ndarray
    factors: np.ndarray
    interval_start: np.ndarray | None
    bounds: np.ndarray | None
    notes: tuple[str, ...]
    how: Reading

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.rain.shape

    def select(self, frames: slice) -> "GriddedRain":
        """Some of its frames."""
        time_axis = self.rain.dims[0]
        rain, whole = (field.isel({time_axis: frames}) for field in (self.rain, self.whole))
        parts = (self.interval_start, self.bounds)
        start, bounds = (None if part is None else part[frames] for part in parts)
        return replace(
            self,
            rain=rain,
            whole=whole,
            time=self.time[frames],
            factors=self.factors[frames],
            interval_start=start,
            bounds=bounds,
        )

    def read(self, frames: slice, rows: slice, columns: slice) -> np.ndarray:
        """(T, H, W) float32 mm/h of a part, NaN for no data and above 500 mm/h.

        Raises InputError for values that cannot be loaded or are no rates of rain.
        """
        return possible_rain_rate(self._values(frames, rows, columns), self.where).rain_rate

    def load(self) -> np.ndarray:
        """All of it as `read` does, where not too much of it is above 500 mm/h."""
        everything = slice(None)
        return checked_rain_rate(self._values(everything, everything, everything), self.where)

    def _values(self, frames: slice, rows: slice, columns: slice) -> np.ndarray:
        part = self.rain[frames, rows, columns]
        rain_rate = _load(part, self.factors[frames], self.where)
        if not _is_reflectivity(part):
            return rain_rate
        return rain_from_reflectivity(rain_rate, _text(part, "units"), self.how.zr, self.where)


def describe_rain(
    rain: "DataArray", where: str, bounds: np.ndarray | None = None, how: Reading = AS_STATED
) -> GriddedRain:
    """What is known of a DataArray of rain before it is loaded; see `event_from_dataarray`.

    where: named in messages. bounds: (T, 2) datetime64[s], start and end of each frame.
    """
    whole, grid = oriented(with_axes(rain, where), where)
    rain, grid, notes = cut_unloaded(whole, grid, how, where)
    time_axis = rain.dims[0]
    _check_times(rain[time_axis], where)
    time = rain[time_axis].to_numpy() if bounds is None else bounds[:, 1]
    time = checked_time(time, rain.sizes[time_axis], where)
    factors, start = _factors(rain, time, bounds, where, how)
    what = " ".join(filter(None, (_text(rain, "standard_name"), "in", _text(rain, "units"))))
    by = f" by {relation_text(how.zr)}" if _is_reflectivity(rain) else ""
    made = f"{what} to mm/h{by}; NaN for no data and above {MAX_RAIN_RATE:g} mm/h"
    grid = {**grid, "processing": made}
    return GriddedRain(rain, whole, where, grid, time, factors, start, bounds, notes, how)


def find_rain(
    dataset: "Dataset", address: Path | str, how: Reading = AS_STATED
) -> tuple["DataArray", np.ndarray | None]:
    """The variable of rain of an open dataset, and its time bounds (T, 2) datetime64[s] if any.

    Raises InputError where there is none, or several.
    """
    rain = _rain_variable(dataset, address, how.zr)
    return rain, _time_bounds(dataset, rain, address)


def _event(
    found: GriddedRain, span: tuple[str, str] = ("", ""), written: Written | None = None
) -> RainEvent:
    """The event, loaded, without frames at its end that hold nothing.

    written: what the chunks of a store show; None where nothing does.
    """
    minutes = found.how.minutes
    if any(span):
        frames = slice(*frames_in_span(rounded_times(found.time, minutes), *span, found.where))
        found, written = found.select(frames), written and written.select(frames)
    if found.interval_start is not None:
        check_apart_in_time(found.interval_start, found.time, found.where, minutes)
    rain_rate = found.load()
    event = RainEvent(
        rain_rate=rain_rate,
        time=found.time,
        grid=found.grid,
        name=str(found.rain.name or "rain"),
        interval_start=found.interval_start,
        notes=(*found.notes, *rain_notes(found, rain_rate)),
    )
    return without_empty_end(event, found.whole, written)


def rain_notes(found: GriddedRain, rain_rate: np.ndarray) -> tuple[str, ...]:
    """What the user should know of how rates were made of what was loaded, one line each."""
    rain, time, start, bounds = found.rain, found.time, found.interval_start, found.bounds
    if start is not None and _is_amount(rain):
        note = amounts_note(start, time)
        if bounds is None and _stated_interval(rain) is None:
            note += ", the spacing of the frames"
            if name := _bounds_name(rain[rain.dims[0]]):
                note += f": the bounds that its time names, {name}, are not there"
            if _only_grows(rain_rate):
                note += "; none ever decreases: if they are sums since a start, take differences"
        return (note,)
    if (
        start is None
        and bounds is not None
        and has_overlap(bounds[:, 0], time, found.how.minutes).any()
    ):
        return (
            "the time bounds of its rain rates overlap, but no cell_methods say that they are "
            "means; they are taken for those of an instant",
        )
    return ()


def _only_grows(rain_rate: np.ndarray) -> bool:
    """Whether no pixel of four frames or more ever decreases, and some grow."""
    if len(rain_rate) < _MIN_SUMS:
        return False
    pairs = list(itertools.pairwise(rain_rate))
    return not any((later < earlier).any() for earlier, later in pairs) and any(
        (later > earlier).any() for earlier, later in pairs
    )


# ---- variables -----------------------------------------------------------------------------------


def _rain_variable(
    dataset: "Dataset", path: Path | str, zr: tuple[float, float] | None
) -> "DataArray":
    """The variable of rain; where a relation is named, that of reflectivity if there is one."""
    fields = [field for field in dataset.data_vars.values() if field.ndim >= 2]
    rain = [field for field in fields if _text(field, "standard_name") in RATES + AMOUNTS]
    reflectivity = [field for field in fields if _is_reflectivity(field)]
    found, what = (reflectivity, "reflectivity") if zr and reflectivity else (rain, "rain")
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(map(_describe, found))
        raise InputError(
            f"{path} has {len(found)} variables of {what}, {names}, expected one; leave the others "
            "out, by xarray's drop_vars for instance"
        )
    raise InputError(
        f"{path} has no variable with a standard_name of rain; it has "
        f"{', '.join(map(_describe, fields)) or 'none of two dimensions'}, expected one of "
        f"{', '.join(RATES + AMOUNTS)}; {_name_it(fields, reflectivity, path)}"
    )


def _name_it(fields: "list[DataArray]", reflectivity: "list[DataArray]", path: Path | str) -> str:
    """What to do about a variable of rain that is not called so."""
    if not fields:
        if is_remote(path):
            return "a server that lists no folders needs a store with consolidated metadata"
        seen = looks_like(path, other_than="xarray")
        return seen or "name a file that has rain (time, y, x)"
    rates = [field for field in fields if mm_per_hour(_text(field, "units"))]
    if reflectivity and not rates:
        return BY_ZR
    name = (rates or fields)[0].name
    return (
        f"if {name} is a rate of rain, set its attribute standard_name to rainfall_rate, as in "
        f'dataset["{name}"].attrs["standard_name"] = "rainfall_rate" in xarray'
        f"{f'; {BY_ZR}' if reflectivity else ''}"
    )


def _text(field: "DataArray", attribute: str) -> str:
    """An attribute that should be a text, but is whatever the file has; empty without one."""
    return str(field.attrs.get(attribute, ""))


def _describe(field: "DataArray") -> str:
    """Name, standard name and units, for messages."""
    known = (_text(field, attribute) for attribute in ("standard_name", "units"))
    return f"{field.name} ({', '.join(filter(None, known)) or 'neither standard_name nor units'})"


def _is_reflectivity(field: "DataArray") -> bool:
    name, units = _text(field, "standard_name"), _text(field, "units")
    is_named = "reflectivity" in name and "differential" not in name
    return is_named or "dbz" in units.lower() or is_reflectivity_unit(units)


def _time_bounds(dataset: "Dataset", rain: "DataArray", path: Path | str) -> np.ndarray | None:
    """(T, 2) datetime64[s], start and end of each frame; None if the file has none."""
    for coordinate in rain.coords.values():
        name = _bounds_name(coordinate)
        if coordinate.dtype.kind != "M" or name not in dataset:
            continue
        bounds, shape = dataset[name].to_numpy(), (*coordinate.shape, 2)
        if bounds.shape != shape or bounds.dtype.kind != "M":
            raise InputError(
                f"{path}: {name}, the bounds of {coordinate.name}, has shape {bounds.shape} of "
                f"{bounds.dtype}, expected {shape} of times, start and end of each; fix it or "
                "drop it"
            )
        return np.sort(rounded_to_seconds(bounds).reshape(-1, 2), axis=1)
    return None


def _bounds_name(coordinate: "DataArray") -> str:
    return str(coordinate.encoding.get("bounds", coordinate.attrs.get("bounds", "")))


def _check_times(time: "DataArray", where: str) -> None:
    """Raises InputError where xarray found no times of the standard calendar."""
    if time.dtype.kind in "fiu":
        units = _text(time, "units")
        raise InputError(
            f"{where}: {time.name} has {f'units {units!r}' if units else 'no units'}, expected "
            "such as 'minutes since 2024-07-11 12:00:00', of UTC; set its attribute units"
        )
    if time.dtype.kind in "SUT" or isinstance(time.values.flat[0], str | bytes):
        raise InputError(
            f"{where}: {time.name} holds texts, expected numbers with units such as 'minutes since "
            "2024-07-11 12:00:00', of UTC; convert it, by numpy's datetime64 for instance"
        )
    if time.dtype == object:  # what xarray makes of times that datetime64 cannot hold
        calendar = time.encoding.get("calendar") or getattr(time.values[0], "calendar", "unknown")
        raise InputError(
            f"{where}: {time.name} is of calendar {calendar}, from {time.values[0]} on, expected "
            "the standard one and years from 1678 to 2261; convert it, by xarray's "
            "convert_calendar for instance"
        )


# ---- values --------------------------------------------------------------------------------------


def _factors(
    rain: "DataArray",
    time: np.ndarray,
    bounds: np.ndarray | None,
    where: str,
    how: Reading,
) -> tuple[np.ndarray, np.ndarray | None]:
    """(T,) float64, by which each frame is multiplied to be in mm/h; and `interval_start`.

    Reflectivity is left unchanged.
    """
    name, units = _text(rain, "standard_name"), _text(rain, "units")
    if _is_reflectivity(rain):
        if how.zr is None:
            raise InputError(
                f"{where}: {_describe(rain)} is reflectivity, expected rain; {FROM_DBZ}; in a "
                f"file, {BY_ZR}"
            )
        return np.broadcast_to(1.0, len(time)), _mean_start(rain, time, bounds)
    if name and name not in RATES + AMOUNTS:
        raise InputError(
            f"{where}: {_describe(rain)} is not rain by its standard_name, expected one of "
            f"{', '.join(RATES + AMOUNTS)}"
        )
    rate, amount = mm_per_hour(units), millimetres(units)
    if (name in AMOUNTS and rate is not None) or (name in RATES and amount is not None):
        raise InputError(
            f"{where}: {_describe(rain)} is {'a rate' if name in RATES else 'an amount'} by its "
            "standard_name, but not by its units; fix the one that is wrong"
        )
    if rate is not None:
        return np.broadcast_to(rate, len(time)), _mean_start(rain, time, bounds)
    if amount is not None:
        start = _interval_start(rain, time, bounds, where, how.minutes)
        return amount / ((time - start) / np.timedelta64(1, "h")), start
    raise InputError(
        f"{where}: {rain.name} has {f'units {units!r}' if units else 'no units'}, expected a rate "
        "such as mm h-1, kg m-2 s-1 or m s-1, or an amount such as mm; set its attribute units"
    )


def _is_amount(rain: "DataArray") -> bool:
    return millimetres(_text(rain, "units")) is not None


def _interval_start(
    rain: "DataArray", time: np.ndarray, bounds: np.ndarray | None, where: str, minutes: int
) -> np.ndarray:
    """(T,) datetime64[s]: since when each frame's amount fell."""
    if bounds is not None:
        if (bounds[:, 0] == bounds[:, 1]).any():
            raise InputError(
                f"{where}: the time bounds of an amount of rain are equal, expected start and end "
                "of the interval; fix them, or convert to mm h-1"
            )
        return bounds[:, 0]
    if (stated := _stated_interval(rain)) is not None:
        return time - stated
    spans = np.diff(rounded_times(time, minutes))
    is_even = len(spans) > 0 and (spans == spans[0]).all()
    if not is_even or (np.abs(np.diff(time) - spans) > JITTER).any():
        raise InputError(
            f"{where}: it has amounts of rain without time bounds, and {len(time)} frames that are "
            "not evenly spaced give no interval; add bounds to time, or convert to mm h-1"
        )
    return time - max(spans[0], _sampled_every(rain) or spans[0])


def _mean_start(
    rain: "DataArray", time: np.ndarray, bounds: np.ndarray | None
) -> np.ndarray | None:
    """(T,) datetime64[s]: since when each rate is the mean; None of rates of an instant."""
    if _method(rain) in ("", "point"):
        return None
    if bounds is not None:
        return bounds[:, 0]
    sampled = _sampled_every(rain)
    return None if sampled is None else time - sampled


def _sampled_every(rain: "DataArray") -> np.timedelta64 | None:
    """The spacing of the samples that were summed or averaged, where cell_methods state it.

    The interval of the sum or mean is no shorter.
    """
    found = re.search(r"\(\s*interval:([^)]*?)(comment:|\))", _text(rain, "cell_methods"))
    return _duration(found[1]) if found else None


def _stated_interval(rain: "DataArray") -> np.timedelta64 | None:
    """In which an amount fell, by the attributes that some writers have for it."""
    given = [_duration(_text(rain, name)) for name in _DURATIONS]
    minutes = [_duration(f"{_text(rain, name)} min") for name in _MINUTES]
    return next((found for found in (*given, *minutes) if found is not None), None)


def _duration(text: str) -> np.timedelta64 | None:
    """Of "1 hour", "60 min", "PT1H", ...; None of anything else, and of nothing."""
    found = _DURATION.fullmatch(text.strip().lower())
    if not found or not float(found["number"]):
        return None
    return np.timedelta64(round(float(found["number"]) * _SECONDS[found["unit"][0]]), "s")


def _method(rain: "DataArray") -> str:
    """What cell_methods say was done along time: "mean", "point", ...; empty without."""
    names = "|".join({"time", re.escape(str(rain.dims[0]).lower())})
    methods = _text(rain, "cell_methods").lower()
    found = re.search(rf"(?:^|\s)(?:{names}):\s*(?:\w+:\s*)*(?P<method>\w+)", methods)
    return found["method"] if found else ""


def _load(rain: "DataArray", factors: np.ndarray, where: str) -> np.ndarray:
    """(T, H, W) float32 mm/h."""
    try:
        values = rain.to_numpy()
    except Exception as why:  # of many kinds, from the packages beneath xarray
        raise UnreadableError(
            f"{where}: {rain.name} cannot be loaded ({type(why).__name__}: {why}); fetch it again"
        ) from why
    if values.dtype.kind not in "fiu":
        raise InputError(f"{where}: {rain.name} is {values.dtype}, expected numbers")
    values, is_half = _without_invalid(values, rain, where), values.dtype == np.float16
    rain_rate = np.empty(values.shape, np.float32)
    for frame, factor, out in zip(values, factors, rain_rate, strict=True):
        # Halves as they are read elsewhere; all else in float64, since factors are.
        out[...] = as_float32(frame) if is_half and factor == 1 else frame * factor
    return rain_rate


def _without_invalid(values: np.ndarray, rain: "DataArray", where: str) -> np.ndarray:
    """`values` with NaN outside of the attributes valid_min, valid_max and valid_range."""
    names = [name for name in ("valid_min", "valid_max", "valid_range") if name in rain.attrs]
    if not names:
        return values
    given = [np.asarray(rain.attrs[name]) for name in names]
    if any(limits.dtype.kind not in "fiu" for limits in given) or given[-1].size > 2:
        raise InputError(
            f"{where}: {' and '.join(names)} of {rain.name} are not numbers, expected the lowest "
            "and the highest valid value; fix or drop them"
        )
    low, high = rain.attrs.get("valid_range", (-np.inf, np.inf))
    limits = np.float64([rain.attrs.get("valid_min", low), rain.attrs.get("valid_max", high)])
    margin = 0.0
    if all(limit.dtype.kind in "iu" for limit in given):  # else they count in unpacked numbers
        scale = float(rain.encoding.get("scale_factor", 1.0))
        limits = np.sort(limits * scale + float(rain.encoding.get("add_offset", 0.0)))
        margin = abs(scale) / 2
    is_valid = (values >= limits[0] - margin) & (values <= limits[1] + margin)
    return np.where(is_valid, values, np.nan)
