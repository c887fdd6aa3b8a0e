"""python -m ldcast.data.build ARCHIVE.zarr: what is stored, added, skipped and refused."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ldcast.data.build import main
from ldcast.data.building import run as building
from ldcast.data.building import store
from ldcast.data.building.pools import open_pool, results_in_order
from ldcast.data.building.store import open_archive
from ldcast.data.building.work import rounded
from ldcast.data.event import Field, RainEvent
from ldcast.data.event_files import write_event
from ldcast.data.readers.specs import read_event
from ldcast.errors import InputError, run_script
from ldcast.machine.folders import lock_folder
from ldcast.rain import as_float32, is_wet

xarray = pytest.importorskip("xarray", reason="reads archives")
zarr = pytest.importorskip("zarr", minversion="3", reason="writes archives")
pytest.importorskip("numcodecs", reason="rounds what archives keep")
pytest.importorskip("pyproj", reason="places archives")

START = np.datetime64("2020-06-01T00:00:00", "s")
SWISS = (
    "+proj=somerc +lat_0=46.95 +lon_0=7.44 +k_0=1 +x_0=600000 +y_0=200000 +ellps=bessel "
    "+towgs84=674.374,15.056,405.346 +units=m"
)
GRID = {
    "pixel_size_m": 1000.0,
    "pixel_size_y_m": 1000.0,
    "projection": SWISS,
    **{"x1": 500000.0, "y1": 100000.0, "x2": 540000.0, "y2": 130000.0},
}
SHAPE = 30, 40


def rain(minutes: list[int], seed: int = 0, shape: tuple[int, int] = SHAPE) -> RainEvent:
    """Rain that differs from time to time, some of it no data and some dry."""
    frames = []
    for minute in minutes:
        random = np.random.default_rng((seed, minute))
        frame = np.minimum(random.lognormal(0, 1.5, shape), 400).astype(np.float32)
        frame[random.random(shape) < 0.5] = 0
        frame[:3, :5] = np.nan
        frames.append(frame)
    time = START + np.array(minutes) * np.timedelta64(60, "s")
    return RainEvent(np.stack(frames), time, dict(GRID), source="")


def write(path: Path, minutes: list[int], **changes) -> Path:
    write_event(replace(rain(minutes), **changes), path)
    return path


def write_each(folder: Path, minutes: list[int]) -> Path:
    """One file for each frame."""
    folder.mkdir(exist_ok=True)
    for minute in minutes:
        write(folder / f"radar_{minute:04}.npz", [minute])
    return folder


def run(*arguments: object) -> int:
    return run_script(lambda: main([str(argument) for argument in arguments]))


def build(out: Path, *arguments: object) -> None:
    assert run(*arguments, "--out", out) == 0


def refuse(capsys: pytest.CaptureFixture, message: str, *arguments: object) -> None:
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1, error


def stored(minutes: list[int], bits: int = 7) -> np.ndarray:
    """What should be read of an archive of `rain`."""
    return as_float32(rounded(rain(minutes).rain_rate, bits))


def holds(path: Path, minutes: list[int]) -> bool:
    """Whether readers find these frames in an archive, no others, and none twice."""
    event = read_event(path)
    times = START + np.array(minutes) * np.timedelta64(60, "s")
    return bool(
        np.array_equal(event.time, times)
        and np.array_equal(event.rain_rate, stored(minutes), equal_nan=True)
    )


def files_of(path: Path) -> dict[str, bytes]:
    return {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file()
    }


# ---- what is stored ------------------------------------------------------------------------------


def test_files_in_any_order_are_read_back_exactly(tmp_path, capsys):
    minutes = list(range(0, 300, 5))  # two shards and a half
    late = write(tmp_path / "late.npz", minutes[31:])
    early = write(tmp_path / "early.npz", minutes[:31])
    build(tmp_path / "a.zarr", late, early)
    assert holds(tmp_path / "a.zarr", minutes)
    grid = read_event(tmp_path / "a.zarr").grid
    for name in ("pixel_size_m", "x1", "y1", "x2", "y2"):
        assert grid[name] == pytest.approx(GRID[name], abs=1e-6), name
    assert "+proj=somerc" in grid["projection"] and "+towgs84" in grid["projection"]
    said = capsys.readouterr().out
    assert "wrote 60 frames" in said and "no gap" in said
    assert "30 x 40 pixels, row 0 in the north" in said and "relative error at most 0.39%" in said


def test_rounding_keeps_the_stated_error_and_no_data_and_dry(tmp_path):
    values = np.float32([np.nan, 0, 1e-4, 0.12, 0.123456, 1.0, 77.7, 499.9])
    for bits in (3, 6, 7, 10):
        found = rounded(values, bits)
        assert found.dtype == np.float16 and np.isnan(found[0]) and found[1] == 0
        error = np.abs(found[2:].astype(np.float64) / values[2:] - 1)
        assert (error <= 2.0 ** -(bits + 1)).all() and error.max() > 2.0 ** -(bits + 4)
        assert is_wet(rounded(np.float32([0.1]), bits), 0.1)
    path = write(tmp_path / "a.npz", [0, 5])
    for bits, name in ((4, "few"), (10, "all")):
        build(tmp_path / f"{name}.zarr", path, "--keep-bits", bits)
        event = read_event(tmp_path / f"{name}.zarr")
        assert np.array_equal(event.rain_rate, stored([0, 5], bits), equal_nan=True)
        attributes = zarr.open_group(tmp_path / f"{name}.zarr")["rainfall_flux"].attrs
        assert attributes["quantization_maximum_relative_error"] == 2.0 ** -(bits + 1)
    few, whole = (
        len(files_of(tmp_path / f"{name}.zarr")["rainfall_flux/c/0/0/0"]) for name in ("few", "all")
    )
    assert few < 0.8 * whole


def test_the_store_follows_the_convention_for_source_data(tmp_path):
    build(tmp_path / "a.zarr", write(tmp_path / "a.npz", [0, 5, 10, 25, 30, 45]))
    with xarray.open_zarr(tmp_path / "a.zarr", decode_coords="all") as dataset:
        field = dataset["rainfall_flux"]
        assert field.dims == ("time", "y", "x") and field.dtype == np.float16
        assert field.attrs["standard_name"] == "rainfall_flux"
        assert field.attrs["units"] == "kg m-2 h-1"
        assert field.encoding["grid_mapping"] == "crs"
        assert {"spatial_ref", "crs_wkt"} <= dataset["crs"].attrs.keys()
        assert dataset.attrs["consistent_timestep_start"] == "2020-06-01T00:00:00Z"
        missing = (dataset["missing_times"].values - START) / np.timedelta64(60, "s")
        assert missing.tolist() == [15, 20, 35, 40]
        assert dataset["y"].values[0] > dataset["y"].values[-1]
        assert dataset["x"].attrs["standard_name"] == "projection_x_coordinate"
    with xarray.open_zarr(tmp_path / "a.zarr", consolidated=False) as dataset:
        assert dataset.sizes["time"] == 6


@pytest.mark.parametrize(("layout", "chunks"), [("crops", (12, 30, 40)), ("frames", (1, 30, 40))])
def test_layouts_are_chunks_of_one_shard_for_each_two_hours(tmp_path, layout, chunks):
    minutes = list(range(0, 150, 5))
    build(tmp_path / "a.zarr", write(tmp_path / "a.npz", minutes), "--layout", layout)
    array = zarr.open_group(tmp_path / "a.zarr")["rainfall_flux"]
    assert array.chunks == chunks and array.shards == (24, 30, 40)
    assert holds(tmp_path / "a.zarr", minutes)


def test_a_domain_larger_than_a_chunk_is_cut_into_some(tmp_path):
    event = rain([0, 5], shape=(130, 260))
    path = write(
        tmp_path / "a.npz", [0, 5], rain_rate=event.rain_rate, grid={"pixel_size_m": 500.0}
    )
    build(tmp_path / "a.zarr", path)
    array = zarr.open_group(tmp_path / "a.zarr")["rainfall_flux"]
    assert array.chunks == (12, 128, 128) and array.shards == (24, 256, 384)
    found = read_event(tmp_path / "a.zarr")
    assert np.array_equal(found.rain_rate, rounded(event.rain_rate, 7), equal_nan=True)
    assert found.grid["pixel_size_m"] == 500 and found.grid["x2"] == 260 * 500


def test_a_grid_of_degrees_stays_so(tmp_path):
    degrees = {"x1": 5.0, "y1": 45.0, "x2": 9.0, "y2": 48.0, "pixel_size_m": 7600.0}
    path = write(
        tmp_path / "a.npz", [0], grid={**degrees, "projection": "EPSG:4326 (degrees in x1..y2)"}
    )
    build(tmp_path / "a.zarr", path)
    found = read_event(tmp_path / "a.zarr").grid
    assert [found[name] for name in ("x1", "y1", "x2", "y2")] == pytest.approx([5, 45, 9, 48])
    assert "longlat" in found["projection"]


@pytest.mark.parametrize(
    "projection", ["unknown", "+proj=lcc +lat_0=44 +lat_1=44 +lon_0=-120 +units=ft"]
)
def test_a_place_that_is_not_known_counts_from_the_corner(tmp_path, capsys, projection):
    path = write(tmp_path / "a.npz", [0], grid={**GRID, "projection": projection})
    build(tmp_path / "a.zarr", path)
    assert "note: no projection that is known" in capsys.readouterr().out
    found = read_event(tmp_path / "a.zarr").grid
    assert found["x1"] == 0 and found["x2"] == 40_000 and "projection" not in found


def test_texts_and_what_is_left_out_are_said(tmp_path, capsys):
    event = rain([0, 5])
    fields = {"height": Field(np.zeros((1, 1, *SHAPE), np.float32))}
    grid = {**GRID, "source": "a radar", "licence": "open", "processing": "as it was"}
    path = write(tmp_path / "a.npz", [0, 5], fields=fields, grid=grid)
    build(tmp_path / "a.zarr", path)
    attributes = zarr.open_group(tmp_path / "a.zarr").attrs
    assert attributes["source"] == "a radar" and attributes["licence"] == "open"
    assert "note: its height are not written" in capsys.readouterr().out
    assert event.fields == {}


def test_a_store_and_netcdf_and_a_folder_become_one(tmp_path, capsys):
    pytest.importorskip("netCDF4", reason="with which xarray reads and writes NetCDF")
    minutes = list(range(0, 400, 5))
    build(tmp_path / "first.zarr", write(tmp_path / "a.npz", minutes[:30]))
    with xarray.open_zarr(tmp_path / "first.zarr", decode_coords="all") as dataset:
        part = dataset.isel(time=slice(20, 30)).load().drop_encoding()
        part = part.assign(rainfall_flux=part["rainfall_flux"].astype("float32"))
        part.to_netcdf(tmp_path / "b.nc")  # which has no float16
    write_each(tmp_path / "more", minutes[30:35])
    write(tmp_path / "more" / "later.npz", minutes[35:])
    (tmp_path / "more" / ".hidden").write_text("no rain")
    end = str(START + np.timedelta64(100, "m"))
    sources = [f"{tmp_path / 'first.zarr'}@/{end}", tmp_path / "b.nc", tmp_path / "more"]
    build(tmp_path / "all.zarr", *sources, "--workers", 1)
    assert holds(tmp_path / "all.zarr", minutes)
    assert "note: " not in capsys.readouterr().out.split("wrote")[-1]


def test_spans_of_a_folder_leave_out_files_beyond_them(tmp_path, capsys):
    folder = write_each(tmp_path / "radar", list(range(0, 60, 5)))
    build(tmp_path / "a.zarr", f"{folder}@2020-06-01T00:10/2020-06-01T00:30")
    assert holds(tmp_path / "a.zarr", [10, 15, 20, 25])
    build(tmp_path / "a.npz", f"{folder}@2020-06-01T00:10/2020-06-01T00:30")
    assert len(read_event(tmp_path / "a.npz").time) == 4
    for out in (tmp_path / "b.zarr", tmp_path / "b.npz"):
        refuse(capsys, "has a frame in @2021-01-01/", f"{folder}@2021-01-01/", "--out", out)
        assert not out.exists()


def test_blank_frames_amid_a_store_are_kept_and_those_at_its_end_left_out(tmp_path, capsys):
    minutes = list(range(0, 300, 5))
    event = rain(minutes)
    event.rain_rate[[20, 21, 22, 23]] = np.nan  # the end of what is read at once
    event.rain_rate[57:] = np.nan
    write(tmp_path / "a.npz", minutes, rain_rate=event.rain_rate)
    build(tmp_path / "a.zarr", tmp_path / "a.npz")
    assert "7 of them without any" in capsys.readouterr().out
    build(tmp_path / "b.zarr", tmp_path / "a.zarr", "--workers", 1)
    found = read_event(tmp_path / "b.zarr")
    assert len(found.time) == 57
    assert np.flatnonzero(np.isnan(found.rain_rate).all(axis=(1, 2))).tolist() == [20, 21, 22, 23]


# ---- again, and after a kill ---------------------------------------------------------------------


def test_the_same_command_again_changes_nothing(tmp_path, capsys):
    folder = write_each(tmp_path / "radar", list(range(0, 150, 5)))
    build(tmp_path / "a.zarr", folder)
    before = files_of(tmp_path / "a.zarr")
    capsys.readouterr()
    build(tmp_path / "a.zarr", folder)
    assert files_of(tmp_path / "a.zarr") == before
    assert "wrote 0 frames" in (said := capsys.readouterr().out) and "30 were there" in said


def test_new_times_are_added_amid_a_shard_and_after_a_gap(tmp_path):
    folder = write_each(tmp_path / "radar", list(range(0, 50, 5)))
    for minutes in ([50], list(range(55, 200, 5)), list(range(1500, 1600, 5))):
        build(tmp_path / "a.zarr", folder)
        write_each(folder, minutes)
    build(tmp_path / "a.zarr", folder)
    minutes = [*range(0, 200, 5), *range(1500, 1600, 5)]
    assert holds(tmp_path / "a.zarr", minutes)
    build(tmp_path / "once.zarr", folder)
    once, grown = files_of(tmp_path / "once.zarr"), files_of(tmp_path / "a.zarr")
    assert once.keys() == grown.keys()
    assert [name for name in once if once[name] != grown[name] and "zarr.json" not in name] == []


class Killed(BaseException):
    """In a kill's place: nothing catches it."""


