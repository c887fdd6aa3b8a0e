"""The index of an archive: what it holds, how it is continued, and when it is refused."""

import multiprocessing
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from archives import HEIGHT, WIDTH, days_of_rain, make_archive, write_archive, xarray, zarr

from ldcast.data import index as door
from ldcast.data.archive import building
from ldcast.data.archive.building import build_index
from ldcast.data.archive.events import find_archive
from ldcast.data.archive.sidecar import State, index_address, open_group
from ldcast.data.reading import AS_STATED, Reading
from ldcast.data.tile_index import STATISTICS, ComputedTiles
from ldcast.errors import InputError, UnreadableError, run_script


def build(archive, out=None, num_workers=1):
    return build_index(
        archive, out or index_address(archive), AS_STATED, num_workers, lambda num: None
    )


def arrays_of(archive) -> dict[str, np.ndarray]:
    group = open_group(index_address(archive))
    return {name: array[:] for name, array in group.arrays()}


def same_arrays(first, second) -> bool:
    return first.keys() == second.keys() and all(
        np.array_equal(first[name], second[name], equal_nan=True) for name in first
    )


@pytest.fixture(scope="module")
def long_archive(tmp_path_factory):
    """Two blocks and a part of a third one."""
    path = tmp_path_factory.mktemp("archives") / "long.zarr"
    write_archive(path, *days_of_rain(3, 200))
    build(path)
    return path


def test_it_holds_the_statistics_of_all_tiles(long_archive):
    times, rain_rate = days_of_rain(3, 200)
    found, expected = find_archive(str(long_archive), AS_STATED), ComputedTiles(rain_rate)
    assert (found.time == times).all() and (found.state == State.GOOD).all()
    tiles = found.store.tiles
    for name in STATISTICS:
        rows = tiles.rows(name, 250, 590)  # of three blocks
        np.testing.assert_array_equal(rows, expected.rows(name, 250, 590))
    np.testing.assert_array_equal(tiles.class_counts(3, 400), expected.class_counts(3, 400))
    for name in STATISTICS[:3]:
        np.testing.assert_array_equal(tiles.highest(name), expected.highest(name))


def test_it_opens_in_xarray(long_archive):
    with xarray.open_zarr(index_address(long_archive), consolidated=False) as dataset:
        assert dataset["wet_share"].dims == ("time", "tile_row", "tile_column")
        assert dataset["time"].to_numpy()[1] == np.datetime64("2020-06-01T00:05")


def test_frames_that_cannot_be_used_are_known(tmp_path):
    times, rain_rate = days_of_rain(1, 12)
    rain_rate[3] = np.nan
    rain_rate[5, 20, 20] = -4.0
    rain_rate[6, 20:30, 20:30] = 900.0
    missing = xarray.DataArray(times[[8]].astype("M8[ns]"), dims="missing_times")
    path = write_archive(tmp_path / "a.zarr", times, rain_rate, more={"missing_times": missing})
    chunk = path / "rain" / "c" / "10" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:20])
    indexed = build(path)
    archive = find_archive(str(path), AS_STATED)
    kinds = {3: State.BLANK, 5: State.NO_RAIN, 6: State.NO_RAIN}
    kinds |= {8: State.LISTED_MISSING, 10: State.UNREADABLE}
    expected = [kinds.get(frame, State.GOOD) for frame in range(12)]
    assert archive.state.tolist() == expected
    assert indexed.counts[State.NO_RAIN] == 2 and len(indexed.problems) == 3
    assert any("goes down to -4" in problem for problem in indexed.problems)


def test_frames_that_were_repaired_are_tried_again_when_asked_for(tmp_path, capsys):
    times, rain_rate = days_of_rain(1, 12)
    path = write_archive(tmp_path / "a.zarr", times, rain_rate)
    chunk = path / "rain" / "c" / "4" / "0" / "0"
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[:20])
    build(path)
    chunk.write_bytes(whole)
    command = [str(path), "--workers", "1"]
    assert run_script(lambda: door.main(command)) == 0
    said = capsys.readouterr().out
    assert "0 of them new; 11 are good, 1 that cannot be read" in said and "--again" in said
    assert run_script(lambda: door.main([*command, "--again"])) == 0
    said = capsys.readouterr().out
    assert "1 of them new; 12 are good\n" in said and "--again" not in said
    fresh = make_archive(tmp_path / "b.zarr", num_days=1, per_day=12)
    assert same_arrays(arrays_of(path), arrays_of(fresh))


def test_an_archive_of_which_most_is_no_rain_is_refused(tmp_path):
    times, rain_rate = days_of_rain(1, 12)
    path = write_archive(tmp_path / "dbz.zarr", times, rain_rate - 30)
    with pytest.raises(InputError, match=r"12 of 12 frames cannot be used.*reflectivity"):
        build(path)


