"""Forecast files: what is written comes back, and a bad path is found before the work starts."""

import errno
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ldcast.errors import InputError
from ldcast.machine.files import folder_atomically, open_atomically, path_atomically
from ldcast.machine.folders import check_output_path
from ldcast.products import files
from ldcast.products.accumulate import accumulate
from ldcast.products.areas import AreaPixels, area_forecast
from ldcast.products.files import check_forecast_path, read_forecast, write_forecast
from ldcast.products.forecast import OPTIONAL_ENTRIES, PROVENANCE_ENTRIES, Forecast, check_grid
from ldcast.products.statistics import STATISTICS_AXES, Statistics, ensemble_statistics

GRID = {"pixel_size_m": 1000.0, "projection": "+proj=somerc", "corners": np.array([1.5, 2.5])}
TIMES_AS_READ = np.array(
    [f"2016-07-11T23:{time}" for time in ("35:00", "39:48", "45:07", "50:30")], "datetime64[s]"
)


@pytest.fixture
def forecast() -> Forecast:
    rain_rate = np.random.default_rng(0).gamma(0.3, 4.0, (2, 3, 6, 9)).astype(np.float32)
    rain_rate[..., 0, :2] = np.nan
    return Forecast(
        rain_rate=rain_rate,
        issue_time=np.datetime64("2016-07-11T23:50:00"),
        lead_minutes=np.array([5, 10, 15]),
        grid=GRID,
        seed=2**40,
        model="bundled",
        sampler="plms",
        num_sampling_steps=50,
    )


AREAS = AreaPixels(
    names=("Aare", "Inn"), pixel=np.array([10, 11, 40]), first=np.array([0, 2]),
    share=np.ones(3), counts=np.ones(3, bool), inside=np.ones(2),
)  # fmt: skip


def with_statistics(forecast: Forecast) -> Forecast:
    amounts = accumulate(forecast, 10)
    of_amounts = ensemble_statistics(amounts.rain_amount, (5,), (0.5,), use_means=True)
    return replace(
        forecast,
        amounts=replace(amounts, statistics=of_amounts),
        areas=area_forecast(AREAS, forecast.rain_rate, amounts.rain_amount),
        quality=np.where(np.isnan(forecast.rain_rate[0]), 2, 1).astype(np.uint8),
        statistics=ensemble_statistics(forecast.rain_rate, (0.1, 5), (0.5,), use_means=True),
        past_time_as_read=TIMES_AS_READ,
    )