def test_a_kill_between_any_two_files_leaves_a_whole_store(tmp_path, monkeypatch):
    first, second = list(range(0, 150, 5)), list(range(150, 300, 5))
    folder = write_each(tmp_path / "radar", first)
    build(tmp_path / "base.zarr", folder)
    write_each(folder, second)
    monkeypatch.setattr(building, "_COMMIT_SECONDS", 0.0)  # after each shard
    atomically, num_left = store.open_atomically, [0]

    def killed_when_none_is_left(path: Path):
        if num_left[0] == 0:
            raise Killed
        num_left[0] -= 1
        return atomically(path)

    monkeypatch.setattr(store, "open_atomically", killed_when_none_is_left)
    seen = set()
    for num_files in range(100):
        out = tmp_path / f"{num_files}.zarr"
        shutil.copytree(tmp_path / "base.zarr", out)
        num_left[0] = num_files
        try:
            main([str(folder), "--out", str(out)])
            break
        except Killed:
            pass
        num_now = len(read_event(out).time)
        assert num_now in (30, 48) and holds(out, [*first, *second][:num_now])
        seen.add(num_now)
        num_left[0] = 1000
        build(out, folder)
        assert holds(out, [*first, *second])
        shutil.rmtree(out)
    assert num_files > 6 and seen == {30, 48}
    assert holds(out, [*first, *second])


