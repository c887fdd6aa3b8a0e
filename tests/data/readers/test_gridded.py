"""NetCDF, Zarr and DataArrays: which variable is rain, in which units, where and when."""

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from ldcast.data.cadence import check_cadence
from ldcast.data.event import RainEvent
from ldcast.data.grids import in_metres
from ldcast.data.readers.gridded import event_from_dataarray, read_gridded
from ldcast.data.readers.services import read_frames
from ldcast.data.readers.specs import read_event
from ldcast.errors import InputError

xarray = pytest.importorskip("xarray", reason="reads NetCDF and Zarr")
pytest.importorskip("netCDF4", reason="with which xarray reads and writes NetCDF")

START = np.datetime64("2020-06-01T00:00:00", "ns")
NUM_FRAMES, HEIGHT, WIDTH = 3, 4, 5
STEREO = "+proj=stere +lat_0=90 +lon_0=0 +lat_ts=60 +R=6371288 +units=m +no_defs"
CORNERS = ("x1", "y1", "x2", "y2")


def rates() -> np.ndarray:
    """mm/h, different everywhere; row 0 in the north."""
    shape = NUM_FRAMES, HEIGHT, WIDTH
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape) / 8


def make(values: np.ndarray | None = None, **attrs: object) -> "xarray.DataArray":
    """Rain of 5 minutes and 2 km, (time, y, x), y and x in metres, y downwards."""
    attrs = {"standard_name": "rainfall_rate", "units": "mm h-1", **attrs}
    x = 1000.0 + 2000 * np.arange(WIDTH)
    y = 9000.0 - 2000 * np.arange(HEIGHT)
    return xarray.DataArray(
        rates() if values is None else values,
        dims=("time", "y", "x"),
        coords={
            "time": START + np.arange(NUM_FRAMES) * np.timedelta64(300, "s"),
            "y": ("y", y, {"standard_name": "projection_y_coordinate", "units": "m"}),
            "x": ("x", x, {"standard_name": "projection_x_coordinate", "units": "m"}),
        },
        attrs={name: value for name, value in attrs.items() if value},
        name="rain",
    )


def save(path: Path, rain: "xarray.DataArray", **others: "xarray.DataArray") -> Path:
    dataset = xarray.Dataset({"rain": rain, **others})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Zarr, that a format of texts is not settled
        dataset.to_zarr(path) if path.suffix == ".zarr" else dataset.to_netcdf(path)
    return path


def check(event: RainEvent, expected: np.ndarray | None = None) -> None:
    np.testing.assert_allclose(
        event.rain_rate, rates() if expected is None else expected, rtol=1e-6
    )
    assert event.rain_rate.dtype == np.float32
    assert event.time.dtype == np.dtype("datetime64[s]")


# ---- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_files_are_read_and_spans_of_them(tmp_path, suffix):
    if suffix == ".zarr":
        pytest.importorskip("zarr", reason="with which xarray reads and writes Zarr")
    rain = make()
    rain[1, 2, 3] = np.nan
    expected = rain.values.copy()
    rain.attrs["grid_mapping"] = "crs"
    crs = xarray.DataArray(0, attrs={"proj4": STEREO})
    path = save(tmp_path / f"radar{suffix}", rain, crs=crs)
    event = read_event(path)
    check(event, expected)
    assert event.time[0] == START and event.name == "radar" and event.source == str(path)
    processing = event.grid.pop("processing")
    assert processing == "rainfall_rate in mm h-1 to mm/h; NaN for no data and above 500 mm/h"
    assert event.grid == {
        "pixel_size_m": 2000.0,
        "pixel_size_y_m": 2000.0,
        "projection": STEREO,
        **{"x1": 0.0, "y1": 2000.0, "x2": 10000.0, "y2": 10000.0},
    }
    part = read_event(f"{path}@2020-06-01T00:05/")
    np.testing.assert_array_equal(part.rain_rate, expected[1:])
    assert part.name == "radar@2020-06-01T00:05/2020-06-01T00:15"
    with pytest.raises(InputError, match=r"selects no frame of .*radar"):
        read_event(f"{path}@2021-01-01/")
    with pytest.raises(InputError, match="expected START/END"):
        read_event(f"{path}@2021-01-01")


def test_only_the_span_is_loaded(tmp_path, monkeypatch):
    path = save(tmp_path / "radar.nc", make())
    shapes = []
    to_numpy = xarray.DataArray.to_numpy
    monkeypatch.setattr(
        xarray.DataArray, "to_numpy", lambda self: (shapes.append(self.shape), to_numpy(self))[1]
    )
    read_event(f"{path}@/2020-06-01T00:05")
    assert (1, HEIGHT, WIDTH) in shapes and (NUM_FRAMES, HEIGHT, WIDTH) not in shapes


def test_scaled_counts_and_fill_values(tmp_path):
    counts = np.full((NUM_FRAMES, HEIGHT, WIDTH), 250, np.int16)
    counts[0, 0, 0] = -1
    attrs = {"scale_factor": 0.01, "_FillValue": np.int16(-1)}
    path = save(tmp_path / "radar.nc", make(counts).assign_attrs(attrs))
    expected = np.full(counts.shape, 2.5)
    expected[0, 0, 0] = np.nan
    check(read_gridded(path), expected)