def load(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


# ---- .npz ----------------------------------------------------------------------------------------


def test_round_trip(forecast: Forecast, tmp_path: Path) -> None:
    path = tmp_path / "forecast.npz"
    write_forecast(forecast, path)
    back = read_forecast(path)

    np.testing.assert_array_equal(back.rain_rate, forecast.rain_rate)
    assert back.rain_rate.dtype == np.float32
    np.testing.assert_array_equal(back.lead_minutes, forecast.lead_minutes)
    assert back.issue_time == forecast.issue_time
    assert (back.seed, back.model, back.sampler) == (2**40, "bundled", "plms")
    assert back.num_sampling_steps == 50
    assert back.grid.keys() == GRID.keys()
    assert back.grid["pixel_size_m"] == 1000.0
    assert back.grid["projection"] == "+proj=somerc"
    assert isinstance(back.grid["projection"], str)
    np.testing.assert_array_equal(back.grid["corners"], [1.5, 2.5])
    write_forecast(back, path)  # what was read can be written again


def test_statistics_and_quality_come_back(forecast: Forecast, tmp_path: Path) -> None:
    full = with_statistics(forecast)
    write_forecast(full, tmp_path / "forecast.npz")
    back = read_forecast(tmp_path / "forecast.npz")
    assert back.statistics.entries().keys() == full.statistics.entries().keys()
    for name, values in full.statistics.entries().items():
        np.testing.assert_array_equal(getattr(back.statistics, name), values)
    np.testing.assert_array_equal(back.quality, full.quality)
    np.testing.assert_array_equal(back.past_time_as_read, TIMES_AS_READ)
    assert back.quality.dtype == np.uint8
    assert back.grid.keys() == GRID.keys()
    assert set(OPTIONAL_ENTRIES) <= load(tmp_path / "forecast.npz").keys()


def test_chances_are_in_the_file_by_themselves(forecast: Forecast, tmp_path: Path) -> None:
    write_forecast(forecast, tmp_path / "raw.npz")
    chance = np.random.default_rng(1).uniform(size=(2, 3, 6, 9)).astype(np.float32)
    chances = Statistics(exceedance_threshold=np.array([0.1, 10]), exceedance_probability=chance)
    write_forecast(replace(forecast, statistics=chances), tmp_path / "calibrated.npz")
    raw, calibrated = load(tmp_path / "raw.npz"), load(tmp_path / "calibrated.npz")
    assert calibrated.keys() - raw.keys() == {"exceedance_probability", "exceedance_threshold"}


@pytest.mark.parametrize("name", ["exceedance_probability", "ensemble_mean"])
def test_statistics_of_another_domain_are_refused(forecast: Forecast, name: str) -> None:
    statistics = with_statistics(forecast).statistics
    narrow = replace(statistics, **{name: getattr(statistics, name)[..., :-1]})
    with pytest.raises(AssertionError, match=name):
        replace(forecast, statistics=narrow)


def test_a_quality_of_another_domain_is_refused(forecast: Forecast) -> None:
    with pytest.raises(AssertionError, match="quality"):
        replace(forecast, quality=np.zeros((3, 6, 8), np.uint8))


@pytest.mark.parametrize("pair", STATISTICS_AXES.items())
@pytest.mark.parametrize("lacking", [0, 1])
def test_half_of_a_statistic_is_refused(
    forecast: Forecast, tmp_path: Path, pair: tuple[str, str], lacking: int
) -> None:
    path = tmp_path / "forecast.npz"
    write_forecast(with_statistics(forecast), path)
    entries = load(path)
    del entries[pair[lacking]]
    np.savez(path, **entries)
    with pytest.raises(InputError, match=f"has {pair[1 - lacking]}, expected both or neither"):
        read_forecast(path)


def test_a_file_from_before_there_were_flags_is_read(forecast: Forecast, tmp_path: Path) -> None:
    path = tmp_path / "forecast.npz"
    write_forecast(forecast, path)
    entries = load(path)
    del entries["second_hand"]
    np.savez(path, **entries)
    back = read_forecast(path)
    assert back.quality is None
    assert back.statistics == Statistics()
    np.testing.assert_array_equal(back.rain_rate, forecast.rain_rate)


def test_frames_beyond_the_models_reach_are_second_hand(forecast: Forecast, tmp_path: Path) -> None:
    marks = [False, False, True]
    assert not forecast.is_second_hand.any()
    long = replace(forecast, is_second_hand=np.array(marks))
    path = tmp_path / "forecast.npz"
    write_forecast(long, path)
    assert (
        read_forecast(path).is_second_hand.tolist() == load(path)["second_hand"].tolist() == marks
    )
    # Files from before they said so are of models that reach 100 minutes.
    entries = load(path) | {"lead_minutes": np.array([95, 100, 105])}
    del entries["second_hand"]
    np.savez(path, **entries)
    assert read_forecast(path).is_second_hand.tolist() == marks


def test_arrays_have_the_promised_names(forecast: Forecast, tmp_path: Path) -> None:
    path = tmp_path / "forecast.npz"
    write_forecast(forecast, path)
    entries = load(path)
    made = {"seed", "model", "sampler", "num_sampling_steps", "calibrated"}
    maps = {"rain_rate", "lead_minutes", "issue_time", "time", "second_hand"}
    assert entries.keys() == maps | made | set(PROVENANCE_ENTRIES) | GRID.keys()
    assert entries["time"].dtype == "datetime64[s]"
    assert entries["time"][-1] == np.datetime64("2016-07-12T00:05:00")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    forecast: Forecast, tmp_path: Path
) -> None:
    path = tmp_path / "forecast.npz"
    write_forecast(forecast, path)
    before = path.read_bytes()
    with pytest.raises(RuntimeError), open_atomically(path) as file:
        file.write(b"half a file")
        assert len(list(tmp_path.iterdir())) == 2  # a rename is atomic in one folder only
        raise RuntimeError
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_is_readable_by_whom_the_umask_says(forecast: Forecast, tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_forecast(forecast, tmp_path / "forecast.npz")
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", 3),
        ("exceedance_threshold", 1.0),
        ("quality", 1),
        ("second_hand", False),
        ("ensemble_mean", 2.0),
        ("file", "radar.h5"),
        ("history", {"a": 1}),
    ],
)
def test_grid_entries_that_no_file_can_hold(forecast: Forecast, name: str, value: object) -> None:
    with pytest.raises(InputError, match=name):
        replace(forecast, grid={name: value})