def test_a_kill_before_any_frame_is_visible_leaves_nothing_in_the_way(tmp_path, monkeypatch):
    path = write(tmp_path / "a.npz", [0, 5])
    (tmp_path / "a.zarr" / "rainfall_flux" / "c" / "0" / "0").mkdir(parents=True)
    (tmp_path / "a.zarr" / "rainfall_flux" / "c" / "0" / "0" / ".0.1.tmp").write_text("half")
    build(tmp_path / "a.zarr", path)
    assert holds(tmp_path / "a.zarr", [0, 5])
    assert not list((tmp_path / "a.zarr").rglob(".*"))


def test_a_full_disk_is_one_line_and_the_store_stays_whole(tmp_path, monkeypatch, capsys):
    minutes = list(range(0, 300, 5))
    folder = write_each(tmp_path / "radar", minutes)
    monkeypatch.setattr(building, "_COMMIT_SECONDS", 1e9)
    write_shard = building.build_shard

    def full(task, *arguments):
        if task.index == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a.zarr/rainfall_flux/c/2/0/0")
        return write_shard(task, *arguments)

    monkeypatch.setattr(building, "build_shard", full)
    refuse(capsys, r"No space left on device: a\.zarr/rain", folder, "--out", tmp_path / "a.zarr")
    assert holds(tmp_path / "a.zarr", minutes[:48])  # what was finished before it
    monkeypatch.setattr(building, "build_shard", write_shard)
    build(tmp_path / "a.zarr", folder)
    assert holds(tmp_path / "a.zarr", minutes)