@pytest.mark.parametrize(
    "limits",
    [
        {"valid_max": np.uint8(250)},
        {"valid_range": np.array([0, 250], np.uint8)},
        {"valid_range": np.array([0.0, 125.0])},  # floats: of the unpacked numbers
        {"valid_min": np.uint8(0), "valid_max": np.uint8(250)},
    ],
)
def test_codes_that_are_not_valid_are_no_data(tmp_path, limits):
    codes = np.full((NUM_FRAMES, HEIGHT, WIDTH), 5, np.uint8)
    codes[0, 0, :2] = [255, 250]
    attrs = {"scale_factor": 0.5, **limits}
    path = save(tmp_path / "radar.nc", make(codes).assign_attrs(attrs))
    expected = np.full(codes.shape, 2.5)
    expected[0, 0, :2] = [np.nan, 125]
    check(read_gridded(path), expected)


def test_limits_of_a_dataarray_and_such_that_are_none():
    expected = rates()
    expected[expected < 1] = np.nan
    check(event_from_dataarray(make(valid_min=1.0)), expected)
    for limits in ({"valid_range": "0 to 9"}, {"valid_range": [1.0, 2.0, 3.0]}):
        with pytest.raises(InputError, match="valid_range of rain are not numbers"):
            event_from_dataarray(make(**limits))


def test_files_that_cannot_be_read(tmp_path):
    path = save(tmp_path / "radar.nc", make(np.random.default_rng(0).random((3, 4, 5))))
    whole = path.read_bytes()
    for contents in (b"", b"text", whole[: len(whole) // 2]):
        path.write_bytes(contents)
        with pytest.raises(InputError, match="not a readable NetCDF or Zarr") as error:
            read_event(path)
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="is missing, expected a NetCDF file"):
        read_event(tmp_path / "none.zarr")
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(InputError, match=r"empty\.zarr is not a readable"):
        read_event(tmp_path / "empty.zarr")


def test_zarr_without_consolidated_metadata_is_read_without_a_warning(tmp_path):
    pytest.importorskip("zarr", reason="with which xarray reads and writes Zarr")
    make().to_dataset().to_zarr(tmp_path / "radar.zarr", consolidated=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(read_gridded(tmp_path / "radar.zarr"))


def test_missing_xarray_is_named(tmp_path, monkeypatch):
    path = save(tmp_path / "radar.nc", make())
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(InputError, match="pip install xarray"):
        read_event(path)


# ---- which variable ------------------------------------------------------------------------------


def test_rain_is_found_by_its_standard_name(tmp_path):
    other = make(rates() - 30, standard_name="air_temperature", units="degC")
    flag = xarray.DataArray(0.0, attrs={"standard_name": "rainfall_rate"})  # of no dimension
    check(read_gridded(save(tmp_path / "radar.nc", make(), aaa=other, flag=flag)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"rain": make(standard_name=""), "dbz": make(standard_name="", units="dBZ")},
            r"no variable with a standard_name of rain; it has rain \(mm h-1\), dbz \(dBZ\), "
            r"expected one of rainfall_rate, .*; if rain is a rate of rain, set its attribute "
            r"standard_name to rainfall_rate.*; reflectivity becomes rain by --zr A B",
        ),
        (
            {"rain": make(), "sum": make(standard_name="rainfall_amount", units="mm")},
            r"has 2 variables of rain, rain \(rainfall_rate, mm h-1\), sum \(rainfall_amount, mm\)",
        ),
        (
            {"rain": make(standard_name="", units="")},
            r"it has rain \(neither standard_name nor units\), expected one of (?!.*reflectivity)",
        ),
        (
            {"rain": make(standard_name=[1, 2], units=3)},
            r"it has rain \(\[1 2\], 3\), expected one of",
        ),
    ],
)
def test_none_or_several_variables_of_rain(tmp_path, fields, message):
    with pytest.raises(InputError, match=message):
        read_gridded(save(tmp_path / "radar.nc", **fields))


# ---- units ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "units", "factor"),
    [
        ("rainfall_rate", "m s-1", 3.6e6),
        ("lwe_precipitation_rate", "mm/hr", 1),
        ("precipitation_flux", "kg m-2 s-1", 3600),
        ("rainfall_flux", "kg m**-2 s**-1", 3600),
        ("", "mm/5min", 12),
        ("lwe_thickness_of_precipitation_amount", "m", 12000),
        ("precipitation_amount", "kg m-2", 12),
        ("", "mm", 12),
    ],
)
def test_units_become_mm_per_hour(name, units, factor):
    check(event_from_dataarray(make(rates() / factor, standard_name=name, units=units)))


@pytest.mark.parametrize(
    ("attrs", "message"),
    [
        ({"units": ""}, "rain has no units, expected a rate such as mm h-1"),
        ({"units": "K"}, "rain has units 'K', expected a rate"),
        ({"standard_name": "", "units": "dBZ"}, r"rain \(dBZ\) is reflectivity, .* mm/h ="),
        ({"standard_name": "equivalent_reflectivity_factor"}, "is reflectivity"),
        ({"standard_name": "snowfall_flux"}, r"rain \(snowfall_flux, mm h-1\) is not rain"),
        ({"units": 1}, "rain has units '1', expected a rate"),
        ({"units": "mm/0min"}, "rain has units 'mm/0min', expected a rate"),
        ({"units": "mm"}, r"\(rainfall_rate, mm\) is a rate by its standard_name, but not by its"),
        (
            {"standard_name": "precipitation_amount", "units": "mm/h"},
            "is an amount by its",
        ),
        ({"units": "m s-1"}, "above 500 mm/h, up to 2.66e.07.*check the units"),
    ],
)
def test_other_units_and_quantities_are_refused(attrs, message):
    with pytest.raises(InputError, match=message) as error:
        event_from_dataarray(make(**attrs))
    assert str(error.value).startswith("the DataArray: ")