@pytest.mark.parametrize("name", ["x1", "y1", "x2", "y2", "pixel_size_m", "pixel_size_y_m"])
@pytest.mark.parametrize("value", ["abc", "1 km", "", np.nan, -np.inf, np.ones((2, 2)), 2j])
def test_places_and_sizes_are_finite_numbers(name: str, value: object) -> None:
    with pytest.raises(InputError, match=f"'{name}' is .*, expected a finite number") as got:
        check_grid({name: value})
    assert "\n" not in str(got.value)


@pytest.mark.parametrize("value", [0, -1000.0])
@pytest.mark.parametrize("name", ["pixel_size_m", "pixel_size_y_m"])
def test_pixels_have_a_size(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"'{name}' is {value:g}, expected metres above 0"):
        check_grid({name: value})


@pytest.mark.parametrize("axis", ["x", "y"])
@pytest.mark.parametrize("high", [-160000.0, -160000.5])
def test_corners_are_south_west_and_north_east(axis: str, high: float) -> None:
    grid = {f"{axis}1": -160000.0, f"{axis}2": high}
    got = f"{axis}1 -160000 and {axis}2 {high:.12g}, expected x1 < x2"
    with pytest.raises(InputError, match=got):
        check_grid(grid)


@pytest.mark.parametrize(
    "grid",
    [
        {"x1": np.float32(0.5), "y2": np.array(-2)},  # a part of the corners, as some files have it
        {"x1": 5, "y1": 45.0, "x2": 5.001, "y2": 45.001, "pixel_size_m": np.int64(1)},
        {"pixel_size_m": "1000", "pixel_size_y_m": np.array(1e3)},
        {"pixel_size": "1 km", "x0": np.nan},  # entries that nothing here reads
    ],
)
def test_usable_grids(grid: dict[str, object]) -> None:
    check_grid(grid)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut short"])
def test_damaged_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "forecast.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        read_forecast(path)


def test_a_flipped_byte_is_noticed(forecast: Forecast, tmp_path: Path) -> None:
    path = tmp_path / "forecast.npz"
    write_forecast(forecast, path)
    content = bytearray(path.read_bytes())
    content[300] ^= 255
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        read_forecast(path)


def test_other_files_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_forecast(tmp_path / "absent.npz")
    event = tmp_path / "event.npz"
    np.savez(event, rain_rate=np.zeros((4, 8, 8)), time=np.zeros(4, "datetime64[s]"))
    with pytest.raises(InputError, match="no forecast file: it lacks lead_minutes"):
        read_forecast(event)
    array = tmp_path / "array.npy"
    np.save(array, np.zeros(3))
    with pytest.raises(InputError, match=r"damaged or no \.npz"):
        read_forecast(array)


