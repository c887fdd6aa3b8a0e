"""Forecasts as NetCDF and Zarr: what CF asks for, what xarray, pyproj and pysteps make of it."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ldcast.data.grids import in_metres
from ldcast.data.readers.specs import read_event
from ldcast.errors import InputError
from ldcast.machine.quiet import contained
from ldcast.products import files
from ldcast.products.dataset import to_dataset, to_pysteps
from ldcast.products.files import read_forecast, write_forecast
from ldcast.products.forecast import Forecast
from ldcast.products.statistics import Statistics, ensemble_statistics

xarray = pytest.importorskip("xarray", reason="xarray is an extra")
pyproj = pytest.importorskip("pyproj", reason="pyproj is an extra")

TRAIN = Path(__file__).parents[2].parent / "shared" / "data" / "train"
EVENTS = ("mch_20160711", "fmi_20160928", "knmi_20100826")

HEIGHT, WIDTH = 6, 9
CORNERS = {"x1": 255000.0, "y1": -160000.0, "x2": 264000.0, "y2": -154000.0}
SWISS = "+proj=somerc +lon_0=7.4396 +lat_0=46.9524 +k_0=1 +x_0=600000 +y_0=200000 +ellps=bessel"
POLAR = "+proj=stere +lat_0=90 +lon_0=25 +lat_ts=60 +a=6371288 +x_0=380886.31 +y_0=3395677.92"
GRID = {"pixel_size_m": 1000.0, "projection": SWISS, **CORNERS, "source": "radar", "frames": 4}


def make_forecast(grid: dict[str, Any], num_members: int = 2, **changes: Any) -> Forecast:
    """3 lead times, the last of them beyond the model's reach; a corner without a forecast."""
    rng = np.random.default_rng(0)
    rain_rate = rng.gamma(0.3, 4.0, (num_members, 3, HEIGHT, WIDTH)).astype(np.float32)
    rain_rate[..., 0, :2] = np.nan
    made = {
        "rain_rate": rain_rate,
        "issue_time": np.datetime64("2016-07-11T23:50:00"),
        "lead_minutes": np.array([5, 10, 105]),
        "grid": grid,
        "seed": 2**40,
        "model": "bundled",
        "sampler": "plms",
        "num_sampling_steps": 50,
        "quality": np.where(np.isnan(rain_rate[0]), 2, 1).astype(np.uint8),
        "statistics": ensemble_statistics(rain_rate, (0.1, 5), (0.1, 0.5), use_means=True),
        "is_second_hand": np.array([False, False, True]),
        "past_time_as_read": np.array(["2016-07-11T23:35:03", "2016-07-11T23:49:58"], "M8[s]"),
    }
    return Forecast(**{**made, **changes})


def bare(forecast: Forecast) -> Forecast:
    """Of one member and without statistics and quality: quickly written."""
    return replace(
        forecast, rain_rate=forecast.rain_rate[:1], quality=None, statistics=Statistics()
    )


@pytest.fixture
def forecast() -> Forecast:
    return make_forecast(GRID)