# ---- damaged files -------------------------------------------------------------------------------


def test_damaged_files_are_skipped_named_counted_and_tried_again(tmp_path, capsys):
    minutes = list(range(0, 200, 5))
    folder = write_each(tmp_path / "radar", minutes)
    no_header, no_rain = folder / "radar_0050.npz", folder / "radar_0100.npz"
    no_header.write_bytes(b"PK\x03\x04 nothing")
    with np.load(no_rain) as arrays:
        np.savez(no_rain, rain_rate=np.zeros((1, 2)), time=arrays["time"])
    out = tmp_path / "a.zarr"
    refuse(capsys, r"radar_0050\.npz", folder, "--out", out, "--strict")
    assert not out.exists()
    build(out, folder)
    said = capsys.readouterr().out
    assert "skipped radar_0050.npz: " in said and "skipped radar_0100.npz: " in said
    assert "2 of 40 files could not be read" in said and "1 blank of damaged files" in said
    found = read_event(out)
    assert len(found.time) == 39 and START + np.timedelta64(50, "m") not in found.time
    assert np.isnan(found.rain_rate[found.time == START + np.timedelta64(100, "m")]).all()
    refuse(capsys, r"radar_0050\.npz.*\n", folder, "--out", out, "--strict")
    no_header.unlink()
    refuse(capsys, "radar_0100.*without --strict it is skipped", folder, "--out", out, "--strict")
    write(no_rain, [100])
    build(out, folder)
    assert holds(out, [minute for minute in minutes if minute != 50])
    assert "wrote 1 frame into" in capsys.readouterr().out
    assert len(open_archive(out).unreadable) == 0