# ---- paths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["forecast.npz", "forecast.NC", "two.dots.npz"])
def test_good_paths_leave_no_trace(tmp_path: Path, name: str) -> None:
    check_output_path(tmp_path / name, (".npz", ".nc"))
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "forecast.npz"
    path.write_bytes(b"yesterday's")
    check_output_path(path, (".npz",))
    assert path.read_bytes() == b"yesterday's"


def test_a_missing_folder_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    folder = tmp_path / "my runs" / "a"
    command = re.escape(f"mkdir -p '{folder}'")
    with pytest.raises(InputError, match=command):
        check_output_path(folder / "forecast.npz", (".npz",))
    assert not folder.exists()


@pytest.mark.parametrize("below", ["forecast.npz", "deeper/forecast.npz"])
def test_a_path_below_a_file(tmp_path: Path, below: str) -> None:
    (tmp_path / "report").touch()
    with pytest.raises(InputError, match=re.escape(f"{tmp_path / 'report'} is a file")):
        check_output_path(tmp_path / "report" / below, (".npz",))


def test_a_folder_is_no_output_file(tmp_path: Path) -> None:
    (tmp_path / "runs.npz").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        check_output_path(tmp_path / "runs.npz", (".npz",))


@pytest.mark.parametrize("name", ["forecast", "forecast.txt"])
def test_an_unknown_ending_names_a_known_one(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"expected \.npz or \.nc; for example .*forecast\.npz"):
        check_output_path(tmp_path / name, (".npz", ".nc"))