@pytest.fixture(params=[".nc", ".zarr"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == ".nc":
        pytest.importorskip("netCDF4", reason="netCDF4 is an extra")
    else:
        pytest.importorskip("zarr", reason="zarr is an extra")
    return tmp_path / f"forecast{request.param}"


def open_dataset(path: Path) -> Any:
    """As a user would."""
    engine = "zarr" if path.suffix == ".zarr" else None
    return xarray.open_dataset(path, engine=engine, decode_timedelta=True)  # once the default


# ---- what xarray and pyproj read -----------------------------------------------------------------


def test_xarray_opens_it_with_its_coordinates(forecast: Forecast, path: Path) -> None:
    write_forecast(forecast, path)
    with open_dataset(path) as dataset:
        rain = dataset.rain_rate
        assert rain.dims == ("realization", "time", "y", "x")
        np.testing.assert_array_equal(rain, forecast.rain_rate)
        assert rain.dtype == np.float32
        assert dataset.x.values.tolist() == [255500.0 + 1000 * i for i in range(WIDTH)]
        assert dataset.y.values.tolist() == [-154500.0 - 1000 * i for i in range(HEIGHT)]
        np.testing.assert_array_equal(dataset.time, forecast.time)
        assert dataset.forecast_reference_time == forecast.issue_time
        assert dataset.lead_minutes.values.tolist() == [5, 10, 105]
        assert dataset.realization.values.tolist() == [0, 1]
        # By coordinate: south of the northern edge by one and a half pixels.
        point = rain.sel(x=255900, y=-155600, method="nearest").values
        np.testing.assert_array_equal(point, forecast.rain_rate[:, :, 1, 0])


def test_statistics_are_variables_of_the_same_file(forecast: Forecast, path: Path) -> None:
    write_forecast(forecast, path)
    statistics = forecast.statistics
    with open_dataset(path) as dataset:
        assert dataset.exceedance_probability.dims == ("exceedance_threshold", "time", "y", "x")
        chance = dataset.exceedance_probability.sel(exceedance_threshold=5)
        np.testing.assert_array_equal(chance, statistics.exceedance_probability[1])
        assert dataset["quantile"].dims == ("quantile_level", "time", "y", "x")
        median = dataset["quantile"].sel(quantile_level=0.5)
        np.testing.assert_array_equal(median, statistics.quantile[1])
        for name in ("ensemble_mean", "probability_matched_mean"):
            assert dataset[name].dims == ("time", "y", "x")
            np.testing.assert_array_equal(dataset[name], getattr(statistics, name))


def test_flags_say_what_a_frame_and_a_pixel_are_made_of(forecast: Forecast, path: Path) -> None:
    write_forecast(forecast, path)
    with open_dataset(path) as dataset:
        assert dataset.second_hand.values.tolist() == [0, 0, 1]
        assert dataset.quality.dtype == np.uint8
        np.testing.assert_array_equal(dataset.quality, forecast.quality)
        for name in ("second_hand", "quality"):
            flags = dataset[name].attrs
            assert len(flags["flag_meanings"].split()) == len(flags["flag_values"])
        assert dataset.quality.attrs["flag_meanings"].split()[2] == "no_forecast"
        assert dataset.rain_rate.attrs["ancillary_variables"] == "quality second_hand"
    write_forecast(bare(forecast), path)
    with open_dataset(path) as dataset:
        assert "quality" not in dataset
        assert dataset.rain_rate.attrs["ancillary_variables"] == "second_hand"


def test_pyproj_reads_the_projection_in_the_file(forecast: Forecast, path: Path) -> None:
    write_forecast(forecast, path)
    with open_dataset(path) as dataset:
        for name in ("rain_rate", "quality", "ensemble_mean", "exceedance_probability"):
            assert dataset[name].attrs["grid_mapping"] == "crs"
        assert pyproj.CRS.from_cf(dataset.crs.attrs) == pyproj.CRS(SWISS)
        assert dataset.crs.attrs["proj4"] == SWISS


@pytest.mark.parametrize("projection", [SWISS, POLAR, "EPSG:3067"])
def test_the_projection_stays_what_it_was(projection: str) -> None:
    dataset = to_dataset(make_forecast({**GRID, "projection": projection}))
    mapping = dataset.crs.attrs
    assert pyproj.CRS(mapping["crs_wkt"]) == pyproj.CRS(projection)
    assert pyproj.CRS.from_cf(mapping) == pyproj.CRS(projection)
    assert dataset.x.attrs["standard_name"] == "projection_x_coordinate"
    assert dataset.y.attrs == {**dataset.y.attrs, "units": "m", "axis": "Y"}


@pytest.mark.parametrize(("parallel", "pole"), [(60, 90.0), (-71, -90.0)])
def test_a_polar_stereographic_mapping_names_its_pole(parallel: int, pole: float) -> None:
    projection = f"+proj=stere +lat_0={pole:g} +lat_ts={parallel} +lon_0=0"
    mapping = to_dataset(make_forecast({**CORNERS, "projection": projection})).crs.attrs
    assert mapping["grid_mapping_name"] == "polar_stereographic"
    assert mapping["latitude_of_projection_origin"] == pole
    assert mapping["standard_parallel"] == parallel


def test_coordinates_stay_in_metres_where_the_projection_counts_in_km() -> None:
    projection = "+proj=stere +lat_0=90 +lon_0=0 +lat_ts=60 +units=km"
    forecast = make_forecast({**CORNERS, "projection": projection})
    dataset = to_dataset(forecast)
    assert dataset.x.values[0] == 255500
    assert dataset.x.attrs["units"] == "m"
    assert {axis.unit_name for axis in pyproj.CRS(dataset.crs.crs_wkt).axis_info} == {"metre"}
    first = dataset.x.values[0], dataset.y.values[0]
    place = pyproj.Proj(dataset.crs.crs_wkt)(*first, inverse=True)
    for text in (dataset.crs.attrs["proj4"], to_pysteps(dataset).attrs["projection"]):
        assert pyproj.Proj(text)(*first, inverse=True) == pytest.approx(place)


# ---- grids of other kinds ------------------------------------------------------------------------


def test_without_corners_coordinates_are_numbers_of_columns_and_rows() -> None:
    dataset = to_dataset(make_forecast({"pixel_size_m": 1000.0, "projection": SWISS}))
    assert dataset.x.values.tolist() == list(range(WIDTH))
    assert dataset.y.values.tolist() == list(range(HEIGHT))
    assert "standard_name" not in dataset.x.attrs
    assert "crs" not in dataset
    assert "grid_mapping" not in dataset.rain_rate.attrs
    assert dataset.attrs["input_projection"] == SWISS


def test_a_grid_of_latitudes_and_longitudes() -> None:
    corners = {"x1": 5.0, "y1": 45.0, "x2": 9.5, "y2": 48.0}
    dataset = to_dataset(make_forecast({**corners, "projection": "+proj=longlat +datum=WGS84"}))
    assert dataset.x.attrs["standard_name"] == "longitude"
    assert dataset.x.attrs["units"] == "degrees_east"
    assert dataset.y.attrs["standard_name"] == "latitude"
    assert dataset.y.values[0] == 47.75
    assert dataset.crs.attrs["grid_mapping_name"] == "latitude_longitude"


@pytest.mark.parametrize(
    "projection",
    ["unknown", "+proj=nonsense", "EPSG:2263", "EPSG:4978", "EPSG:4979", 'LOCAL_CS["roof"]', ""],
)
def test_a_projection_that_says_nothing_of_these_coordinates(projection: str) -> None:
    """Unreadable, in feet, or of three axes: no mapping, no units, and the text is kept."""
    dataset = to_dataset(make_forecast({**CORNERS, "projection": projection}))
    assert "crs" not in dataset
    for axis in (dataset.x, dataset.y):
        assert axis.attrs.keys() == {"long_name"}
    assert dataset.x.values[0] == 255500
    assert dataset.attrs["input_projection"] == projection


def test_corners_without_a_projection_are_in_metres() -> None:
    dataset = to_dataset(make_forecast(CORNERS))
    for axis in (dataset.x, dataset.y):
        assert axis.attrs["units"] == "m"
        assert axis.attrs["standard_name"] == f"projection_{axis.name}_coordinate"


def test_a_projection_given_as_wkt(path: Path) -> None:
    """With its datum, which PROJ text would lose."""
    wkt = pyproj.CRS("EPSG:2056").to_wkt()
    assert in_metres(wkt) == wkt
    forecast = make_forecast({**CORNERS, "projection": wkt})
    write_forecast(bare(forecast), path)
    with open_dataset(path) as dataset:
        assert pyproj.CRS.from_cf(dataset.crs.attrs).to_epsg() == 2056
        assert "proj4" not in dataset.crs.attrs
        assert dataset.x.attrs["units"] == "m"
    assert read_forecast(path).grid["projection"] == wkt
    assert to_pysteps(to_dataset(forecast)).attrs["projection"] == wkt


def test_a_projection_that_only_wkt_can_tell() -> None:
    dataset = to_dataset(make_forecast({**CORNERS, "projection": "+proj=eqearth"}))
    assert "grid_mapping_name" not in dataset.crs.attrs
    assert pyproj.CRS(dataset.crs.attrs["crs_wkt"]) == pyproj.CRS("+proj=eqearth")


def test_what_the_input_says_is_kept_apart_from_what_the_file_says(path: Path) -> None:
    entries = {
        "source": "radar",
        "title": "composite",
        "scan/height": np.float32(0.5),
        "begin": np.datetime64("2016-07-11T20:00"),
        "is_raw": True,
        "radars": np.array(["A", "B"]),
    }
    write_forecast(bare(make_forecast(entries)), path)
    with open_dataset(path) as dataset:
        attributes = dataset.attrs
    assert attributes["title"] == "Ensemble nowcast of rain"
    assert attributes["input_title"] == "composite"
    assert attributes["input_source"] == "radar"
    assert "model bundled" in attributes["source"]
    assert attributes["input_scan_height"] == 0.5
    assert attributes["input_begin"] == "2016-07-11T20:00"
    assert attributes["input_is_raw"] == "True"
    assert attributes["input_radars"] == "['A', 'B']"


# ---- the files -----------------------------------------------------------------------------------


def test_the_arrays_are_shared(forecast: Forecast) -> None:
    dataset = to_dataset(forecast)
    assert np.shares_memory(dataset.rain_rate.values, forecast.rain_rate)
    assert np.shares_memory(dataset["quantile"].values, forecast.statistics.quantile)
    assert np.shares_memory(to_pysteps(dataset).precip_intensity.values, forecast.rain_rate)


def test_round_trip(forecast: Forecast, path: Path) -> None:
    write_forecast(forecast, path)
    back = read_forecast(path)
    for name in ("rain_rate", "lead_minutes", "quality", "time"):
        np.testing.assert_array_equal(getattr(back, name), getattr(forecast, name))
    np.testing.assert_array_equal(back.past_time_as_read, forecast.past_time_as_read)
    assert back.rain_rate.dtype == np.float32
    assert back.statistics.entries().keys() == forecast.statistics.entries().keys()
    for name, values in forecast.statistics.entries().items():
        np.testing.assert_array_equal(getattr(back.statistics, name), values)
    assert back.issue_time == forecast.issue_time
    assert back.grid == GRID
    assert (back.seed, back.model, back.sampler) == (2**40, "bundled", "plms")
    assert back.num_sampling_steps == 50


def test_round_trip_of_rain_alone(forecast: Forecast, path: Path) -> None:
    write_forecast(bare(forecast), path)
    back = read_forecast(path)
    assert back.statistics.entries() == {}
    assert back.quality is None
    write_forecast(back, path)  # what was read can be written again


def test_big_fields_are_compressed_map_by_map(forecast: Forecast, tmp_path: Path) -> None:
    netcdf = pytest.importorskip("netCDF4", reason="netCDF4 is an extra")
    write_forecast(forecast, tmp_path / "forecast.nc")
    with netcdf.Dataset(tmp_path / "forecast.nc") as file:
        for name in ("rain_rate", "exceedance_probability", "quality"):
            variable = file[name]
            assert variable.chunking() == [1] * (variable.ndim - 2) + [HEIGHT, WIDTH]
            assert variable.filters()["zlib"]
        assert np.isnan(file["rain_rate"].getncattr("_FillValue"))
        for name in ("x", "y", "time", "realization", "quantile_level"):  # CF: never missing
            assert "_FillValue" not in file[name].ncattrs()
        assert "coordinates" not in file["crs"].ncattrs()


def test_zarr_stores_a_chunk_for_each_map(forecast: Forecast, tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr", reason="zarr is an extra")
    write_forecast(forecast, tmp_path / "forecast.zarr")
    assert zarr.open_group(str(tmp_path / "forecast.zarr"))["rain_rate"].chunks == (1, 1, 6, 9)


def test_the_same_forecast_gives_the_same_file(forecast: Forecast, tmp_path: Path) -> None:
    pytest.importorskip("netCDF4", reason="netCDF4 is an extra")
    for name in ("a.nc", "b.nc"):
        write_forecast(forecast, tmp_path / name)
    assert (tmp_path / "a.nc").read_bytes() == (tmp_path / "b.nc").read_bytes()


def test_a_file_in_the_way_is_replaced_and_nothing_else_is_left(
    forecast: Forecast, path: Path
) -> None:
    write_forecast(bare(forecast), path)
    write_forecast(replace(bare(forecast), seed=7), path)
    assert read_forecast(path).seed == 7
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file(
    forecast: Forecast, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_forecast(bare(forecast), path)

    def fail(self: Any, target: Path, **_: Any) -> None:
        raise RuntimeError("NetCDF: HDF error") if path.suffix == ".nc" else OSError(28, "full")

    monkeypatch.setattr(xarray.Dataset, "to_netcdf", fail)
    monkeypatch.setattr(xarray.Dataset, "to_zarr", fail)
    with pytest.raises(OSError, match="full") as error:
        write_forecast(replace(bare(forecast), seed=7), path)
    assert error.value.filename == str(path)  # not the temporary name
    assert read_forecast(path).seed == 2**40
    assert list(path.parent.iterdir()) == [path]


def test_h5netcdf_does_where_netcdf4_is_missing(
    forecast: Forecast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("h5netcdf", reason="h5netcdf is an extra")
    monkeypatch.setattr(files, "NETCDF_ENGINES", {"h5netcdf": "h5netcdf"})
    write_forecast(forecast, tmp_path / "forecast.nc")
    back = read_forecast(tmp_path / "forecast.nc")
    np.testing.assert_array_equal(back.rain_rate, forecast.rain_rate)
    assert back.grid == GRID


def test_other_files_are_told_apart(forecast: Forecast, path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_forecast(path)
    path.write_bytes(b"no dataset")
    with pytest.raises(InputError, match="is damaged"):
        read_forecast(path)
    path.unlink()
    write_forecast(bare(forecast), path)
    with open_dataset(path) as dataset:
        dataset = dataset.load().drop_vars("lead_minutes")
    path = path.with_stem("other")
    if path.suffix == ".nc":
        dataset.to_netcdf(path)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset.to_zarr(path)
    with pytest.raises(InputError, match="no forecast file: it lacks lead_minutes"):
        read_forecast(path)


# ---- pysteps -------------------------------------------------------------------------------------


def import_by_pysteps(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    pytest.importorskip("netCDF4", reason="netCDF4 is an extra")
    with contained("pysteps"):
        importers = pytest.importorskip(
            "pysteps.io.nowcast_importers", reason="pysteps is an extra"
        )
        return importers.import_netcdf_pysteps(str(path), onerror="raise")


def check_pysteps(forecast: Forecast, path: Path) -> dict[str, Any]:
    """Members, axes, corners and times as in the forecast; returns what else pysteps says."""
    write_forecast(forecast, path, "pysteps")
    rain, metadata = import_by_pysteps(path)
    np.testing.assert_array_equal(rain, forecast.rain_rate)
    for name in ("x1", "y1", "x2", "y2"):
        assert metadata[name] == pytest.approx(forecast.grid[name], abs=1e-6), name
    height, width = rain.shape[-2:]
    x_extent, y_extent = (forecast.grid[f"{a}2"] - forecast.grid[f"{a}1"] for a in "xy")
    assert metadata["xpixelsize"] == pytest.approx(x_extent / width, rel=1e-9)
    assert metadata["ypixelsize"] == pytest.approx(y_extent / height, rel=1e-9)
    assert metadata["yorigin"] == "upper"  # row 0 = north, as in the forecast
    assert metadata["unit"] == "mm/h"
    assert metadata["transform"] is None
    assert metadata["accutime"] == 5
    assert metadata["leadtimes"].tolist() == forecast.lead_minutes.tolist()
    assert [time.isoformat() for time in metadata["timestamps"]] == [str(t) for t in forecast.time]
    return metadata


def test_pysteps_reads_it(tmp_path: Path) -> None:
    metadata = check_pysteps(make_forecast({**GRID, "projection": POLAR}), tmp_path / "forecast.nc")
    parameters = {"+proj=stere", "+lat_0=90.0", "+lon_0=25.0", "+lat_ts=60.0", "+x_0=380886.31"}
    assert parameters < set(metadata["projection"].split())


def test_pysteps_reads_a_projection_that_it_does_not_know(tmp_path: Path) -> None:
    metadata = check_pysteps(make_forecast(GRID), tmp_path / "forecast.nc")
    assert "projection" not in metadata
    with xarray.open_dataset(tmp_path / "forecast.nc") as dataset:
        assert dataset.attrs["projection"] == SWISS
        assert dataset.precip_intensity.attrs["grid_mapping"] == "crs"
        assert dataset.quality.shape == (3, HEIGHT, WIDTH)


def test_the_grid_mapping_has_the_name_that_pysteps_looks_for() -> None:
    dataset = to_pysteps(to_dataset(make_forecast({**GRID, "projection": POLAR})))
    assert dataset.precip_intensity.dims == ("ens_number", "time", "y", "x")
    assert dataset.precip_intensity.attrs["grid_mapping"] == "polar_stereographic"
    assert dataset["quantile"].attrs["grid_mapping"] in dataset
    assert "crs" not in dataset


def test_pysteps_drops_the_axis_of_a_single_member(tmp_path: Path) -> None:
    forecast = make_forecast(GRID, num_members=1)
    write_forecast(forecast, tmp_path / "forecast.nc", "pysteps")
    rain, _ = import_by_pysteps(tmp_path / "forecast.nc")
    np.testing.assert_array_equal(rain, forecast.rain_rate[0])


def test_pysteps_own_exporter_gives_the_same(tmp_path: Path) -> None:
    forecast = make_forecast({**GRID, "projection": POLAR})
    write_forecast(forecast, tmp_path / "ours.nc", "pysteps")
    ours = import_by_pysteps(tmp_path / "ours.nc")
    exporters = pytest.importorskip("pysteps.io.exporters", reason="pysteps is an extra")
    described = {"unit": "mm/h", "yorigin": "upper", "cartesian_unit": "m", **forecast.grid}
    with contained("pysteps"):
        exporter = exporters.initialize_forecast_exporter_netcdf(
            str(tmp_path),
            "theirs",
            forecast.issue_time.astype("datetime64[s]").item(),
            5,
            [1, 2, 21],
            (HEIGHT, WIDTH),
            described,
            n_ens_members=2,
        )
        exporters.export_forecast_dataset(forecast.rain_rate, exporter)
        exporters.close_forecast_files(exporter)
    theirs = import_by_pysteps(tmp_path / "theirs.nc")
    np.testing.assert_array_equal(ours[0], theirs[0])
    assert ours[1].keys() == theirs[1].keys()
    for name, expected in theirs[1].items():
        if isinstance(expected, float):
            assert ours[1][name] == pytest.approx(expected, abs=0.1), name  # x, y as float32
        else:
            assert np.all(ours[1][name] == expected), name


# ---- real grids ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVENTS)
def test_real_grids(name: str, tmp_path: Path) -> None:
    pytest.importorskip("netCDF4", reason="netCDF4 is an extra")
    source = TRAIN / f"{name}.npz"
    if not source.exists():
        pytest.skip("the real radar data are not here")
    event = read_event(source)
    rain_rate = np.stack([event.rain_rate[i : i + 2].astype(np.float32) for i in range(2)])
    forecast = make_forecast(
        event.grid,
        rain_rate=rain_rate,
        issue_time=event.time[0],
        lead_minutes=np.array([5, 10]),
        is_second_hand=np.array([False, False]),
        quality=None,
        statistics=ensemble_statistics(rain_rate),
    )
    check_pysteps(forecast, tmp_path / "pysteps.nc")
    write_forecast(forecast, tmp_path / "forecast.nc")
    assert read_forecast(tmp_path / "forecast.nc").grid == event.grid
    with xarray.open_dataset(tmp_path / "forecast.nc") as dataset:
        assert pyproj.CRS.from_cf(dataset.crs.attrs) == pyproj.CRS(event.grid["projection"])
        half = event.grid["pixel_size_m"] / 2
        assert dataset.x.values[0] == pytest.approx(event.grid["x1"] + half, abs=0.01)
        assert dataset.y.values[0] == pytest.approx(event.grid["y2"] - half, abs=0.05)