def test_an_event_file_skips_damaged_files_too(tmp_path, capsys):
    folder = write_each(tmp_path / "radar", [0, 5, 10])
    (folder / "radar_0005.npz").write_bytes(b"")
    refuse(capsys, "radar_0005", folder, "--out", tmp_path / "a.npz", "--strict")
    build(tmp_path / "a.npz", folder)
    assert len(read_event(tmp_path / "a.npz").time) == 2
    assert "skipped radar_0005.npz: " in (said := capsys.readouterr().out)
    assert "1 of 3 files could not be read" in said


def test_a_damaged_file_of_many_frames_counts_once(tmp_path, capsys):
    write(tmp_path / "a.npz", [0])
    with np.load(write(tmp_path / "b.npz", list(range(5, 305, 5)))) as arrays:
        np.savez(tmp_path / "b.npz", rain_rate=np.zeros((1, 2)), time=arrays["time"])
    build(tmp_path / "a.zarr", tmp_path / "a.npz", tmp_path / "b.npz")
    assert "1 of 2 files could not be read" in (said := capsys.readouterr().out)
    assert "60 blank of damaged files" in said and said.count("skipped b.npz") == 1


def test_nothing_but_damaged_files_is_an_error(tmp_path, capsys):
    folder = write_each(tmp_path / "radar", [0, 5])
    for path in folder.iterdir():
        path.write_bytes(b"")
    refuse(capsys, r"is not an \.npz file.*and 1 more", folder, "--out", tmp_path / "a.zarr")
    assert not (tmp_path / "a.zarr").exists()


# ---- what is refused -----------------------------------------------------------------------------