def test_a_folder_that_refuses_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permission bits do not stop root, so the refusal itself is made up."""

    def refuse(self: Path, *args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(InputError, match=r"cannot write .*Permission denied"):
        check_output_path(tmp_path / "forecast.npz", (".npz",))


def test_a_name_too_long_for_the_temporary_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot write"):
        check_output_path(tmp_path / ("a" * 250 + ".npz"), (".npz",))


# ---- formats -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "file_format", "message"),
    [
        ("forecast.tif", None, r"expected \.npz or \.nc or \.zarr; for example .*forecast\.npz"),
        ("forecast.npz", "pysteps", r"expected \.nc for the format pysteps; for .*forecast\.nc"),
        ("forecast.nc", "grib", "got format 'grib', expected pysteps"),
        ("nowhere/forecast.nc", None, "mkdir -p"),
        ("nowhere/forecast.zarr", None, "mkdir -p"),
    ],
)
def test_requests_that_no_writer_serves(
    forecast: Forecast, tmp_path: Path, name: str, file_format: str | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        check_forecast_path(tmp_path / name, file_format)
    with pytest.raises(InputError, match=message):
        write_forecast(forecast, tmp_path / name, file_format)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "missing", "command"),
    [
        ("forecast.nc", ["xarray"], "xarray"),
        ("forecast.nc", ["netCDF4", "h5netcdf"], "netCDF4"),
        ("forecast.nc", ["pyproj"], "pyproj"),
        ("forecast.zarr", ["xarray"], "xarray"),
        ("forecast.zarr", ["zarr"], "zarr"),
        ("forecast.zarr", ["pyproj"], "pyproj"),
    ],
)
def test_a_missing_package_is_named_before_the_work(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    missing: list[str],
    command: str,
) -> None:
    # All that is not missing counts as installed, so that this runs without any of them.
    monkeypatch.setattr(files, "_is_installed", lambda package: package not in missing)
    with pytest.raises(
        InputError, match=f"{' or '.join(missing)}, which is missing; .* {command}$"
    ):
        check_forecast_path(tmp_path / name)


def test_a_package_that_cannot_be_imported_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(InputError, match="pip install xarray"):
        check_forecast_path(tmp_path / "forecast.nc")


def test_a_npz_file_needs_no_extras(
    forecast: Forecast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_is_installed", lambda package: False)
    write_forecast(forecast, tmp_path / "forecast.npz")
    assert read_forecast(tmp_path / "forecast.npz").seed == forecast.seed


@pytest.mark.parametrize("name", ["thesis.tex", "zarr.json", ".zgroup", "rain_rate/zarr.json"])
def test_only_a_forecasts_zarr_store_is_replaced(tmp_path: Path, name: str) -> None:
    """Neither another folder nor another store, such as an archive of radar images."""
    work = tmp_path / "work.zarr"
    (work / name).parent.mkdir(parents=True)
    (work / name).touch()
    with pytest.raises(InputError, match="no Zarr store of a forecast"):
        check_forecast_path(work)
    (tmp_path / "file.zarr").touch()
    with pytest.raises(InputError, match="is a file, a Zarr store is a folder"):
        check_forecast_path(tmp_path / "file.zarr")


# ---- all or nothing ------------------------------------------------------------------------------


def test_a_path_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "forecast.nc"
    with path_atomically(path) as unfinished:
        unfinished.write_bytes(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]


def write_store(folder: Path, text: str) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "chunk").write_text(text)


def test_a_folder_is_replaced_when_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "forecast.zarr"
    for text in ("old", "new"):
        with folder_atomically(path) as unfinished:
            write_store(unfinished, text)
            assert unfinished.parent == tmp_path  # a rename is atomic in one folder only
            if text == "new":
                assert (path / "deep" / "chunk").read_text() == "old"
        assert (path / "deep" / "chunk").read_text() == text
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("target", ["real.zarr", "nowhere"])
def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path: Path, target: str) -> None:
    """As with a link to a file."""
    with folder_atomically(tmp_path / "real.zarr") as unfinished:
        write_store(unfinished, "old")
    path = tmp_path / "link.zarr"
    path.symlink_to(target)
    with folder_atomically(path) as unfinished:
        write_store(unfinished, "new")
    assert (path / "deep" / "chunk").read_text() == "new"
    assert (tmp_path / "real.zarr" / "deep" / "chunk").read_text() == "old"
    assert sorted(tmp_path.iterdir()) == [path, tmp_path / "real.zarr"]


def test_what_a_killed_process_of_the_same_number_left_is_no_obstacle(tmp_path: Path) -> None:
    """As in containers, where every run can be process 1."""
    path = tmp_path / "forecast.zarr"
    for folder in (
        path,
        *(tmp_path / f".{path.name}.{os.getpid()}.{age}" for age in ("new", "old")),
    ):
        folder.mkdir()
        write_store(folder, "left")
    with folder_atomically(path) as unfinished:
        assert list(unfinished.iterdir()) == []
        write_store(unfinished, "new")
    assert (path / "deep" / "chunk").read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(errno.ENOSPC, "disk full")])
def test_a_failed_folder_leaves_the_old_one_and_nothing_else(
    tmp_path: Path, error: BaseException | type[BaseException]
) -> None:
    path = tmp_path / "forecast.zarr"
    with folder_atomically(path) as unfinished:
        write_store(unfinished, "old")
    with pytest.raises((KeyboardInterrupt, OSError)), folder_atomically(path) as unfinished:
        write_store(unfinished, "half")
        raise error
    assert (path / "deep" / "chunk").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_folder_comes_back_where_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "forecast.zarr"
    with folder_atomically(path) as unfinished:
        write_store(unfinished, "old")
    rename = os.rename

    def refuse_the_new(source: Path, target: Path) -> None:
        if source.name.endswith(".new"):
            raise OSError(errno.EACCES, "refused")
        rename(source, target)

    monkeypatch.setattr("os.rename", refuse_the_new)
    with pytest.raises(OSError, match="refused"), folder_atomically(path) as unfinished:
        write_store(unfinished, "new")
    assert (path / "deep" / "chunk").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