def test_clutter_is_no_data():
    values = np.ones((NUM_FRAMES, 40, 40), np.float32)
    values[1, 2, 3] = 501
    rain = make().isel(y=0, x=0, drop=True).expand_dims(y=40, x=40, axis=(1, 2)).copy(data=values)
    metres = {"units": "m"}
    rain = rain.assign_coords(
        x=("x", np.arange(40.0), metres), y=("y", np.arange(40.0, 0, -1), metres)
    )
    event = event_from_dataarray(rain)
    assert np.isnan(event.rain_rate[1, 2, 3]) and np.isnan(event.rain_rate).sum() == 1


# ---- time ----------------------------------------------------------------------------------------


def with_bounds(rain: "xarray.DataArray", minutes: list[int]) -> "xarray.Dataset":
    """Each frame's time is the start of its interval."""
    ends = rain.time.values + np.array(minutes) * np.timedelta64(60, "s")
    dataset = xarray.Dataset({"rain": rain})
    dataset["time_bnds"] = (("time", "nv"), np.stack([rain.time.values, ends], axis=1))
    dataset["time"].attrs["bounds"] = "time_bnds"
    dataset["time"].encoding["units"] = "seconds since 2020-06-01"
    return dataset


@pytest.mark.parametrize(("units", "factors"), [("mm", [60, 12, 4]), ("mm h-1", [1, 1, 1])])
def test_time_bounds_tell_interval_and_end(tmp_path, units, factors):
    name = "lwe_thickness_of_precipitation_amount" if units == "mm" else "rainfall_rate"
    dataset = with_bounds(make(standard_name=name, units=units), [1, 5, 15])
    dataset.to_netcdf(tmp_path / "radar.nc")
    event = read_gridded(tmp_path / "radar.nc")
    check(event, rates() * np.array(factors)[:, None, None])
    assert ((event.time - START) / np.timedelta64(60, "s")).tolist() == [1, 10, 25]
    part = read_event(f"{tmp_path / 'radar.nc'}@2020-06-01T00:10/")
    np.testing.assert_array_equal(part.rain_rate, event.rain_rate[1:])


def running(
    rain: "xarray.DataArray", minutes: int, since: np.datetime64 | None = None
) -> "xarray.Dataset":
    """Intervals of so many minutes that end at each frame's time, or all begin at `since`."""
    dataset = with_bounds(rain, [0] * NUM_FRAMES)
    dataset["time_bnds"][:, 0] = since or rain.time.values - minutes * np.timedelta64(60, "s")
    return dataset


AMOUNT = {"standard_name": "rainfall_amount", "units": "mm"}


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
@pytest.mark.parametrize(
    ("attrs", "minutes", "since"),
    [
        (AMOUNT, 60, None),
        (AMOUNT, 0, START - np.timedelta64(5, "m")),
        (AMOUNT, 6, None),
        ({"cell_methods": "time: mean"}, 60, None),
        ({"cell_methods": "area: mean time: sum (interval: 5 min)"}, 60, None),
        ({"cell_methods": "time: y: x: maximum"}, 10, None),
    ],
)
def test_intervals_that_overlap_are_refused(tmp_path, suffix, attrs, minutes, since):
    path = tmp_path / f"radar{suffix}"
    dataset = running(make(**attrs), minutes, since)
    dataset.to_zarr(path) if suffix == ".zarr" else dataset.to_netcdf(path)
    with pytest.raises(InputError, match="intervals of its frames overlap: the rain up to 2020-06"):
        read_gridded(path)
    with pytest.raises(InputError, match="overlap"):
        read_event(f"{path}@2020-06-01T00:05/")
    assert len(read_event(f"{path}@2020-06-01T00:10/").time) == 1


@pytest.mark.parametrize(("minutes", "is_read"), [(5, True), (10, False)])
def test_of_frames_that_come_more_often_those_used_may_not_overlap(minutes, is_read):
    rain = make(**AMOUNT, accutime=minutes)
    frames = rain.isel(time=np.arange(8) % NUM_FRAMES)
    frames["time"] = START + np.arange(8) * np.timedelta64(150, "s")
    if is_read:
        np.testing.assert_array_equal(event_from_dataarray(frames).rain_rate[:3], 12 * rates())
    else:
        with pytest.raises(
            InputError, match=r"fell since .*T23:55, .* frame before is of .*T00:00;"
        ):
            event_from_dataarray(frames)


def test_frames_of_several_files_may_not_overlap(tmp_path):
    paths = [tmp_path / f"{index}.nc" for index in range(NUM_FRAMES)]
    for index, path in enumerate(paths):
        running(make(**AMOUNT), 60).isel(time=[index]).to_netcdf(path)
    with pytest.raises(InputError, match="overlap"):
        read_frames(paths, read_gridded, 5)
    for index, path in enumerate(paths):
        running(make(**AMOUNT), 5).isel(time=[index]).to_netcdf(path)
    check(read_frames(paths, read_gridded, 5), 12 * rates())