def test_two_grids_are_one_line_and_the_store_stays_whole(tmp_path, capsys):
    minutes = list(range(0, 200, 5))
    build(tmp_path / "a.zarr", write(tmp_path / "a.npz", minutes))
    before = files_of(tmp_path / "a.zarr")
    other = {**GRID, "x1": 510000.0, "x2": 550000.0}
    path = write(tmp_path / "b.npz", [200, 205], grid=other)
    refuse(capsys, r"b\.npz differs in x1 from", path, "--out", tmp_path / "a.zarr")
    shape = write(tmp_path / "c.npz", [200], rain_rate=np.ones((1, 8, 9), np.float32), grid=GRID)
    refuse(capsys, r"c\.npz differs in pixels", shape, "--out", tmp_path / "a.zarr")
    assert files_of(tmp_path / "a.zarr") == before
    both = [tmp_path / "a.npz", path]
    refuse(capsys, "differs in x1", *both, "--out", tmp_path / "new.zarr")
    assert holds(tmp_path / "new.zarr", minutes[:24])  # finished before the other grid came


def test_two_cadences_are_one_line_before_anything_is_written(tmp_path, capsys):
    out = tmp_path / "a.zarr"
    path = write(tmp_path / "a.npz", [0, 5, 10, 17])
    refuse(capsys, "00:10 and .*00:17 are 7 minutes apart, expected 5", path, "--out", out)
    slow = write(tmp_path / "b.npz", [*range(0, 60, 5), *range(60, 150, 10)])
    refuse(capsys, "9 frames from 2020-06-01T01:00 .* 10 minutes apart", slow, "--out", out)
    half = write(tmp_path / "c.npz", [0], time=START + np.array([30]))
    refuse(capsys, "minutes apart", half, path, "--out", out)
    assert not out.exists()
    build(out, slow, "--minutes-per-frame", 10)
    assert holds(out, list(range(0, 150, 10)))
    refuse(capsys, "minutes-per-frame 5, but .* with 10", slow, "--out", out, *FIVE)
    build(tmp_path / "late.zarr", f"{slow}@/2020-06-01T01:00")
    assert holds(tmp_path / "late.zarr", list(range(0, 60, 5)))


FIVE = ("--minutes-per-frame", 5)


def test_times_with_seconds_are_rounded_and_other_cadences_taken(tmp_path, capsys):
    seconds = np.array([0, 362, 718, 1083, 1440]) * np.timedelta64(1, "s")
    minutes = [0, 6, 12, 18, 24]
    path = write(tmp_path / "a.npz", minutes, time=START + seconds)
    message = "5.95 minutes apart, expected whole minutes.* such as 6 or 5"
    refuse(capsys, message, path, "--out", tmp_path / "a.zarr")
    build(tmp_path / "a.zarr", path, "--minutes-per-frame", 6)
    assert open_archive(tmp_path / "a.zarr").minutes == 6
    found = xarray.open_zarr(tmp_path / "a.zarr")["time"].values
    assert np.array_equal(found, START + np.array(minutes) * np.timedelta64(1, "m"))


def test_thinning_continues_from_the_archive(tmp_path):
    folder = write_each(tmp_path / "radar", [0, 5, 10, 15])
    build(tmp_path / "a.zarr", folder, "--minutes-per-frame", 10)
    write_each(folder, [20, 25, 30])
    build(tmp_path / "a.zarr", folder, "--minutes-per-frame", 10)
    assert holds(tmp_path / "a.zarr", [5, 15, 25])


def test_times_before_the_last_and_times_that_occur_twice_are_one_line(tmp_path, capsys):
    out = tmp_path / "a.zarr"
    build(out, write(tmp_path / "a.npz", [0, 5, 20]))
    late = write(tmp_path / "late.npz", [10, 25])
    refuse(capsys, r"T00:10 of .*late\.npz is not in .*grows at its end", late, "--out", out)
    assert holds(out, [0, 5, 20])
    again = write(tmp_path / "again.npz", [20, 25])
    refuse(capsys, "occur once; leave one out", again, tmp_path / "a.npz", "--out", out)
    build(out, again)  # what it has is not written twice
    assert holds(out, [0, 5, 20, 25])


