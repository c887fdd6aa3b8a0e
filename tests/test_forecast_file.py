"""The forecast file: what is written comes back, and a bad path is found before the work starts."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ldcast.errors import InputError
from ldcast.files import open_atomically
from ldcast.products.forecast import (
    CALIBRATED_ENTRIES,
    Forecast,
    check_output_path,
    read_forecast,
    write_forecast,
)

GRID = {"pixel_size_m": 1000.0, "projection": "+proj=somerc", "corners": np.array([1.5, 2.5])}


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


def test_a_calibrated_forecast_keeps_its_chances(forecast: Forecast, tmp_path: Path) -> None:
    assert forecast.exceedance_probability is None
    chance = np.random.default_rng(1).uniform(size=(2, 3, 6, 9))
    threshold = np.array([0.1, 10])
    calibrated = replace(forecast, exceedance_probability=chance, exceedance_threshold=threshold)
    write_forecast(calibrated, tmp_path / "forecast.npz")
    back = read_forecast(tmp_path / "forecast.npz")
    np.testing.assert_array_equal(back.exceedance_probability, chance.astype(np.float32))
    np.testing.assert_array_equal(back.exceedance_threshold, threshold)
    assert back.grid.keys() == GRID.keys()
    with pytest.raises(AssertionError, match="exceedance_probability"):
        replace(calibrated, exceedance_threshold=threshold[:1])


@pytest.mark.parametrize("lacking", CALIBRATED_ENTRIES)
def test_half_of_the_chances_is_refused(forecast: Forecast, tmp_path: Path, lacking: str) -> None:
    path = tmp_path / "forecast.npz"
    chance = np.zeros((1, *forecast.rain_rate.shape[1:]))
    threshold = np.array([1.0])
    write_forecast(
        replace(forecast, exceedance_probability=chance, exceedance_threshold=threshold), path
    )
    with np.load(path) as file:
        entries = {name: file[name] for name in file.files if name != lacking}
    np.savez(path, **entries)
    with pytest.raises(InputError, match="expected both or neither"):
        read_forecast(path)


def test_a_forecast_without_chances_has_none(forecast: Forecast, tmp_path: Path) -> None:
    write_forecast(forecast, tmp_path / "forecast.npz")
    back = read_forecast(tmp_path / "forecast.npz")
    assert back.exceedance_probability is back.exceedance_threshold is None


def test_arrays_have_the_promised_names(forecast: Forecast, tmp_path: Path) -> None:
    path = tmp_path / "forecast.npz"
    write_forecast(forecast, path)
    with np.load(path, allow_pickle=False) as file:
        names = set(file.files)
        time = file["time"]
    made = {"seed", "model", "sampler", "num_sampling_steps"}
    assert names == {"rain_rate", "lead_minutes", "issue_time", "time"} | made | GRID.keys()
    assert time.dtype == "datetime64[s]"
    assert time[-1] == np.datetime64("2016-07-12T00:05:00")


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
        ("file", "radar.h5"),
        ("history", {"a": 1}),
    ],
)
def test_grid_entries_that_no_file_can_hold(forecast: Forecast, name: str, value: object) -> None:
    with pytest.raises(InputError, match=name):
        replace(forecast, grid={name: value})


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