@pytest.mark.parametrize(
    ("attrs", "minutes", "starts", "note"),
    [
        (AMOUNT, 5, 5, "rain rates are made from amounts of 5 minutes"),
        (AMOUNT, 1, 1, "rain rates are made from amounts of 1 minutes"),
        ({"cell_methods": "time: mean"}, 5, 5, ""),
        ({"cell_methods": "time: point"}, 60, None, "bounds of its rain rates overlap"),
        ({}, 60, None, "bounds of its rain rates overlap"),
        ({}, 5, None, ""),
    ],
)
def test_other_intervals_are_kept_and_said(tmp_path, attrs, minutes, starts, note):
    running(make(**attrs), minutes).to_netcdf(tmp_path / "radar.nc")
    event = read_gridded(tmp_path / "radar.nc")
    check(event, rates() * (60 / minutes if attrs is AMOUNT else 1))
    if starts is None:
        assert event.interval_start is None
    else:
        np.testing.assert_array_equal(event.time - event.interval_start, 60 * starts)
    assert len(event.notes) == bool(note) and note in "".join(event.notes)


@pytest.mark.parametrize(
    ("attrs", "minutes"),
    [
        ({}, 5),  # the spacing of the frames
        ({"accutime": 5.0}, 5),
        ({"accutime": 1}, 1),
        ({"accumulation_period": "PT1M"}, 1),
        ({"accumulation_time": "90 seconds"}, 1.5),
        ({"accumulation_interval": "0.1 hr"}, None),
        ({"accumulation_period": "1 hour"}, None),
        ({"accutime": 60}, None),
        ({"accumulation_period": "see the manual"}, 5),
        ({"cell_methods": "time: sum (interval: 1 hour)"}, None),
        ({"cell_methods": "time: sum (interval: 10 min comment: gauges)"}, None),
        ({"cell_methods": "time: sum (interval: 1 min)"}, 5),
        ({"cell_methods": "time: sum"}, 5),
    ],
)
def test_intervals_without_bounds(attrs, minutes):
    rain = make(**AMOUNT, **attrs)
    if minutes is None:
        with pytest.raises(InputError, match="overlap"):
            event_from_dataarray(rain)
        return
    event = event_from_dataarray(rain)
    check(event, rates() * 60 / minutes)
    (note,) = event.notes
    assert note.startswith(f"rain rates are made from amounts of {minutes:g} minutes")
    assert note.endswith("the spacing of the frames") == (minutes == 5 and "accutime" not in attrs)


@pytest.mark.parametrize("method", ["mean", "point", "sum"])
def test_means_of_samples_that_are_further_apart_than_frames_overlap(method):
    rain = make(cell_methods=f"time: {method} (interval: 1 hour)")
    if method == "point":
        check(event_from_dataarray(rain))
    else:
        with pytest.raises(InputError, match="overlap"):
            event_from_dataarray(rain)


@pytest.mark.parametrize(("seconds", "is_read"), [((0, 303, 598), True), ((29, 271, 600), False)])
def test_amounts_without_bounds_may_have_seconds(seconds, is_read):
    rain = make(**AMOUNT)
    rain["time"] = START + np.array(seconds) * np.timedelta64(1, "s")
    if not is_read:  # who knows which of them are of less than 5 minutes
        with pytest.raises(InputError, match="not evenly spaced"):
            event_from_dataarray(rain)
        return
    event = event_from_dataarray(rain)
    check(event, 12 * rates())
    assert event.notes == (
        "rain rates are made from amounts of 5 minutes, the spacing of the frames",
    )


@pytest.mark.parametrize("is_sum", [True, False])
def test_sums_since_a_start_without_bounds_are_doubted(is_sum):
    frames = make(**AMOUNT).isel(time=[0, 0, 1, 2])
    frames["time"] = START + np.arange(4) * np.timedelta64(300, "s")
    values = np.random.default_rng(0).gamma(0.2, 1, frames.shape)
    frames = frames.copy(data=values.cumsum(frames.get_axis_num("time")) if is_sum else values)
    (note,) = event_from_dataarray(frames).notes
    assert ("none ever decreases: if they are sums since a start" in note) == is_sum


def test_bounds_that_a_dataarray_lost_are_said():
    (note,) = event_from_dataarray(running(make(**AMOUNT), 60)["rain"]).notes
    assert note.endswith("the bounds that its time names, time_bnds, are not there")


def test_bounds_may_be_reversed(tmp_path):
    dataset = with_bounds(make(standard_name="rainfall_amount", units="mm"), [5, 5, 5])
    dataset["time_bnds"] = dataset["time_bnds"][:, ::-1]
    dataset.to_netcdf(tmp_path / "radar.nc")
    event = read_gridded(tmp_path / "radar.nc")
    check(event, 12 * rates())
    assert event.time[0] == START + np.timedelta64(300, "s")