def test_what_is_no_archive_is_kept(tmp_path, capsys):
    path = write(tmp_path / "a.npz", [0])
    folder = tmp_path / "folder.zarr"
    folder.mkdir()
    (folder / "diary.txt").write_text("dear")
    refuse(capsys, "is a folder but no archive, and is kept", path, "--out", folder)
    other = tmp_path / "other.zarr"
    zarr.create_group(other)
    refuse(capsys, r"is not an archive of ldcast\.data\.build", path, "--out", other)
    build(tmp_path / "old.zarr", path)
    described = json.loads((tmp_path / "old.zarr" / "zarr.json").read_text())
    rain = described["consolidated_metadata"]["metadata"]["rainfall_flux"]
    rain["codecs"][0]["configuration"]["chunk_shape"] = [6, 30, 40]
    (tmp_path / "old.zarr" / "zarr.json").write_text(json.dumps(described))
    refuse(capsys, r"has chunks .*\(6, 30, 40\).*expected", path, "--out", tmp_path / "old.zarr")
    file = tmp_path / "file.zarr"
    file.write_text("dear")
    refuse(capsys, "is a file, an archive is a folder", path, "--out", file)
    assert (folder / "diary.txt").read_text() == file.read_text() == "dear"


def test_one_process_at_a_time_writes(tmp_path, capsys):
    path, out = write(tmp_path / "a.npz", [0, 5]), tmp_path / "a.zarr"
    build(out, path)
    with lock_folder(out):
        refuse(capsys, "another process writes into", path, "--out", out)
    build(out, path)


def test_a_piece_of_the_domain_is_built_and_continues_as_such(tmp_path, capsys):
    folder, out = write_each(tmp_path / "radar", [0, 5]), tmp_path / "a.zarr"
    piece = ("--crop", 4, 10, 16, 20)
    build(out, folder, *piece)
    write_each(folder, [10])
    refuse(capsys, "differs in pixels .* got .30, 40., expected .16, 20.", folder, "--out", out)
    build(out, folder, *piece)
    event = read_event(out)
    expected = stored([0, 5, 10])[:, 4:20, 10:30]
    assert np.array_equal(event.rain_rate, expected, equal_nan=True)
    assert event.grid["x1"] == 510_000 and event.grid["y2"] == 126_000
    outside = ("--crop", 20, 30, 16, 20)
    refuse(capsys, "choose a piece inside", folder, *outside, "--out", tmp_path / "b.zarr")


def test_flags_that_do_not_fit_are_refused(tmp_path, capsys):
    path, out = write(tmp_path / "a.npz", [0, 5]), tmp_path / "a.zarr"
    for flag in (("--keep-bits", 7), ("--layout", "crops"), ("--workers", 1)):
        refuse(capsys, f"{flag[0]}, which is for archives", path, *flag, "--out", "b.npz")
    refuse(capsys, "keep-bits 11, expected 1 to 10", path, "--keep-bits", 11, "--out", out)
    refuse(capsys, "workers, expected a whole", path, "--workers", 0, "--out", out)
    refuse(capsys, "leave one out", path, "--workers", 2, "--scheduler", "x", "--out", out)
    build(out, path)
    for flag in (("--keep-bits", 5), ("--layout", "frames")):
        refuse(capsys, f"{flag[0]} {flag[1]}, but .* was built with", path, *flag, "--out", out)
    bare = write(tmp_path / "bare.npz", [0], grid={})
    refuse(capsys, "does not say where its pixels lie", bare, "--out", tmp_path / "b.zarr")


def test_running_sums_are_refused_also_frame_by_frame(tmp_path, capsys):
    def sums(*minutes: int) -> Path:
        time = START + np.array(minutes) * np.timedelta64(60, "s")
        values = ("time", "y", "x"), np.ones((len(minutes), 4, 5), np.float32)
        attributes = {
            "standard_name": "rainfall_amount",
            "units": "mm",
            "accumulation_period": "1 hour",
        }
        metres = {"units": "m"}
        coordinates = {
            "time": time.astype("datetime64[ns]"),
            "y": ("y", 1000.0 * np.arange(4)[::-1], metres),
            "x": ("x", 1000.0 * np.arange(5), metres),
        }
        path = tmp_path / f"{minutes[0]}.zarr"
        xarray.Dataset({"rain": (*values, attributes)}, coordinates).to_zarr(
            path, consolidated=False
        )
        return path

    out = ("--workers", 1, "--out", tmp_path / "a.zarr")
    refuse(capsys, "intervals of its frames overlap", sums(0, 5), *out)
    assert run(sums(10), *out) == 0
    refuse(capsys, "intervals of its frames overlap", sums(15), *out)


