"""A forecast as an xarray Dataset that follows the CF conventions, and back (needs xarray, pyproj).

The names are those of the .npz file, except that `issue_time` is `forecast_reference_time`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ldcast.data.grids import in_metres
from ldcast.motion import QUALITY_MEANINGS
from ldcast.products.amounts import AMOUNT_ENTRIES, PREFIX, Amounts, amounts_of
from ldcast.products.areas import AREA_ENTRIES, areas_of
from ldcast.products.coordinates import (
    clock,
    grid_mapping,
    horizontal,
    read_crs,
    time_encoding,
    window_times,
)
from ldcast.products.forecast import (
    PROVENANCE_ENTRIES,
    Forecast,
    Provenance,
    check_entries,
    continued_before,
    provenance_of,
)
from ldcast.products.statistics import STATISTICS_AXES, STATISTICS_ENTRIES, Statistics

if TYPE_CHECKING:  # an extra, imported where it is used
    import xarray

INPUT_PREFIX = "input_"  # of attributes that were copied from the input, as `source` could be

PYSTEPS_NAMES = {"rain_rate": "precip_intensity", "realization": "ens_number"}
# pysteps reads a projection from a variable of this name only, and knows no other projection.
PYSTEPS_PROJECTION = "polar_stereographic"

# Of 4 x 20 x 256 x 256 values of a forecast, 46 % of them wet (21 MB), zlib's level 1 makes
# 9.0 MB in 0.28 s, level 4 8.7 MB in 0.35 s and level 9 8.4 MB in 5.0 s, and without shuffled bytes
# level 1 makes 9.2 MB in 0.42 s. Each is read in 0.1 s.
COMPRESSION = {"zlib": True, "complevel": 1, "shuffle": True}

# CF-1.9 brought the unsigned bytes of `quality`; 1.11 is what files were checked against.
CONVENTIONS = "CF-1.11"
_RAIN = {"standard_name": "rainfall_rate", "units": "mm h-1"}  # canonical unit m s-1, convertible
# A frame is what a radar would show: the rate at its time, not the amount since the last frame.
_AT_AN_INSTANT = "time: point"
_STATUS = {"standard_name": "status_flag", "units": "1"}

_DIMS = {
    "rain_rate": ("realization", "time", "y", "x"),
    **{values: (axis, "time", "y", "x") for axis, values in STATISTICS_AXES.items()},
    "rain_amount": ("realization", "window", "y", "x"),
    **{PREFIX + name: ("window", "y", "x") for name in STATISTICS_ENTRIES},
    **{PREFIX + of: (PREFIX + axis, "window", "y", "x") for axis, of in STATISTICS_AXES.items()},
}
_AREA_DIMS = {
    **{f"area_{of}": ("realization", "time", "area") for of in ("mean", "highest")},
    **{f"area_amount_{of}": ("realization", "window", "area") for of in ("mean", "highest")},
    **{"area_share": ("time", "area"), "area_amount_share": ("window", "area")},
}
_AMOUNT = {"standard_name": "thickness_of_rainfall_amount", "units": "mm"}
_SUM = "time: sum"  # by its standard name, for the windows of several lengths are no axis of time
_ATTRIBUTES = {
    "rain_rate": {
        "long_name": "rain rate of an ensemble member",
        **_RAIN,
        "cell_methods": _AT_AN_INSTANT,
        "comment": "as in the radar images that it continues: of an instant, or where they show "
        "amounts, the mean over the interval that ends then",
    },
    # CF has standard names for probability densities and distributions, none for exceedance.
    "exceedance_probability": {
        "long_name": "probability of at least the threshold's rain rate",
        "units": "1",
        "cell_methods": _AT_AN_INSTANT,
    },
    "quantile": {
        "long_name": "quantile of the members' rain rates",
        **_RAIN,
        "cell_methods": _AT_AN_INSTANT,
    },
    "ensemble_mean": {
        "long_name": "mean of the members' rain rates",
        **_RAIN,
        "cell_methods": f"{_AT_AN_INSTANT} realization: mean",
    },
    "probability_matched_mean": {
        "long_name": "pattern of the ensemble mean with the members' rain rates",
        **_RAIN,
        "cell_methods": _AT_AN_INSTANT,
    },
    "quality": {
        "long_name": "where the air of a pixel came from",
        **_STATUS,
        "flag_values": np.arange(len(QUALITY_MEANINGS), dtype=np.uint8),
        "flag_meanings": " ".join(QUALITY_MEANINGS),
    },
    "second_hand": {
        "long_name": "what a frame was forecast from",
        **_STATUS,
        "flag_values": np.array([0, 1], np.int8),
        "flag_meanings": "from_radar_images from_forecast_frames",
    },
    "exceedance_threshold": {"long_name": "rain rate that is reached or exceeded", **_RAIN},
    "quantile_level": {"long_name": "share of the members at or below the quantile", "units": "1"},
    "rain_amount": {
        "long_name": "rain of an ensemble member in a window of time",
        **_AMOUNT,
        "cell_methods": _SUM,
        "ancillary_variables": "partly_observed",
    },
    "partly_observed": {
        "long_name": "what the rain of a window is of",
        **_STATUS,
        "flag_values": np.array([0, 1], np.int8),
        "flag_meanings": "forecast radar_images_then_forecast",
    },
    "amount_exceedance_probability": {
        "long_name": "probability of at least the threshold's rain amount",
        "units": "1",
        "cell_methods": _SUM,
    },
    "amount_quantile": {"long_name": "quantile of the members' rain amounts", **_AMOUNT},
    "amount_ensemble_mean": {
        "long_name": "mean of the members' rain amounts",
        **_AMOUNT,
        "cell_methods": f"{_SUM} realization: mean",
    },
    "amount_probability_matched_mean": {
        "long_name": "pattern of the ensemble mean with the members' rain amounts",
        **_AMOUNT,
    },
    "area_mean": {"long_name": "mean rain rate on an area", **_RAIN, "cell_methods": "area: mean"},
    "area_highest": {
        "long_name": "highest rain rate on an area",
        **_RAIN,
        "cell_methods": "area: maximum",
    },
    "area_share": {"long_name": "share of the area that has a forecast", "units": "1"},
    "area_amount_mean": {
        "long_name": "mean rain amount on an area",
        **_AMOUNT,
        "cell_methods": f"{_SUM} area: mean",
    },
    "area_amount_highest": {
        "long_name": "highest rain amount on an area",
        **_AMOUNT,
        "cell_methods": f"{_SUM} area: maximum",
    },
    "area_amount_share": {"long_name": "share of the area that has a forecast", "units": "1"},
    "amount_exceedance_threshold": {
        "long_name": "rain amount that is reached or exceeded",
        **_AMOUNT,
    },
    "amount_quantile_level": {
        "long_name": "share of the members at or below the quantile",
        "units": "1",
    },
}


def to_dataset(forecast: Forecast) -> xarray.Dataset:
    """The forecast with coordinates, projection and encoding; its arrays are shared, not copied.

    x and y are the centres of pixels, in metres (of a latitude-longitude grid in degrees), y
    falling because row 0 is north. Without `x1 y1 x2 y2` in the grid they are column and row
    numbers. `crs` is the grid mapping; there is none without corners, or where pyproj cannot read
    the projection or it counts in other units, such as feet; then x and y have no units. Its text
    stays in `input_projection` as the rest of the grid does in such attributes.
    """
    import xarray

    crs = read_crs(forecast.grid)
    maps = {"rain_rate": forecast.rain_rate, **forecast.statistics.maps()}
    if forecast.quality is not None:
        maps["quality"] = forecast.quality
    amounts = forecast.amounts
    if amounts is not None:
        of_amounts = amounts.statistics.maps().items()
        maps["rain_amount"] = amounts.rain_amount
        maps |= {PREFIX + name: values for name, values in of_amounts}
    variables = {name: _map(name, values, crs is not None) for name, values in maps.items()}
    second_hand = forecast.is_second_hand.astype(np.int8)
    variables["second_hand"] = ("time", second_hand, _ATTRIBUTES["second_hand"])
    for name, values in (forecast.areas.entries() if forecast.areas else {}).items():
        if name != "area_name":
            variables[name] = (_AREA_DIMS[name], values, _ATTRIBUTES[name], COMPRESSION)
    if amounts is not None:
        is_observed = amounts.is_partly_observed.astype(np.int8)
        variables["partly_observed"] = ("window", is_observed, _ATTRIBUTES["partly_observed"])
        bounds = np.stack([amounts.window_start, amounts.window_end], axis=1)
        variables["window_bounds"] = (
            ("window", "bound"),
            bounds.astype("datetime64[ns]"),
            {},
            time_encoding(forecast),
        )
    about_rain = [name for name in ("quality", "second_hand") if name in variables]
    variables["rain_rate"][2]["ancillary_variables"] = " ".join(about_rain)
    if crs is not None:
        mapping = grid_mapping(crs, str(forecast.grid["projection"]))
        variables["crs"] = ((), np.int32(0), mapping, {"coordinates": None})
    coordinates = {
        **clock(forecast),
        **window_times(forecast),
        **horizontal(forecast.grid, forecast.rain_rate.shape[-2:], crs),
        **_vertices(forecast),
    }
    return xarray.Dataset(variables, coordinates, _description(forecast))


def to_pysteps(dataset: xarray.Dataset) -> xarray.Dataset:
    """What `to_dataset` returned, by the names that `import_netcdf_pysteps` of pysteps looks for.

    The importer takes the projection from polar stereographic grids only, and their ellipsoid from
    none; the whole of it is in the file's attribute `projection`. It drops axes of length 1.

    Pysteps's own exporter gives the same arrays, but rounds x and y to float32 (9 cm at the corners
    of FMI's grid), stores a latitude and a longitude of each pixel uncompressed (the file is twice
    as large), prints what it does not know and fails where a PROJ string lacks x_0 or y_0.
    """
    names = dict(PYSTEPS_NAMES)
    if "crs" in dataset and dataset.crs.attrs.get("grid_mapping_name") == PYSTEPS_PROJECTION:
        names["crs"] = PYSTEPS_PROJECTION
    renamed = dataset.rename(names)
    for variable in renamed.variables.values():
        if "grid_mapping" in variable.attrs:
            variable.attrs = {**variable.attrs, "grid_mapping": names.get("crs", "crs")}
    if "input_projection" in dataset.attrs:  # where pysteps's own files have it
        renamed.attrs["projection"] = in_metres(dataset.attrs["input_projection"])
    return renamed


def from_dataset(dataset: xarray.Dataset, path: Path) -> Forecast:
    """The forecast that `to_dataset` made `dataset` of, read into memory.

    path: where it was read from, for messages. Grid entries that attributes cannot hold, such as
    times, come back as text.
    Raises InputError if it lacks something that a forecast has.
    """
    attributes = dataset.attrs
    names = {*dataset.variables, *attributes}
    if "forecast_reference_time" in names:
        names.add("issue_time")
    check_entries(names, path)
    prefix = len(INPUT_PREFIX)
    grid = {
        name[prefix:]: np.array(value) if isinstance(value, list) else value
        for name, value in attributes.items()
        if name.startswith(INPUT_PREFIX)
    }
    statistics = {name: dataset[name].values for name in STATISTICS_ENTRIES if name in dataset}
    return Forecast(
        rain_rate=dataset.rain_rate.values,
        issue_time=dataset.forecast_reference_time.values.astype("datetime64[s]")[()],
        lead_minutes=dataset.lead_minutes.values,
        grid=grid,
        seed=int(attributes["seed"]),
        model=str(attributes["model"]),
        sampler=str(attributes["sampler"]),
        num_sampling_steps=int(attributes["num_sampling_steps"]),
        quality=dataset.quality.values if "quality" in dataset else None,
        statistics=Statistics(**statistics),
        is_calibrated=bool(attributes.get("calibrated", False)),
        amounts=_amounts(dataset),
        provenance=_provenance(attributes),
        areas=areas_of({name: dataset[name].values for name in AREA_ENTRIES if name in dataset}),
        past_time_as_read=_as_times(attributes.get("past_time_as_read")),
        is_second_hand=dataset.second_hand.values > 0
        if "second_hand" in dataset
        else continued_before(dataset.lead_minutes.values),
    )


def _amounts(dataset: xarray.Dataset) -> Amounts | None:
    entries = {name: dataset[name].values for name in AMOUNT_ENTRIES if name in dataset}
    entries["along_motion"] = dataset.attrs.get("along_motion", True)
    for name in {"window_start", "window_end"} & entries.keys():
        entries[name] = entries[name].astype("datetime64[s]")
    return amounts_of(entries)


# ---- variables -----------------------------------------------------------------------------------


def _map(name: str, values: np.ndarray, has_crs: bool) -> tuple:
    """A variable with axes (..., y, x), one chunk for each map of the domain."""
    attributes = dict(_ATTRIBUTES[name])
    if has_crs:
        attributes["grid_mapping"] = "crs"
    chunks = (1,) * (values.ndim - 2) + values.shape[-2:]
    # Each library takes what it knows: chunksizes is for NetCDF, chunks for Zarr.
    encoding = {**COMPRESSION, "chunksizes": chunks, "chunks": chunks}
    if values.dtype.kind == "f":
        encoding["_FillValue"] = np.float32(np.nan)
    return _DIMS.get(name, ("time", "y", "x")), values, attributes, encoding


def _vertices(forecast: Forecast) -> dict[str, tuple]:
    """The coordinates of members, thresholds and quantile levels."""
    numbers = np.arange(len(forecast.rain_rate), dtype=np.int32)
    members = {"standard_name": "realization", "long_name": "ensemble member", "units": "1"}
    coordinates = {"realization": ("realization", numbers, members)}
    for axis in STATISTICS_AXES:
        points = getattr(forecast.statistics, axis)
        if points is not None:
            coordinates[axis] = (axis, points, _ATTRIBUTES[axis], {"_FillValue": None})
        of_amounts = forecast.amounts and getattr(forecast.amounts.statistics, axis)
        if of_amounts is not None:
            name = PREFIX + axis
            coordinates[name] = (name, of_amounts, _ATTRIBUTES[name], {"_FillValue": None})
    if forecast.areas is not None:
        names = forecast.areas.area_name
        coordinates["area_name"] = ("area", names, {"long_name": "name of the area"})
    return coordinates


def _description(forecast: Forecast) -> dict[str, Any]:
    """The attributes of the whole file."""
    made = {
        "model": forecast.model,
        "sampler": forecast.sampler,
        "num_sampling_steps": forecast.num_sampling_steps,
        "seed": forecast.seed,
        "calibrated": int(forecast.is_calibrated),
    }
    if forecast.amounts is not None:
        made["along_motion"] = int(forecast.amounts.is_along_motion)
    settings = ", ".join(f"{name} {value}" for name, value in made.items())
    issue_time = np.datetime64(forecast.issue_time, "s")
    return {
        "Conventions": CONVENTIONS,
        "title": "Ensemble nowcast of rain",
        "source": f"LDCast, latent diffusion: {settings}",
        "references": "Leinonen et al. 2023, https://arxiv.org/abs/2304.12891",
        # Without the time of writing, so that the same forecast gives the same file.
        "history": f"forecast by infer.py of LDCast, issue time {issue_time}Z",
        **made,
        **_as_text(forecast.past_time_as_read),
        **_provenance_as_text(forecast),
        **{
            # NetCDF allows no slash in a name.
            INPUT_PREFIX + name.replace("/", "_"): _attribute(value)
            for name, value in forecast.grid.items()
        },
    }


def _provenance_as_text(forecast: Forecast) -> dict[str, str]:
    """Attributes; lists have a line for each of their entries."""
    entries = forecast.provenance.entries()
    times = np.datetime_as_string(entries.pop("past_time"), unit="s").tolist()
    sources = entries.pop("past_source").tolist()
    return entries | {"past_time": "\n".join(times), "past_source": "\n".join(sources)}


def _provenance(attributes: Mapping[str, Any]) -> Provenance:
    """What `_provenance_as_text` made attributes of."""
    entries = {name: attributes[name] for name in PROVENANCE_ENTRIES if name in attributes}
    if not entries.get("past_time"):  # of none, or of a file from before there was
        entries |= {name: [] for name in ("past_time", "past_source") if name in entries}
    else:
        lists = {name: entries[name].split("\n") for name in ("past_time", "past_source")}
        entries |= lists
    return provenance_of(entries)


def _as_text(past_time_as_read: np.ndarray | None) -> dict[str, str]:
    """The attribute of ISO times, UTC, where there are any."""
    if past_time_as_read is None:
        return {}
    return {"past_time_as_read": " ".join(np.datetime_as_string(past_time_as_read, unit="s"))}


def _as_times(text: str | None) -> np.ndarray | None:
    """What `_as_text` made a text of."""
    return None if text is None else np.array(text.split(), "datetime64[s]")


def _attribute(value: Any) -> Any:
    """A grid entry as attributes of NetCDF and Zarr can hold it: numbers as they are, else text."""
    array = np.asarray(value)
    if array.dtype.kind in "iuf" and array.ndim <= 1:
        return array.astype(np.float64)[()] if array.dtype.kind == "f" else array[()]
    return str(array.tolist() if array.dtype.kind != "M" else array)
