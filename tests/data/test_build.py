"""python -m ldcast.data.build: what it writes, says and refuses."""

import re
from pathlib import Path

import numpy as np
import pytest

from ldcast.data.build import main
from ldcast.data.event import RainEvent
from ldcast.data.event_files import write_event
from ldcast.data.readers.specs import read_event
from ldcast.data.reading import Reading
from ldcast.errors import run_script

DATA = Path(__file__).parents[2].parent / "shared" / "data"
START = np.datetime64("2020-06-01T00:00:00", "s")


def write(path: Path, minutes: list[int], value: float = 2.0, **grid) -> Path:
    """Frames of 4 x 5 pixels: one without data, nine of `value`, the others dry."""
    rain_rate = np.zeros((len(minutes), 4, 5), np.float32)
    rain_rate[:, 2:] = value
    rain_rate[:, 3, 4] = np.nan
    write_event(
        RainEvent(rain_rate, START + np.array(minutes) * np.timedelta64(60, "s"), grid), path
    )
    return path


def run(*arguments: object) -> int:
    return run_script(lambda: main([str(argument) for argument in arguments]))


def refuse(capsys: pytest.CaptureFixture, message: str, *arguments: object) -> None:
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1, error


def test_files_become_one_event_file(tmp_path, capsys):
    late = write(tmp_path / "late.npz", [10, 15], 0.1, pixel_size_m=1000.0)
    early = write(tmp_path / "early.npz", [0, 5], 345.67, pixel_size_m=1000.0)
    assert run(late, early, "--out", tmp_path / "event.npz") == 0
    event = read_event(tmp_path / "event.npz")
    assert event.rain_rate.dtype == np.float16
    assert event.rain_rate[:, 2, 0].tolist() == [345.75, 345.75, *[np.float16(0.1)] * 2]
    assert np.isnan(event.rain_rate[:, 3, 4]).all() and (event.rain_rate[:, :2] == 0).all()
    assert event.grid == {
        "pixel_size_m": 1000.0,
        "source": "early.npz, late.npz",
        "processing": "read by ldcast.data.build --reader npz",
    }
    assert capsys.readouterr().out == (
        f"wrote {tmp_path / 'event.npz'}: 4 frames, 2020-06-01T00:00 to 2020-06-01T00:15, 4 x 5 "
        "pixels of 1000 m, 47.4% wet, at most 345.8 mm/h, no data 5.0%\n"
    )


def test_another_cadence_is_written_and_said(tmp_path, capsys):
    path = write(tmp_path / "a.npz", [0, 10, 20], source="radar")
    assert run(path, "--out", tmp_path / "event.npz") == 0
    assert "\nnote: " in (out := capsys.readouterr().out) and "10 minutes apart throughout" in out
    event = read_event(tmp_path / "event.npz")
    assert len(event.time) == 3 and event.grid["source"] == "radar"  # as the file says itself


def test_frames_are_thinned_to_the_minutes_that_are_asked_for(tmp_path, capsys):
    path, out = write(tmp_path / "a.npz", [0, 5, 10, 20, 25, 30, 35]), tmp_path / "event.npz"
    assert run(path, "--out", out) == 0
    assert len(read_event(out).time) == 7 and "left out" not in capsys.readouterr().out
    assert run(path, "--minutes-per-frame", 10, "--out", out) == 0
    assert ((read_event(out).time - START).astype(int) / 60).tolist() == [5, 25, 35]
    assert "note: a: of 7 frames, 5 minutes apart, 4 were left out: 3 " in capsys.readouterr().out


@pytest.mark.parametrize("num_frames", [60, 61])
@pytest.mark.parametrize("seconds", [0, 1, 12])
def test_frames_with_seconds_are_thinned_all_the_same(num_frames, seconds, tmp_path):
    jitter = np.random.default_rng(0).integers(-seconds, seconds + 1, num_frames)
    rain_rate = np.arange(num_frames, dtype=np.float32)[:, None, None] * np.ones((4, 5))
    time = START + np.timedelta64(300, "s") * np.arange(num_frames)
    write_event(RainEvent(rain_rate.astype(np.float32), time + jitter), tmp_path / "a.npz")
    out = tmp_path / "event.npz"
    assert run(tmp_path / "a.npz", "--minutes-per-frame", 10, "--out", out) == 0
    event = read_event(out, Reading(minutes=10))
    kept = np.arange((num_frames - 1) % 2, num_frames, 2)
    assert np.array_equal(event.rain_rate[:, 0, 0], kept)
    assert np.array_equal(event.time, time[kept])


def test_minutes_that_the_frames_do_not_divide_are_refused(tmp_path, capsys):
    path, out = write(tmp_path / "a.npz", [0, 10, 20, 30]), tmp_path / "event.npz"
    for minutes in (5, 25):
        message = f"frames are 10 minutes apart, expected {minutes} minutes"
        refuse(capsys, message, path, "--minutes-per-frame", minutes, "--out", out)
    refuse(capsys, "minutes per frame", path, "--minutes-per-frame", 0, "--out", out)
    assert not out.exists()
    assert run(path, "--minutes-per-frame", 10, "--out", out) == 0
    assert len(read_event(out).time) == 4 and "note" not in capsys.readouterr().out


