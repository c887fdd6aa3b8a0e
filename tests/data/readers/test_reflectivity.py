"""Reflectivity in NetCDF and Zarr, by the relation that --zr names."""

import argparse
from pathlib import Path

import numpy as np
import pytest

from ldcast.data.archive.events import read_events
from ldcast.data.build import main
from ldcast.data.readers.reading_flags import add_reading_flags, check_used, reading_of
from ldcast.data.readers.reflectivity import check_relation, rain_from_reflectivity
from ldcast.data.readers.specs import read_event
from ldcast.data.reading import Reading
from ldcast.errors import InputError, run_script

ZR = (200.0, 1.6)
BY_ZR = Reading(zr=ZR)
NAME = "equivalent_reflectivity_factor"
DBZ = np.array([[-np.inf, -32, 0, np.nan], [10, 23.0103, 40, 55]], np.float32)
RAIN = np.array([[0, 0, 0, np.nan], [0.153765, 1, 11.5305, 99.85]])  # by Marshall and Palmer


@pytest.mark.parametrize(
    "units", ["dBZ", "dbz", "DBZ", "dB(Z)", "mm6 m-3", "mm^6/m^3", "mm**6 m**-3"]
)
def test_known_rain(units):
    values = DBZ[None].copy() if "b" in units.lower() else 10 ** (DBZ[None] / 10)
    rain = rain_from_reflectivity(values, units, ZR, "here")
    np.testing.assert_allclose(rain[0], RAIN, rtol=2e-4)
    assert (rain[0, 0, :3] == 0).all() and rain.dtype == np.float32


def test_another_relation_and_units():
    z = np.full((1, 1, 1), 250 * 5**1.2, np.float32)
    assert rain_from_reflectivity(z, "mm6 m-3", (250, 1.2), "here") == pytest.approx(5)


@pytest.mark.parametrize(
    ("value", "units", "message"),
    [
        (-999, "dBZ", "goes down to -999 dBZ, which no radar measures; .*missing_value"),
        (-3.4e38, "dBZ", "goes down to -3.4e"),
        (-1, "mm6 m-3", "goes down to -1 mm6 m-3"),
        (20, "dB", "here: reflectivity has units 'dB', expected dBZ or mm6 m-3"),
        (20, "", "here: reflectivity has no units"),
    ],
)
def test_codes_and_units_that_are_refused(value, units, message):
    values = np.full((2, 3, 4), 20, np.float32)
    values[1, 0, 0] = value
    with pytest.raises(InputError, match=message):
        rain_from_reflectivity(values, units, ZR, "here")


@pytest.mark.parametrize(
    "zr", [(1.6, 200), (0, 1.6), (200, 0), (-200, 1.6), (np.nan, 1), (np.inf, 1)]
)
def test_relations_that_are_none(zr):
    with pytest.raises(InputError, match=r"expected A of 1 or more and B of 0.5 to 4"):
        check_relation(zr)


# ---- files ---------------------------------------------------------------------------------------


def save(path: Path, *fields: tuple[str, str, str, np.ndarray], **attrs) -> Path:
    """Frames of 2 x 4 pixels; fields: name, standard name, units and values of a frame."""
    xarray = pytest.importorskip("xarray", reason="writes NetCDF and Zarr")
    pytest.importorskip("netCDF4", reason="writes NetCDF")
    dataset = xarray.Dataset(
        {
            name: (
                ("time", "y", "x"),
                np.stack(6 * [frame.astype(np.float32)]),
                {"standard_name": standard, "units": units, **attrs},
            )
            for name, standard, units, frame in fields
        },
        coords={
            "time": np.datetime64("2020-06-01", "ns") + np.arange(6) * np.timedelta64(300, "s"),
            "y": ("y", [1000.0, 0.0], {"units": "m"}),
            "x": ("x", 1000.0 * np.arange(4), {"units": "m"}),
        },
    )
    dataset.to_zarr(path) if path.suffix == ".zarr" else dataset.to_netcdf(path)
    return path


REFLECTIVITY = ("dbz", NAME, "dBZ", DBZ)
DIFFERENTIAL = ("zdr", "log_differential_reflectivity_hv", "dB", np.ones((2, 4)))
RATE = ("rain", "rainfall_rate", "mm h-1", np.full((2, 4), 7.0))


@pytest.mark.parametrize("name", ["radar.nc", "radar.zarr"])
def test_reflectivity_is_refused_or_converted(tmp_path, name):
    if name.endswith("zarr"):
        pytest.importorskip("zarr", reason="writes Zarr")
    path = save(tmp_path / name, REFLECTIVITY, DIFFERENTIAL)
    with pytest.raises(
        InputError, match=r"has dbz|dbz \(.*--zr A B of Z = A R\^B, such as --zr 200 1.6"
    ):
        read_event(path)
    event = read_event(f"{path}@2020-06-01T00:05/", BY_ZR)
    assert len(event.time) == 5
    np.testing.assert_allclose(event.rain_rate[2], RAIN, rtol=2e-4)
    assert "by Z = 200 R^1.6" in event.grid["processing"]