def test_an_end_that_was_allocated_is_left_out_until_it_is_written(tmp_path):
    times, rain_rate = days_of_rain(1, 40)
    path = write_archive(tmp_path / "a.zarr", times, rain_rate)
    late = {frame: path / "rain" / "c" / str(frame) for frame in range(30, 40)}
    for frame, folder in late.items():
        folder.rename(tmp_path / str(frame))
    indexed = build(path)
    assert indexed.num_frames == 30 and "not written yet" in indexed.notes[0]
    assert len(find_archive(str(path), AS_STATED).time) == 30
    for frame, folder in late.items():
        (tmp_path / str(frame)).rename(folder)
    indexed = build(path)
    assert indexed.num_frames == 40 and indexed.num_new == 10
    fresh = make_archive(tmp_path / "b.zarr", num_days=1)
    assert same_arrays(arrays_of(path), arrays_of(fresh))


def test_frames_without_data_at_the_end_are_looked_at_again(tmp_path):
    times, rain_rate = days_of_rain(1, 12)
    path = write_archive(tmp_path / "a.zarr", times, rain_rate)
    group = zarr.open_group(path, mode="r+")
    group["rain"][9:] = np.nan
    build(path)
    group["rain"][9:] = rain_rate[9:]
    assert build(path).num_new == 3
    assert (find_archive(str(path), AS_STATED).state == State.GOOD).all()


# ---- continuing ----------------------------------------------------------------------------------


def test_new_frames_are_added(tmp_path, monkeypatch):
    times, rain_rate = days_of_rain(3, 200)
    path = write_archive(tmp_path / "a.zarr", times[:400], rain_rate[:400])
    assert build(path).num_new == 400
    shutil.rmtree(path)
    write_archive(path, times, rain_rate)
    with pytest.raises(InputError, match=r"older than its archive, which has 600.*ldcast.data.ind"):
        find_archive(str(path), AS_STATED)
    blocks = []
    index_block = building._index_block
    monkeypatch.setattr(
        building, "_index_block", lambda *task: (blocks.append(task[3]), index_block(*task))[1]
    )
    monkeypatch.setattr(building, "_OPEN", {})
    assert build(path).num_new == 200
    assert blocks == [1, 2]  # the first was whole
    whole = write_archive(tmp_path / "b.zarr", times, rain_rate)
    monkeypatch.setattr(building, "_OPEN", {})
    build(whole)
    assert same_arrays(arrays_of(path), arrays_of(whole))


def test_what_a_failure_leaves_is_continued(tmp_path, monkeypatch, long_archive):
    path = write_archive(tmp_path / "a.zarr", *days_of_rain(3, 200))
    index_block = building._index_block

    def fail_at_second(*task):
        if task[3] == 1:
            raise KeyboardInterrupt
        return index_block(*task)

    monkeypatch.setattr(building, "_index_block", fail_at_second)
    with pytest.raises(KeyboardInterrupt):
        build(path)
    state = arrays_of(path)["state"]
    assert (state[:288] == State.GOOD).all() and (state[288:] == State.NOT_INDEXED).all()
    monkeypatch.undo()
    assert build(path).num_new == 600 - 288
    assert same_arrays(arrays_of(path), arrays_of(long_archive))


def test_an_archive_that_vanishes_is_not_taken_for_one_without_data(
    tmp_path, monkeypatch, long_archive
):
    path = write_archive(tmp_path / "a.zarr", *days_of_rain(3, 200))
    index_block = building._index_block

    def index_then_lose(*task):
        found = index_block(*task)
        path.rename(tmp_path / "away.zarr")
        return found

    monkeypatch.setattr(building, "_index_block", index_then_lose)
    with pytest.raises(UnreadableError, match=r"a\.zarr is missing"):
        build(path)
    monkeypatch.undo()
    (tmp_path / "away.zarr").rename(path)
    assert build(path).num_new == 600 - 288
    assert same_arrays(arrays_of(path), arrays_of(long_archive))


def test_an_index_that_is_not_complete_offers_what_it_has(tmp_path, monkeypatch):
    path = write_archive(tmp_path / "a.zarr", *days_of_rain(3, 200))
    monkeypatch.setattr(building, "_write", lambda group, block: (_ for _ in ()).throw(OSError()))
    with pytest.raises(OSError):
        build(path)
    archive = find_archive(str(path), AS_STATED)
    assert archive.events(24, 5) == []