def test_sources_of_many_files_are_the_first_and_the_last(tmp_path):
    paths = [write(tmp_path / f"{minute:02}.npz", [minute]) for minute in (15, 5, 0, 10)]
    assert run(*paths, "--out", tmp_path / "event.npz") == 0
    assert read_event(tmp_path / "event.npz").grid["source"] == "00.npz to 15.npz, 4 files"


def test_what_is_refused(tmp_path, capsys):
    path, out = write(tmp_path / "a.npz", [0]), tmp_path / "event.npz"
    other = tmp_path / "a.h5"
    other.write_bytes(b"")
    names = "expected --reader with one of mch, fmi, knmi, odim, xarray, npz"
    refuse(capsys, f"suffix '.h5' .*{names}", other, "--out", out)
    refuse(capsys, f"suffix '.h5' .*{names}", path, other, "--out", out)
    refuse(capsys, "is one of the files to read", path, "--out", path)
    refuse(capsys, "missing, expected a file or a folder", tmp_path / "b.npz", "--out", out)
    refuse(
        capsys, r"ends in '\.nc', expected \.zarr or \.npz", path, "--out", tmp_path / "event.nc"
    )
    refuse(capsys, "does not exist; make it", path, "--out", tmp_path / "none" / "event.npz")
    refuse(capsys, "occur once; leave one out", path, path, "--out", out)
    refuse(capsys, r"is not an \.npz file", other, "--reader", "npz", "--out", out)
    write(path, [0], 70_000)
    refuse(capsys, r"above 500 mm/h, up to 7e\+04, expected", path, "--out", out)
    assert not out.exists()


def test_suffix_of_the_output_in_capitals(tmp_path):
    path = write(tmp_path / "a.npz", [0])
    assert run(path, "--out", tmp_path / "EVENT.NPZ") == 0
    assert len(read_event(tmp_path / "EVENT.NPZ").time) == 1


def test_another_grid_is_said_before_equal_times(tmp_path, capsys):
    paths = [write(tmp_path / f"{size}.npz", [0], pixel_size_m=float(size)) for size in (1, 2)]
    refuse(capsys, "differs in pixel_size_m from", *paths, "--out", tmp_path / "event.npz")


def test_netcdf_is_known_by_its_suffix(tmp_path, capsys):
    xarray = pytest.importorskip("xarray", reason="reads NetCDF")
    pytest.importorskip("netCDF4", reason="with which xarray reads and writes NetCDF")
    values = np.full((2, 3, 4), 1 / 3600, np.float32)
    attrs = {"standard_name": "precipitation_flux", "units": "kg m-2 s-1"}
    metres = {"units": "m"}
    coords = {
        "time": (START + np.array([0, 300])).astype("datetime64[ns]"),
        "y": ("y", [500.0, 1500, 2500], metres),
        "x": ("x", [500.0, 1500, 2500, 3500], metres),
    }
    rain = xarray.DataArray(values, coords, ("time", "y", "x"), "rain", attrs)
    rain.to_netcdf(tmp_path / "radar.nc")
    assert run(tmp_path / "radar.nc", "--out", tmp_path / "event.npz") == 0
    event = read_event(tmp_path / "event.npz")
    assert (event.rain_rate == 1).all() and event.rain_rate.shape == (2, 3, 4)
    assert event.grid["x2"] == 4000 and event.grid["source"] == "radar.nc"
    assert event.grid["processing"].startswith("precipitation_flux in kg m-2 s-1 to mm/h")


@pytest.mark.skipif(not DATA.is_dir(), reason=f"needs real files in {DATA}")
def test_real_files_of_a_service(tmp_path, capsys):
    pytest.importorskip("pysteps", reason="its importers read KNMI's files")
    pytest.importorskip("h5py", reason="KNMI's files are HDF5")
    paths = sorted((DATA / "raw" / "knmi_h5").iterdir())
    assert run(*paths, "--reader", "knmi", "--out", tmp_path / "knmi.npz") == 0
    said = capsys.readouterr()
    assert "6 frames, 2010-08-26T00:00 to 2010-08-26T00:25, 765 x 700 pixels of 1000 m" in said.out
    assert "rain rates are made from amounts of 5 minutes" in said.out
    assert said.out.count("note: ") == 1 and said.err == ""
    event = read_event(tmp_path / "knmi.npz")
    with np.load(DATA / "train" / "knmi_20100826.npz") as known:
        np.testing.assert_array_equal(event.rain_rate, known["rain_rate"][:6])
        np.testing.assert_array_equal(event.time, known["time"][:6])