@pytest.mark.parametrize("has_bounds", [False, True])
@pytest.mark.parametrize("units", ["mm", "mm h-1"])
def test_times_in_floats_are_rounded(tmp_path, has_bounds, units):
    name = "rainfall_amount" if units == "mm" else "rainfall_rate"
    rain = make(standard_name=name, units=units)
    start = np.datetime64("2016-07-11T20:40", "ns")
    rain["time"] = start + np.arange(NUM_FRAMES) * np.timedelta64(300, "s")
    dataset = with_bounds(rain, [5, 5, 5]) if has_bounds else rain.to_dataset()
    encoding = {"units": "hours since 2016-01-01", "dtype": "f8"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the bounds, which become floats, too
        dataset.to_netcdf(tmp_path / "radar.nc", encoding={"time": encoding})
    stored = xarray.open_dataset(tmp_path / "radar.nc").time.values
    assert (stored != rain.time.values).any()  # as it must be for this test to test anything
    event = read_gridded(tmp_path / "radar.nc")
    np.testing.assert_array_equal(event.rain_rate, rates() * np.float32(12 if units == "mm" else 1))
    assert event.time[0] == start + np.timedelta64(300 * has_bounds, "s")
    check_cadence(event, 5)


def test_bounds_are_rounded(tmp_path):
    dataset = with_bounds(make(standard_name="rainfall_amount", units="mm"), [5, 5, 5])
    dataset["time_bnds"] = dataset["time_bnds"] + np.array([400, -400]) * np.timedelta64(1, "ms")
    dataset["time"].encoding["units"] = "milliseconds since 2020-06-01"
    dataset.to_netcdf(tmp_path / "radar.nc")
    check(read_gridded(tmp_path / "radar.nc"), 12 * rates())


@pytest.mark.parametrize(
    ("dims", "shape"), [(("time", "nv"), (NUM_FRAMES, 3)), (("nv", "time"), (2, NUM_FRAMES))]
)
def test_bounds_of_another_shape_are_refused(tmp_path, dims, shape):
    dataset = with_bounds(make(), [5, 5, 5]).drop_vars("time_bnds")
    dataset["time_bnds"] = (dims, np.full(shape, START))
    dataset.to_netcdf(tmp_path / "radar.nc")
    expected = rf"time_bnds, the bounds of time, has shape \({shape[0]}, {shape[1]}\) .*\(3, 2\)"
    with pytest.raises(InputError, match=expected):
        read_gridded(tmp_path / "radar.nc")


def test_bounds_beside_one_time_without_dimension(tmp_path):
    dataset = with_bounds(make(rates() / 12, standard_name="rainfall_amount", units="mm"), [5] * 3)
    dataset.isel(time=1).to_netcdf(tmp_path / "radar.nc")
    check(read_gridded(tmp_path / "radar.nc"), rates()[1:2])


@pytest.mark.parametrize(
    ("attrs", "message"),
    [
        ({"units": "hours since yesterday"}, "units and calendar"),
        ({"units": "hours since 2016-01-01", "calendar": "noleap"}, "time is of calendar noleap"),
        ({"units": "hours since 2016-01-01", "calendar": "julian"}, "time is of calendar julian"),
    ],
)
def test_units_and_calendars_of_time_that_are_refused(tmp_path, attrs, message):
    rain = make().assign_coords(time=("time", np.arange(NUM_FRAMES), attrs))
    with pytest.raises(InputError, match=message) as error:
        read_gridded(save(tmp_path / "radar.nc", rain))
    assert "\n" not in str(error.value)


def test_amounts_need_an_interval(tmp_path):
    amount = make(standard_name="rainfall_amount", units="mm")
    for frames in ([0], [0, 1, 1]):
        rain = amount.isel(time=frames)
        rain["time"] = START + np.array([0, 300, 900])[: len(frames)] * np.timedelta64(1, "s")
        with pytest.raises(InputError, match="amounts of rain without time bounds, and "):
            event_from_dataarray(rain)
    with_bounds(amount, [0, 5, 5]).to_netcdf(tmp_path / "radar.nc")
    with pytest.raises(InputError, match="time bounds of an amount of rain are equal"):
        read_gridded(tmp_path / "radar.nc")


def test_a_span_of_one_frame_keeps_the_interval_of_the_file(tmp_path):
    amount = make(rates() / 12, standard_name="rainfall_amount", units="mm")
    path = save(tmp_path / "radar.nc", amount)
    check(read_event(f"{path}@2020-06-01T00:05/2020-06-01T00:10"), rates()[1:2])


def test_one_frame_with_its_time_beside_it():
    event = event_from_dataarray(make().isel(time=1))
    check(event, rates()[1:2])
    assert event.time.tolist() == [np.datetime64("2020-06-01T00:05", "s").item()]


@pytest.mark.parametrize(
    ("time", "message"),
    [
        ([0, 1, 2], r"time has no units, expected such as 'minutes since .*set its attribute unit"),
        (list("abc"), "time holds texts, expected numbers with units such as 'minutes since"),
        (START + np.array([0, 600, 300]) * np.timedelta64(1, "s"), "T00:10 is followed by"),
    ],
)
def test_times_must_be_times_that_increase(time, message):
    with pytest.raises(InputError, match=message):
        event_from_dataarray(make().assign_coords(time=time))


# ---- axes ----------------------------------------------------------------------------------------


def test_any_order_and_direction_of_axes():
    turned = make().isel(y=slice(None, None, -1)).transpose("x", "time", "y")
    event = event_from_dataarray(turned.isel(x=slice(None, None, -1)))
    check(event)
    assert event.grid == event_from_dataarray(make()).grid
    assert event.name == "rain" and event.source == ""


def test_axes_by_other_names_and_attributes():
    rain = make().rename(time="valid", y="north", x="east")
    rain["valid"].attrs["axis"] = "T"
    check(event_from_dataarray(rain))
    del rain["valid"].attrs["axis"]
    with pytest.raises(
        InputError, match=r"of rain, none is the time axis, .*with standard_name time; set"
    ):
        event_from_dataarray(rain)
    rain = make()
    del rain["y"].attrs["standard_name"], rain["x"].attrs["standard_name"]
    check(event_from_dataarray(rain))  # by the names y and x


def test_members_must_be_selected():
    rain = make().expand_dims(member=2)
    with pytest.raises(InputError, match=r"2 of dimension member, .*\.isel\(member=0\)"):
        event_from_dataarray(rain)
    check(event_from_dataarray(rain.isel(member=[0])))


@pytest.mark.parametrize(
    ("y", "units", "message"),
    [
        ([9, 7, 4, 1], "m", "y goes in steps from -3 to -2, expected even ones"),
        ([1, 1, 1, 1], "m", "expected at least 2 different coordinates"),
        ([4, 3, 2, 1], "", "y has no units, expected m, km or degrees"),
        ([4, 3, 2, 1], "feet", "y has units 'feet'"),
        ([4, 3, 2, 1], "degrees_north", "only one of x and y is in degrees"),
    ],
)
def test_coordinates_must_be_even_and_have_units(y, units, message):
    attrs = {"units": units} if units else {}
    rain = make().assign_coords(y=("y", np.array(y, float), attrs))
    with pytest.raises(InputError, match=message):
        event_from_dataarray(rain)


def test_coordinates_must_be_numbers():
    with pytest.raises(InputError, match="x is <U1, expected numbers"):
        event_from_dataarray(make().assign_coords(x=("x", list("abcde"), {"units": "m"})))


def test_an_axis_attribute_that_is_no_text():
    rain = make()
    rain["y"].attrs["axis"] = np.array([1, 2])
    rain["x"].attrs["standard_name"] = [1, 2]
    check(event_from_dataarray(rain))  # by the name x


def test_an_axis_without_coordinate_does_not_tell_the_north():
    with pytest.raises(InputError, match=r"y axis.* coordinate"):
        event_from_dataarray(make().drop_vars("y"))


# ---- places --------------------------------------------------------------------------------------


def test_km_become_metres():
    rain = in_km(make(), "x", "y")
    stereo = "+proj=stere +lat_0=90 +a=6378.137 +b=6356.752 +x_0=0 +y_0=0"
    rain = rain.assign_coords(crs=xarray.DataArray(0, attrs={"proj4_params": stereo}))
    grid = event_from_dataarray(rain).grid
    assert grid["projection"] == "+proj=stere +lat_0=90 +a=6378137 +b=6356752 +x_0=0 +y_0=0"
    assert [grid[name] for name in CORNERS] == [0, 2000, 10000, 10000]
    assert grid["pixel_size_m"] == 2000


@pytest.mark.parametrize("form", ["crs_wkt", "spatial_ref", "cf"])
def test_grid_mappings_become_proj_text(form):
    pyproj = pytest.importorskip("pyproj", reason="reads WKT and grid mappings")
    crs = pyproj.CRS.from_proj4(STEREO)
    attrs = crs.to_cf() if form == "cf" else {form: crs.to_wkt()}
    if form == "cf":
        del attrs["crs_wkt"]
    rain = make().assign_coords(spatial_ref=xarray.DataArray(0, attrs=attrs))
    projection = event_from_dataarray(rain).grid["projection"]
    assert projection.startswith("+proj=stere ") and "+type=crs" not in projection
    lonlat = 5.0, 52.0
    assert pyproj.Proj(projection)(*lonlat) == pytest.approx(pyproj.Proj(STEREO)(*lonlat))


@pytest.mark.parametrize("code", ["EPSG:2056", "EPSG:21781", "EPSG:31467", "EPSG:28992"])
def test_datums_that_proj_text_cannot_say_are_kept(code):
    pyproj = pytest.importorskip("pyproj", reason="reads WKT and grid mappings")
    crs = pyproj.CRS(code)
    rain = make().assign_coords(crs=xarray.DataArray(0, attrs={"crs_wkt": crs.to_wkt()}))
    projection = event_from_dataarray(rain).grid["projection"]
    assert pyproj.CRS(projection) == crs and in_metres(projection) == projection
    assert "\n" not in projection


@pytest.mark.parametrize(
    ("code", "flat"), [("EPSG:7415", "EPSG:28992"), ("EPSG:4979", "EPSG:4326")]
)
def test_heights_are_left_out(code, flat):
    pyproj = pytest.importorskip("pyproj", reason="reads WKT and grid mappings")
    wkt = pyproj.CRS(code).to_wkt()
    rain = make().assign_coords(crs=xarray.DataArray(0, attrs={"crs_wkt": wkt}))
    projection = pyproj.CRS(event_from_dataarray(rain).grid["projection"])
    assert projection.equals(pyproj.CRS(flat), ignore_axis_order=True)


@pytest.mark.parametrize(
    "text",
    [
        "+proj=somerc +lat_0=46.9524 +lon_0=7.43958 +x_0=600000 +y_0=200000 +ellps=bessel "
        "+towgs84=674.374,15.056,405.346 +units=m",
        STEREO,
    ],
)
def test_proj_text_beside_wkt_is_kept_as_it_is_where_it_says_the_same(text):
    pyproj = pytest.importorskip("pyproj", reason="reads WKT and grid mappings")
    attrs = {"crs_wkt": pyproj.CRS(text).to_wkt(), "proj4": text}
    rain = make().assign_coords(crs=xarray.DataArray(0, attrs=attrs))
    assert event_from_dataarray(rain).grid["projection"] == text


@pytest.mark.parametrize("text", ["", "+proj=somerc +ellps=bessel", "nonsense"])
def test_wkt_is_believed_where_proj_text_beside_it_says_less(text):
    pyproj = pytest.importorskip("pyproj", reason="reads WKT and grid mappings")
    crs = pyproj.CRS("EPSG:21781")
    text = text or crs.to_proj4()  # without the datum
    attrs = {"proj4": text, "crs_wkt": crs.to_wkt()}
    rain = make().assign_coords(crs=xarray.DataArray(0, attrs=attrs))
    assert pyproj.CRS(event_from_dataarray(rain).grid["projection"]) == crs


def test_of_several_grid_mappings_that_of_the_axes_counts():
    pyproj = pytest.importorskip("pyproj", reason="reads WKT and grid mappings")
    wgs, laea = (
        xarray.DataArray(0, attrs=pyproj.CRS(code).to_cf()) for code in ("EPSG:4326", "EPSG:3035")
    )
    rain = make().assign_coords(wgs=wgs, laea=laea)
    for named in ("wgs: lat lon laea: x y", "laea: y x wgs: lat lon", "laea:", "laea"):
        rain.attrs["grid_mapping"] = named
        projection = event_from_dataarray(rain).grid["projection"]
        assert pyproj.CRS(projection).is_projected, named


def test_wkt_that_has_no_proj_text_is_kept():
    pyproj = pytest.importorskip("pyproj", reason="reads WKT and grid mappings")
    wkt = 'LOCAL_CS["site",UNIT["metre",1],AXIS["x",EAST],AXIS["y",NORTH]]'
    rain = make().assign_coords(crs=xarray.DataArray(0, attrs={"crs_wkt": wkt}))
    assert pyproj.CRS(event_from_dataarray(rain).grid["projection"]) == pyproj.CRS(wkt)


LAEA_M = 4e6 + 2000 * np.arange(WIDTH), 3e6 - 2000 * np.arange(HEIGHT)  # x, y
DEGREES = 7 + 0.25 * np.arange(WIDTH), 47 - 0.5 * np.arange(HEIGHT)


def without_units(x: np.ndarray, y: np.ndarray, **crs: object) -> "xarray.DataArray":
    rain = make().assign_coords(x=x, y=y, crs=xarray.DataArray(0, attrs=crs))
    assert "units" not in rain["x"].attrs and "units" not in rain["y"].attrs
    return rain


def wkt(text: str) -> str:
    return pytest.importorskip("pyproj", reason="reads WKT").CRS(text).to_wkt()


IN_KM = "+proj=stere +lat_0=90 +ellps=WGS84 +units=km"
RADIUS_IN_KM = "+proj=stere +lat_0=90 +a=6378.137 +b=6356.752"


@pytest.mark.parametrize("form", ["crs_wkt", "spatial_ref", "cf"])
def test_coordinates_without_units_are_in_the_metres_of_their_crs(form):
    crs = pytest.importorskip("pyproj", reason="reads WKT").CRS("EPSG:3035")
    attrs = {key: value for key, value in crs.to_cf().items() if key != "crs_wkt"}
    grid = event_from_dataarray(
        without_units(*LAEA_M, **(attrs if form == "cf" else {form: crs.to_wkt()}))
    ).grid
    assert [grid[name] for name in CORNERS] == [3999000, 2993000, 4009000, 3001000]
    assert grid["pixel_size_m"] == grid["pixel_size_y_m"] == 2000


@pytest.mark.parametrize("attrs", [{"crs_wkt": IN_KM}, {"proj4": IN_KM}, {"proj4": RADIUS_IN_KM}])
def test_coordinates_without_units_are_in_the_kilometres_of_their_crs(attrs):
    attrs = {key: wkt(text) if key == "crs_wkt" else text for key, text in attrs.items()}
    pytest.importorskip("pyproj", reason="reads PROJ text")
    x, y = LAEA_M
    grid = event_from_dataarray(without_units(x / 1000, y / 1000, **attrs)).grid
    assert [grid[name] for name in CORNERS] == [3999000, 2993000, 4009000, 3001000]


@pytest.mark.parametrize(
    "attrs",
    [
        {"grid_mapping_name": "latitude_longitude"},
        {"proj4": "+proj=longlat +datum=WGS84"},
        {"crs_wkt": "EPSG:4326"},
    ],
)
def test_coordinates_without_units_are_in_the_degrees_of_their_crs(attrs):
    if "crs_wkt" in attrs:
        attrs = {"crs_wkt": wkt(attrs["crs_wkt"])}
    pytest.importorskip("pyproj", reason="reads grid mappings")
    grid = event_from_dataarray(without_units(*DEGREES, **attrs)).grid
    assert [grid[name] for name in CORNERS] == [6.875, 45.25, 8.125, 47.25]
    assert grid["pixel_size_m"] == pytest.approx(19270, rel=1e-3)  # 0.25 degrees at 46.25 N


def test_one_coordinate_without_units():
    rain = without_units(*LAEA_M, crs_wkt=wkt("EPSG:3035"))
    rain = rain.assign_coords(x=("x", LAEA_M[0] / 1000, {"units": "km"}))
    grid = event_from_dataarray(rain).grid
    assert [grid[name] for name in CORNERS] == [3999000, 2993000, 4009000, 3001000]


@pytest.mark.parametrize(
    ("code", "x", "y", "message"),
    [
        ("EPSG:3035", LAEA_M[0] / 1000, LAEA_M[1] / 1000, "metre, do not fit steps of 2 from 3000"),
        ("EPSG:3035", *DEGREES, "metre, do not fit steps of 0.5 from 47"),
        ("EPSG:4326", *LAEA_M, r"degree, do not fit steps of 2000 .*units to m, km or degrees"),
        ("EPSG:2263", *LAEA_M, "has units 'us survey foot', expected m, km or degrees"),
    ],
)
def test_units_of_a_crs_that_cannot_be(code, x, y, message):
    with pytest.raises(InputError, match=message):
        event_from_dataarray(without_units(x, y, crs_wkt=wkt(code)))


def in_km(rain: "xarray.DataArray", *axes: str) -> "xarray.DataArray":
    for axis in axes:
        rain = rain.assign_coords({axis: (axis, rain[axis].values / 1000, {"units": "km"})})
    return rain


def test_wkt_in_km_becomes_metres():
    pyproj = pytest.importorskip("pyproj", reason="reads WKT and grid mappings")
    crs = pyproj.CRS(STEREO.replace("+units=m", "+x_0=380886 +units=km"))
    rain = in_km(make(), "x", "y")
    rain = rain.assign_coords(crs=xarray.DataArray(0, attrs={"crs_wkt": crs.to_wkt()}))
    projection = event_from_dataarray(rain).grid["projection"]
    assert pyproj.CRS(projection) == pyproj.CRS(f"{STEREO} +x_0=380886")


@pytest.mark.parametrize("axes", ["", "x", "y", "xy"])
def test_false_origins_are_in_the_units_of_the_coordinates(axes):
    pyproj = pytest.importorskip("pyproj", reason="reads WKT and grid mappings")
    attrs = pyproj.CRS.from_proj4(STEREO).to_cf()
    del attrs["crs_wkt"]
    attrs["false_easting"] = 380.886 if "x" in axes else 380886.0
    attrs["false_northing"] = -3395.677 if "y" in axes else -3395677.0
    rain = in_km(make(), *axes).assign_coords(crs=xarray.DataArray(0, attrs=attrs))
    projection = event_from_dataarray(rain).grid["projection"]
    expected = pyproj.Proj(f"{STEREO} +x_0=380886 +y_0=-3395677")(10, 65)
    assert pyproj.Proj(projection)(10, 65) == pytest.approx(expected)


@pytest.mark.parametrize(
    "attrs",
    [
        {"crs_wkt": "PROJCRS[nonsense"},
        {"crs_wkt": np.array([1.0, 2.0])},
        {"grid_mapping_name": "nonsense"},
        {"grid_mapping_name": "lambert_conformal_conic", "standard_parallel": "north"},
        {"grid_mapping_name": "lambert_conformal_conic", "standard_parallel": [1.0, 2.0, 3.0]},
        {"grid_mapping_name": "polar_stereographic", "false_easting": "380"},
    ],
)
def test_grid_mapping_that_cannot_be_read(attrs):
    pytest.importorskip("pyproj", reason="reads WKT and grid mappings")
    rain = make().assign_coords(crs=xarray.DataArray(0, attrs=attrs))
    with pytest.raises(InputError, match="its grid mapping cannot be read") as error:
        event_from_dataarray(rain)
    assert "\n" not in str(error.value)


def test_the_named_grid_mapping_is_taken():
    other = xarray.DataArray(0, attrs={"proj4": "+proj=utm +zone=32"})
    own = xarray.DataArray(0, attrs={"proj4": STEREO})
    rain = make().assign_coords(a=other, b=own)
    assert "projection" not in event_from_dataarray(rain).grid  # two, and none is named
    rain.attrs["grid_mapping"] = 7
    assert "projection" not in event_from_dataarray(rain).grid
    rain.attrs["grid_mapping"] = "b: x y"
    assert event_from_dataarray(rain).grid["projection"] == STEREO


def test_degrees_stay_degrees_and_their_pixels_are_in_metres_at_the_centre():
    rain = make().rename(y="lat", x="lon")
    rain = rain.assign_coords(
        lat=("lat", [45.0, 45.5, 46.0, 46.5], {"units": "degrees_north"}),
        lon=("lon", 7 + 0.25 * np.arange(WIDTH), {"units": "degrees_east"}),
    )
    event = event_from_dataarray(rain)
    check(event, rates()[:, ::-1])
    assert [event.grid[name] for name in CORNERS] == [6.875, 44.75, 8.125, 46.75]
    assert event.grid["projection"] == "+proj=longlat +datum=WGS84 +no_defs"
    # A degree at 45.75 N on WGS84: 77.81 km of longitude, 111.15 km of latitude.
    assert event.grid["pixel_size_m"] == pytest.approx(0.25 * 77_810, abs=2)
    assert event.grid["pixel_size_y_m"] == pytest.approx(0.5 * 111_145, abs=5)