def test_means_of_reflectivity_may_not_overlap(tmp_path):
    path = save(tmp_path / "a.nc", REFLECTIVITY, cell_methods="time: mean (interval: 1 hour)")
    with pytest.raises(InputError, match="intervals of its frames overlap"):
        read_event(path, BY_ZR)


def test_packed_counts_and_a_code_for_no_echo(tmp_path):
    xarray = pytest.importorskip("xarray", reason="writes NetCDF")
    path = save(tmp_path / "a.nc", ("dbz", NAME, "dBZ", np.where(np.isfinite(DBZ), DBZ, -32)))
    with xarray.open_dataset(path) as dataset:
        packing = {"dtype": "u1", "scale_factor": 0.5, "add_offset": -32.0, "_FillValue": 255}
        dataset.to_netcdf(tmp_path / "b.nc", encoding={"dbz": packing})
    rain = read_event(tmp_path / "b.nc", BY_ZR).rain_rate[0]
    np.testing.assert_allclose(rain, np.nan_to_num(RAIN), rtol=5e-3)


def test_a_file_with_both_is_rain_until_a_relation_is_named(tmp_path):
    path = save(tmp_path / "a.nc", REFLECTIVITY, RATE)
    assert (read_event(path).rain_rate == 7).all()
    np.testing.assert_allclose(read_event(path, BY_ZR).rain_rate[0], RAIN, rtol=2e-4)


def test_one_of_several_reflectivities_is_not_guessed(tmp_path):
    path = save(tmp_path / "a.nc", REFLECTIVITY, ("th", NAME, "dBZ", DBZ))
    with pytest.raises(InputError, match=r"has 2 variables of reflectivity, dbz .*th"):
        read_event(path, BY_ZR)


def test_reflectivity_above_all_rain_is_clutter_or_refused(tmp_path):
    path = save(tmp_path / "a.nc", ("dbz", NAME, "dBZ", DBZ + 60))
    with pytest.raises(InputError, match="above 500 mm/h"):
        read_event(path, BY_ZR)


# ---- flags ---------------------------------------------------------------------------------------


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_reading_flags(parser.add_argument)
    return parser.parse_args(arguments)


def test_the_flag_becomes_a_reading():
    assert reading_of(parse("--zr", "200", "1.6"), 5) == BY_ZR
    assert reading_of(parse(), 5) == Reading()
    with pytest.raises(InputError, match=r"got --zr 1.6 200, expected A"):
        reading_of(parse("--zr", "1.6", "200"), 5)


def test_a_relation_that_nothing_needs_is_refused(tmp_path):
    rain, dbz = save(tmp_path / "rain.nc", RATE), save(tmp_path / "dbz.nc", REFLECTIVITY)
    message = "--zr 200 1.6 is for reflectivity, but rain holds rain; leave it out"
    with pytest.raises(InputError, match=message):
        read_events([str(rain)], BY_ZR, 24)
    assert len(read_events([str(rain), str(dbz)], BY_ZR, 24)) == 2
    check_used(Reading(), [read_event(rain)])


def test_build_makes_an_event_file_of_reflectivity(tmp_path, capsys):
    path, out = save(tmp_path / "dbz.nc", REFLECTIVITY), tmp_path / "event.npz"
    assert run_script(lambda: main([str(path), "--out", str(out)])) == 2
    assert "--zr A B of Z = A R^B" in capsys.readouterr().err
    assert run_script(lambda: main([str(path), "--zr", "200", "1.6", "--out", str(out)])) == 0
    np.testing.assert_allclose(read_event(out).rain_rate[0], RAIN, rtol=2e-3)
    rain = save(tmp_path / "rain.nc", RATE)
    assert run_script(lambda: main([str(rain), "--zr", "200", "1.6", "--out", str(out)])) == 2
    assert "--zr 200 1.6 is for reflectivity" in capsys.readouterr().err


@pytest.mark.parametrize("tool", ["verify", "calibrate"])
def test_verify_and_calibrate_have_the_flag(tool):
    from ldcast.verification.arguments import case_parser, parse

    parser = case_parser(tool, "")
    flags = parse(parser, ["--data", "a.nc", "--zr", "200", "1.6"])
    assert reading_of(flags, 5) == BY_ZR
    flags = parse(parser, ["--data", "a.nc", "--zr", "1", "200"])
    with pytest.raises(InputError, match="got --zr 1 200"):
        reading_of(flags, 5)