# ---- several processes ---------------------------------------------------------------------------


@pytest.mark.slow
def test_processes_here_write_the_same_store(tmp_path):
    minutes = list(range(0, 600, 5))
    folder = write_each(tmp_path / "radar", minutes)
    build(tmp_path / "one.zarr", folder, "--workers", 1)
    build(tmp_path / "two.zarr", folder, "--workers", 2)
    assert files_of(tmp_path / "one.zarr") == files_of(tmp_path / "two.zarr")
    assert holds(tmp_path / "two.zarr", minutes)


@pytest.mark.slow
def test_a_process_that_ends_is_one_line():
    with (
        pytest.raises(InputError, match="with fewer --workers"),
        open_pool(2, None) as pool,
    ):
        list(results_in_order(pool, os._exit, [1, 1]))


@pytest.mark.slow
def test_a_killed_build_resumes(tmp_path):
    minutes = list(range(0, 2400, 5))
    folder = write_each(tmp_path / "radar", minutes)
    out = tmp_path / "a.zarr"
    command = [sys.executable, "-m", "ldcast.data.build", str(folder), "--workers", "1"]
    for num_shards in (3, 9, 15):
        process = subprocess.Popen([*command, "--out", str(out)], cwd=Path(__file__).parents[2])
        while process.poll() is None:
            if len(list((out / "rainfall_flux").glob("c/*/0/0"))) >= num_shards:
                process.kill()
        process.wait()
        if (out / "zarr.json").exists():
            assert holds(out, minutes[: len(read_event(out).time)])
    build(out, folder)
    assert holds(out, minutes)


@pytest.mark.slow
def test_workers_of_a_dask_scheduler_write_the_same_store(tmp_path, capsys, monkeypatch):
    distributed = pytest.importorskip("distributed", reason="dask's scheduler")
    monkeypatch.chdir(tmp_path)  # where dask's workers have their folders
    minutes = list(range(0, 600, 5))
    folder = write_each(tmp_path / "radar", minutes)
    damaged = folder / "radar_0100.npz"
    with np.load(damaged) as arrays:
        np.savez(damaged, rain_rate=np.zeros((1, 2)), time=arrays["time"])
    build(tmp_path / "one.zarr", folder, "--workers", 1)
    settings = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(processes=True, **settings) as cluster:
        address = cluster.scheduler_address
        build(tmp_path / "two.zarr", folder, "--scheduler", address)
        assert "1 of 120 files could not be read" in capsys.readouterr().out
        strict = ("--scheduler", address, "--strict", "--out", tmp_path / "three.zarr")
        refuse(capsys, r"radar_0100\.npz", folder, *strict)
        with distributed.Client(address) as client:
            client.run_on_scheduler(fail_at_once)
        with (
            pytest.raises(InputError, match="a worker of it ended"),
            open_pool(1, address) as pool,
        ):
            list(results_in_order(pool, os._exit, [1]))
    assert files_of(tmp_path / "one.zarr") == files_of(tmp_path / "two.zarr")
    gone = ("--scheduler", address, "--out", tmp_path / "four.zarr")
    refuse(capsys, "no dask scheduler answers", folder, *gone)


def fail_at_once(dask_scheduler) -> None:
    """Instead of trying on other workers what ended one."""
    dask_scheduler.allowed_failures = 0


def test_a_scheduler_without_dask_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    path = write(tmp_path / "a.npz", [0])
    flags = ("--scheduler", "tcp://x:1", "--out", tmp_path / "a.zarr")
    refuse(capsys, r"pip install 'dask\[distributed\]'", path, *flags)


def test_zarr_that_is_too_old_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(zarr, "__version__", "2.18.3")
    path = write(tmp_path / "a.npz", [0])
    refuse(capsys, "expected 3 or newer", path, "--out", tmp_path / "a.zarr")