@pytest.mark.slow
def test_several_processes_make_the_same_index(tmp_path, long_archive):
    path = write_archive(tmp_path / "a.zarr", *days_of_rain(3, 200))
    build(path, num_workers=2)
    assert same_arrays(arrays_of(path), arrays_of(long_archive))
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_a_killed_build_is_continued(tmp_path, long_archive):
    path = write_archive(tmp_path / "a.zarr", *days_of_rain(3, 200))
    command = [sys.executable, "-m", "ldcast.data.index", str(path), "--workers", "1"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    state = index_address(path) / "state" / "c" / "0"
    while not state.exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run(command, check=True, capture_output=True)
    assert same_arrays(arrays_of(path), arrays_of(long_archive))


# ---- refusals ------------------------------------------------------------------------------------


def refuse(capsys, *arguments) -> str:
    assert run_script(lambda: door.main(list(map(str, arguments)))) == 2
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    return line


def test_the_command_says_what_it_did(tmp_path, capsys):
    path = write_archive(tmp_path / "a.zarr", *days_of_rain(1, 30))
    door.main([str(path), "--workers", "1"])
    assert "a.index.zarr: 30 frames, 30 of them new; 30 are good" in capsys.readouterr().out
    door.main([str(path), "--workers", "1"])
    assert "30 frames, 0 of them new" in capsys.readouterr().out


def test_two_kinds_of_rain_in_one_archive_are_refused(tmp_path, capsys):
    times, rain_rate = days_of_rain(1, 4)
    attrs = {"standard_name": "rainfall_rate", "units": "mm h-1"}
    other = xarray.DataArray(
        np.zeros((4, 10, 12), "f4"), dims=("time", "north", "east"), attrs=attrs
    )
    path = write_archive(tmp_path / "a.zarr", times, rain_rate, more={"coarse": other})
    assert "2 variables of rain" in refuse(capsys, path)


def test_times_out_of_order_are_refused(tmp_path, capsys):
    times, rain_rate = days_of_rain(1, 6)
    path = write_archive(tmp_path / "a.zarr", times[[0, 1, 3, 2, 4, 5]], rain_rate)
    assert "expected times that increase" in refuse(capsys, path)


def test_an_archive_with_other_times_than_before_is_refused(tmp_path, capsys):
    path = make_archive(tmp_path / "a.zarr", num_days=1)
    times, rain_rate = days_of_rain(1, 40)
    shutil.rmtree(path)
    write_archive(path, times + np.timedelta64(600, "s"), rain_rate)
    with pytest.raises(InputError, match="other times than"):
        find_archive(str(path), AS_STATED)
    assert "has other times than when its index was made" in refuse(capsys, path)


def test_another_grid_needs_another_index(tmp_path, capsys):
    path = make_archive(tmp_path / "a.zarr", num_days=1)
    shutil.rmtree(path)
    write_archive(path, *days_of_rain(1, 40, HEIGHT + 32, WIDTH))
    assert "with size (48, 80), got (80, 80)" in refuse(capsys, path)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["s3://bucket/radar.zarr"], "expected --out PATH for its index"),
        (["{archive}", "--out", "{folder}"], "is no index"),
        (["{archive}", "--out", "index.npz"], "expected a name that ends in .index.zarr"),
        (["{archive}", "--workers", "0"], "at least 1"),
        (["{folder}/nothing.zarr"], "nothing.zarr is missing"),
    ],
)
def test_bad_arguments_are_refused(tmp_path, capsys, arguments, says):
    archive = write_archive(tmp_path / "a.zarr", *days_of_rain(1, 4))
    folder = tmp_path / "folder.index.zarr"
    folder.mkdir()
    arguments = [text.format(archive=archive, folder=folder) for text in arguments]
    assert says in refuse(capsys, *arguments)


def test_an_index_of_another_version_is_refused(tmp_path):
    path = make_archive(tmp_path / "a.zarr", num_days=1)
    zarr.open_group(index_address(path), mode="r+").attrs["version"] = 2
    with pytest.raises(InputError, match=r"version 2, expected 1: remove it"):
        find_archive(str(path), AS_STATED)


def test_a_large_store_needs_an_index(tmp_path, monkeypatch):
    monkeypatch.setattr("ldcast.data.archive.events.MAX_BYTES", 1000)
    path = write_archive(tmp_path / "a.zarr", *days_of_rain(1, 4))
    with pytest.raises(InputError, match=r"no index.*python -m ldcast.data.index .*a.zarr"):
        find_archive(str(path), AS_STATED)


def test_reflectivity_is_indexed_by_a_relation_that_stays(tmp_path):
    times, rain_rate = days_of_rain(1, 30)
    dbz = 10 * np.log10(200 * np.maximum(rain_rate, 1e-3) ** 1.6)
    path = tmp_path / "a.zarr"
    rain = xarray.DataArray(
        dbz.astype("f4"),
        dims=("time", "y", "x"),
        coords={
            "time": times.astype("M8[ns]"),
            "y": ("y", 1000.0 * np.arange(HEIGHT)[::-1], {"units": "m"}),
            "x": ("x", 1000.0 * np.arange(WIDTH), {"units": "m"}),
        },
        attrs={"standard_name": "equivalent_reflectivity_factor", "units": "dBZ"},
    )
    rain.to_dataset(name="dbz").to_zarr(path)
    how = Reading(zr=(200.0, 1.6))
    build_index(path, index_address(path), how, 1, lambda num: None)
    (event,) = find_archive(str(path), AS_STATED).events(24, 5)
    np.testing.assert_allclose(
        event.rain_rate[:, 10:40, 10:40], rain_rate[:, 10:40, 10:40], rtol=0.01, atol=0.06
    )
    with pytest.raises(InputError, match="whose index was made with"):
        find_archive(str(path), Reading(zr=(300.0, 1.5)))
