"""infer.py's products: files, statistics, longer forecasts, windows, processes, a feed."""

import csv
import hashlib
import importlib.util
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from stages import ROOT
from tiny_models import tiny_model

import infer
from ldcast import LDCast
from ldcast.data.event import RainEvent
from ldcast.data.event_files import write_event
from ldcast.data.synthetic import synthetic_event
from ldcast.errors import run_script
from ldcast.forecasting import service as watching
from ldcast.machine.code_version import code_version
from ldcast.machine.processes import Processes
from ldcast.motion import NO_FORECAST, UPSTREAM_UNKNOWN
from ldcast.nowcast.stretch import Stretch
from ldcast.products.accumulate import accumulate
from ldcast.products.ensemble import exceedance_probability
from ldcast.products.files import read_forecast
from ldcast.products.statistics import ensemble_statistics

CPU = torch.device("cpu")
GRID = {
    "pixel_size_m": 1000.0,
    "projection": "+proj=stere +lat_0=90 +lon_0=0 +lat_ts=60 +a=6378137 +b=6356752",
    "x1": 0.0,
    "y1": -4415000.0,
    "x2": 56000.0,
    "y2": -4375000.0,
}


@pytest.fixture(scope="module")
def event() -> RainEvent:
    made = synthetic_event(seed=1, num_frames=6, height=40, width=56)
    made.rain_rate[:, :5, :5] = np.nan
    return RainEvent(made.rain_rate, made.time, GRID, "event")


@pytest.fixture
def call(model_folder: Path, event: RainEvent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs the script in a folder that holds `event.npz`; returns its exit status."""
    monkeypatch.chdir(tmp_path)
    write_event(event, tmp_path / "event.npz")

    def run(*arguments: str) -> int:
        usual = ["--model", str(model_folder), "--data", "event.npz", "--members", "3"]
        return run_script(lambda: infer.main([*usual, "--steps", "1", *arguments]))

    return run


def refused(call, capsys, *arguments: str) -> str:
    assert call(*arguments) == 2
    line = capsys.readouterr().err
    assert len(line.strip().splitlines()) == 1
    return line


# ---- files and what is in them -------------------------------------------------------------------


def test_quality_and_second_hand_frames_are_in_every_file(call) -> None:
    assert call("--lead-minutes", "110") == 0
    with np.load("forecast.npz") as file:
        assert file["rain_rate"].shape == (3, 22, 40, 56)
        assert file["second_hand"].tolist() == [False] * 20 + [True] * 2
        quality = file["quality"]
    assert (quality[:, :5, :5] == NO_FORECAST).all()
    assert np.isin(quality[:, 5:, 5:], [0, UPSTREAM_UNKNOWN]).all()


@pytest.mark.parametrize("ending", ["nc", "zarr"])
def test_other_formats_hold_the_same_forecast(call, ending) -> None:
    pytest.importorskip("netCDF4" if ending == "nc" else "zarr", reason="extras")
    pytest.importorskip("pyproj", reason="pyproj is an extra")
    arguments = ("--probabilities", "0.1", "5", "--quantiles", "0.5", "--means")
    assert call(*arguments) == call(*arguments, "--out", f"forecast.{ending}") == 0
    plain, other = (read_forecast(Path(f"forecast.{end}")) for end in ("npz", ending))
    np.testing.assert_array_equal(other.rain_rate, plain.rain_rate)
    entries = plain.statistics.entries()
    assert entries.keys() == {
        *("exceedance_threshold", "exceedance_probability", "quantile_level", "quantile"),
        *("ensemble_mean", "probability_matched_mean"),
    }
    for name, values in entries.items():
        np.testing.assert_array_equal(other.statistics.entries()[name], values)


@pytest.mark.parametrize("more", [(), ("--accumulate", "30")])
def test_pysteps_reads_its_format(call, more) -> None:
    pytest.importorskip("netCDF4", reason="netCDF4 is an extra")
    pytest.importorskip("pyproj", reason="pyproj is an extra")
    from ldcast.machine.quiet import contained

    with contained("pysteps"):
        importers = pytest.importorskip("pysteps.io.nowcast_importers", reason="an extra")
        assert call("--out", "forecast.nc", "--format", "pysteps", *more) == call() == 0
        precip, metadata = importers.import_netcdf_pysteps("forecast.nc")
    np.testing.assert_allclose(precip, read_forecast(Path("forecast.npz")).rain_rate, atol=1e-6)
    assert metadata["unit"] == "mm/h"


def test_probabilities_are_those_of_the_members(call) -> None:
    assert call("--probabilities", "0.1", "1") == 0
    forecast = read_forecast(Path("forecast.npz"))
    members = torch.from_numpy(forecast.rain_rate)
    for threshold, chance in zip((0.1, 1), forecast.statistics.exceedance_probability, strict=True):
        np.testing.assert_array_equal(chance, exceedance_probability(members, threshold))


def test_sums_of_the_members_from_the_newest_radar_images_on(call, event, capsys) -> None:
    asked = ("--accumulate", "30", "100", "--quantiles", "0.5")
    assert call(*asked, "--probabilities", "1") == 0
    assert "\nIn 30 min: up to " in capsys.readouterr().out
    forecast = read_forecast(Path("forecast.npz"))
    past = event.rain_rate[-4:]
    amounts, expected = forecast.amounts, accumulate(forecast, [30, 100], past)
    np.testing.assert_array_equal(amounts.rain_amount, expected.rain_amount)
    assert amounts.window_start[0] == event.time[-4]
    statistics = ensemble_statistics(amounts.rain_amount, (5, 10, 20), (0.5,))
    for name, values in statistics.entries().items():
        np.testing.assert_array_equal(amounts.statistics.entries()[name], values)

    assert call(*asked, "--amount-thresholds", "0.5", "--plain-sums") == 0
    plain = read_forecast(Path("forecast.npz")).amounts
    assert plain.statistics.exceedance_threshold.tolist() == [0.5]
    expected = accumulate(forecast, [30, 100], past, is_along_motion=False)
    np.testing.assert_array_equal(plain.rain_amount, expected.rain_amount)
    assert not np.array_equal(plain.rain_amount, amounts.rain_amount)

    assert call(*asked) == 0
    assert read_forecast(Path("forecast.npz")).amounts.statistics.exceedance_threshold is None


def test_the_file_says_what_it_was_made_of(call, event, model_folder) -> None:
    """Of a folder of frames, each one's own file."""
    Path("frames").mkdir()
    for index, name in enumerate("abcdef"):
        write_event(event.select(slice(index, index + 1)), f"frames/{name}.npz")
    paths = ["forecast.npz"]
    if importlib.util.find_spec("netCDF4") and importlib.util.find_spec("pyproj"):
        paths.append("forecast.nc")
    for path in paths:
        asked = ("--data", "frames", "--reader", "npz", "--out", path)
        assert call(*asked) == 0
        made_of = read_forecast(Path(path)).provenance
        assert made_of.code_version == code_version()
        weights = (model_folder / "model.safetensors").read_bytes()
        assert made_of.weights_sha256 == hashlib.sha256(weights).hexdigest()
        assert made_of.command.startswith(
            f"python infer.py --model {model_folder} --data event.npz"
        )
        assert made_of.command.endswith(shlex.join(asked))
        np.testing.assert_array_equal(made_of.past_time, event.time[-4:])
        assert made_of.past_source == tuple(
            str(Path(f"frames/{name}.npz").resolve()) for name in "cdef"
        )


def write_areas(path: str, **corners: tuple[float, float]) -> None:
    """Squares of 8 km in the event's own projection, from their north-west corners in pixels."""
    features = []
    for name, (column, row) in corners.items():
        x, y = GRID["x1"] + 1000 * column, GRID["y2"] - 1000 * row
        ring = [[x, y], [x, y - 8000], [x + 8000, y - 8000], [x + 8000, y], [x, y]]
        square = {"type": "Polygon", "coordinates": [ring]}
        features.append({"type": "Feature", "properties": {"name": name}, "geometry": square})
    crs = {"type": "name", "properties": {"name": GRID["projection"]}}
    Path(path).write_text(json.dumps({"crs": crs, "features": features}))


def test_what_falls_on_areas(call, capsys) -> None:
    pytest.importorskip("shapely", reason="areas need shapely, an extra")
    pytest.importorskip("pyproj", reason="areas need pyproj, an extra")
    write_areas("areas.json", Aare=(20, 10), Inn=(-4, 0), Rhein=(500, 500))
    asked = ("--accumulate", "60", "--areas", "areas.json")
    assert call(*asked, "--probabilities", "1") == 0
    out = capsys.readouterr().out
    assert "note: areas outside the domain, left out: Rhein" in out
    assert "wrote forecast.npz and forecast.areas.csv" in out
    forecast = read_forecast(Path("forecast.npz"))
    assert forecast.areas.area_name.tolist() == ["Aare", "Inn"]
    square = forecast.rain_rate[..., 10:18, 20:28]
    np.testing.assert_allclose(forecast.areas.area_mean[..., 0], square.mean((2, 3)), rtol=1e-3)
    np.testing.assert_array_equal(forecast.areas.area_highest[..., 0], square.max((2, 3)))
    amount = forecast.amounts.rain_amount[..., 10:18, 20:28].mean((2, 3))
    np.testing.assert_allclose(forecast.areas.area_amount_mean[..., 0], amount, rtol=1e-3)
    # Half of it is inside, of which rows 0 to 4 have no data.
    np.testing.assert_allclose(forecast.areas.area_share[:, 1], 0.5 * 3 / 8, atol=0.01)
    with open("forecast.areas.csv", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    of_rates = [row for row in rows if (row["area"], row["unit"]) == ("Aare", "mm/h")]
    chance = (forecast.areas.area_mean[:, 0, 0] >= 1).mean()
    assert float(of_rates[0]["chance_mean_1_mm/h"]) == pytest.approx(chance, abs=1e-3)
    assert len(of_rates) == 20 and len(rows) == 2 * (20 + 12)
    assert call() == 0
    assert not Path("forecast.areas.csv").exists()  # it would be of another forecast


def test_files_with_any_name_can_be_said(call, event) -> None:
    pytest.importorskip("netCDF4", reason="netCDF4 is an extra")
    pytest.importorskip("pyproj", reason="pyproj is an extra")
    name = os.fsdecode(b"new\nline \xfc.npz")
    write_event(event, Path(name))
    assert call("--data", name, "--out", "forecast.nc") == 0
    sources = read_forecast(Path("forecast.nc")).provenance.past_source
    assert len(sources) == 4 and sources[0].endswith("new\\nline \\udcfc.npz")


def test_netcdf_comes_in_as_well(call, event) -> None:
    xarray = pytest.importorskip("xarray", reason="xarray is an extra")
    pytest.importorskip("netCDF4", reason="netCDF4 is an extra")
    pytest.importorskip("pyproj", reason="pyproj is an extra")
    rain = xarray.DataArray(
        event.rain_rate,
        dims=("time", "y", "x"),
        coords={
            "time": event.time.astype("datetime64[ns]"),
            "y": ("y", -4375500.0 - 1000 * np.arange(40), {"units": "m"}),
            "x": ("x", 500.0 + 1000 * np.arange(56), {"units": "m"}),
        },
        attrs={"units": "mm h-1", "standard_name": "rainfall_rate"},
        name="rain",
    )
    rain.to_netcdf("event.nc")
    assert call() == call("--data", "event.nc", "--out", "other.npz") == 0
    plain, other = (read_forecast(Path(name)) for name in ("forecast.npz", "other.npz"))
    np.testing.assert_array_equal(other.rain_rate, plain.rain_rate)
    assert other.grid["x2"] == 56000


def test_a_folder_of_single_frames_is_read_with_a_reader(call, event, tmp_path) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in range(6):
        one = RainEvent(event.rain_rate[[number]], event.time[[number]], GRID)
        write_event(one, frames / f"{number}.npz")
    assert call() == call("--data", "frames", "--reader", "npz", "--out", "other.npz") == 0
    plain, other = (read_forecast(Path(name)) for name in ("forecast.npz", "other.npz"))
    np.testing.assert_array_equal(other.rain_rate, plain.rain_rate)


def test_a_shorter_forecast_and_a_window(call) -> None:
    assert call() == call("--lead-minutes", "30", "--window", "64", "--out", "short.npz") == 0
    whole, short = (read_forecast(Path(name)) for name in ("forecast.npz", "short.npz"))
    np.testing.assert_allclose(short.rain_rate, whole.rain_rate[:, :6], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--lead-minutes", "33"), "multiple of 5"),
        (("--window", "50"), "windows of 50 pixels"),
        (("--probabilities", "5", "1"), "rising order"),
        (("--accumulate", "7"), "expected multiples of 5 minutes"),
        (("--accumulate", "120"), "lead times end at 100: sum over no more"),
        (("--accumulate", "60", "--amount-thresholds", "-1", "5"), "expected amounts above 0 mm"),
        (("--amount-thresholds", "5"), "--amount-thresholds is about sums: add --accumulate"),
        (("--areas", "nowhere.geojson"), "there is no file nowhere.geojson, expected areas"),
        (("--areas", "event.npz"), "expected .geojson, .json (GeoJSON) or .shp (shapefile)"),
        (("--plain-sums",), "--plain-sums is about sums: add --accumulate"),
        (("--quantiles", "2"), "from 0 to 1"),
        (("--format", "pysteps"), "expected .nc"),
        (("--calibrated", "--probabilities", "1"), "leave out --probabilities"),
        (("--borders", "coast.json"), "name one by --plot"),
        (("--watch", "."), "leave out --data"),
        (("--data", "frames.h5"), "no event file"),
        (("--data", "frames", "--reader", "npz"), "that exists"),
        (("--keep", "5"), "is for --watch"),
        (("--suffix", ".nc"), "is for --watch"),
    ],
)
def test_what_cannot_be_is_found_before_the_work(
    call, capsys, monkeypatch, arguments, word
) -> None:
    monkeypatch.setattr(Stretch, "sample", None)  # would fail if it were reached
    assert word in refused(call, capsys, *arguments)


@pytest.mark.parametrize(
    ("data", "out"),
    [
        ("event.npz", "event.npz"),
        ("event.npz@/2100-01-01", "event.npz"),
        (".", "forecast.npz"),
    ],
)
def test_the_data_are_not_overwritten(call, capsys, data, out) -> None:
    before = Path("event.npz").read_bytes()
    reader = ("--reader", "npz") if data == "." else ()
    assert "lies in --data" in refused(call, capsys, "--data", data, "--out", out, *reader)
    assert Path("event.npz").read_bytes() == before


def test_no_picture_is_drawn_over_the_data(call, capsys) -> None:
    pytest.importorskip("matplotlib", reason="draws pictures")
    pytest.importorskip("pysteps", reason="reads the files of services")
    frame = Path("radar/AQC.png")
    frame.parent.mkdir()
    frame.write_bytes(b"a radar image")
    for plot in (str(frame), "radar/new.gif"):
        line = refused(call, capsys, "--data", "radar", "--reader", "mch", "--plot", plot)
        assert f"--plot {plot} lies in --data" in line
    assert frame.read_bytes() == b"a radar image"


def test_an_empty_path_is_no_synthetic_rain(call, capsys) -> None:
    assert "got an empty --data" in refused(call, capsys, "--data", "")


def test_a_reader_needs_something_to_read(capsys) -> None:
    assert run_script(lambda: infer.main(["--reader", "npz"])) == 2
    assert "--reader reads --data or --watch" in capsys.readouterr().err


def test_borders_that_do_not_exist_are_found_before_the_work(call, capsys, monkeypatch) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is an extra")
    pytest.importorskip("pyproj", reason="pyproj is an extra")
    monkeypatch.setattr(LDCast, "predict", None)
    line = refused(call, capsys, "--borders", "nowhere.geojson", "--plot", "picture.png")
    assert "nowhere.geojson" in line


# ---- several processes ---------------------------------------------------------------------------


def run_together(
    num: int, *arguments: str, script: Path = ROOT / "infer.py"
) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc_per_node={num}", str(script), "--device", "cpu", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


@pytest.mark.slow
def test_processes_share_members_and_keep_their_order(call, model_folder, tmp_path) -> None:
    arguments = ["--model", str(model_folder), "--data", "event.npz", "--steps", "2"]
    arguments += ["--members", "5", "--lead-minutes", "105"]
    together = run_together(2, *arguments, "--out", "together.npz")
    assert together.returncode == 0, together.stderr
    assert together.stdout.count("wrote together.npz") == 1
    assert run_script(lambda: infer.main([*arguments, "--out", "alone.npz"])) == 0
    two, one = (read_forecast(Path(name)).rain_rate for name in ("together.npz", "alone.npz"))
    assert two.shape == one.shape == (5, 21, 40, 56)
    np.testing.assert_allclose(two, one, rtol=1e-3, atol=1e-3)
    assert not np.allclose(two[0], two[1], atol=0.1, equal_nan=True)  # or order could not be told


@pytest.mark.slow
def test_an_error_of_one_process_ends_the_other(call, model_folder, tmp_path) -> None:
    """The second one finds no data: it has a folder of its own to work in."""
    script = tmp_path / "infer_apart.py"
    script.write_text(
        "import os, sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "if os.environ['RANK'] == '1':\n"
        "    os.makedirs('apart', exist_ok=True)\n"
        "    os.chdir('apart')\n"
        "import infer\n"
        "sys.exit(infer.run_script(infer.main))\n"
    )
    arguments = ["--model", str(model_folder), "--data", "event.npz", "--members", "2"]
    done = run_together(2, *arguments, script=script)
    assert done.returncode != 0
    assert "rank 1: error: no event file event.npz" in done.stderr
    assert "error: stopped because of the error of rank 1" in done.stderr
    assert not Path("forecast.npz").exists()


def test_more_processes_than_members_are_refused(call, capsys, monkeypatch) -> None:
    monkeypatch.setattr(infer, "join_processes", lambda *_: nullcontext(Processes(0, 2, CPU)))
    assert "got 2 processes for 1 members" in refused(call, capsys, "--members", "1")


# ---- a feed --------------------------------------------------------------------------------------


@pytest.fixture
def service(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Starts the service on `incoming`; killed at the end if the test has not stopped it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "incoming").mkdir()
    processes = []

    def start(*arguments: str) -> subprocess.Popen:
        command = [sys.executable, str(ROOT / "infer.py"), "--model", str(model_folder)]
        command += ["--members", "1", "--steps", "1", "--watch", "incoming", *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()


def wait_until(is_so) -> None:
    end = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < end, "waited for a minute"
        time.sleep(0.1)


@pytest.mark.slow
def test_the_service_keeps_so_many_forecasts_and_ends_cleanly(service, event) -> None:
    write_event(event, "incoming/first.npz")
    process = service("--keep", "2", "--lead-minutes", "10")
    out = Path("forecasts")
    wait_until(lambda: len(list(out.glob("forecast_*.npz"))) == 2)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    lines = output.splitlines()
    assert lines[0] == "watching incoming, forecasts go to forecasts"
    assert lines[-1] == "stopped by SIGTERM"
    assert len([line for line in lines if "1 members in" in line]) == 2
    newest = sorted(path.name for path in out.iterdir())
    stamps = [str(time)[:16].replace("-", "").replace(":", "") for time in event.time[-2:]]
    assert newest == [f"forecast_{stamp}.npz" for stamp in stamps]
    expected = tiny_model().predict(event.rain_rate[-4:], 1, num_sampling_steps=1, lead_minutes=10)
    forecast = read_forecast(out / newest[-1])
    np.testing.assert_allclose(forecast.rain_rate, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_two_services_do_not_share_a_folder(service, event) -> None:
    first = service()
    wait_until(lambda: "watching" in first.stdout.readline())
    second = service()
    assert second.wait(timeout=60) == 2
    assert first.poll() is None


@pytest.fixture
def naps() -> list[float]:
    """Seconds of each pause of `watch_here`."""
    return []


@pytest.fixture
def watch_here(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, naps: list[float]
):
    """Runs the service in this process on `incoming`, until it has napped three times."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "incoming").mkdir()

    def run(*arguments: str) -> int:
        def nap(seconds: float) -> None:
            naps.append(seconds)
            if len(naps) > 2:
                os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(watching.time, "sleep", nap)
        usual = ["--model", str(model_folder), "--members", "1", "--steps", "1"]
        usual += ["--lead-minutes", "5", "--watch", "incoming"]
        return run_script(lambda: infer.main([*usual, *arguments]))

    return run


def test_a_frame_that_cannot_be_forecast_does_not_end_the_service(
    watch_here, event, capsys
) -> None:
    """The newest without any data: predict refuses it once, and the time before is forecast."""
    rain_rate = event.rain_rate.copy()
    rain_rate[-1] = np.nan
    write_event(RainEvent(rain_rate, event.time, GRID), "incoming/frames.npz")
    assert watch_here() == 0
    assert capsys.readouterr().out.count("no forecast from ") == 1
    assert len(list(Path("forecasts").iterdir())) == 2


def test_a_gap_in_an_earlier_frame_is_filled_and_said(watch_here, event, capsys) -> None:
    rain_rate = event.rain_rate.copy()
    rain_rate[1, :, :20] = np.nan
    write_event(RainEvent(rain_rate, event.time, GRID), "incoming/frames.npz")
    assert watch_here() == 0
    output = capsys.readouterr().out
    assert output.count("Gaps in earlier images, ") == 2  # two of three begin with that image
    assert len(list(Path("forecasts").iterdir())) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--window", "50"), "got windows of 50 pixels"),
        (("--steps", "5000"), "got 5000"),
        (("--seed", "9" * 20), "got --seed 9"),
    ],
)
def test_what_would_fail_each_forecast_ends_the_service_at_once(
    watch_here, naps, capsys, arguments, message
) -> None:
    assert watch_here(*arguments) == 2
    assert message in capsys.readouterr().err
    assert naps == []


def test_half_precision_frames_are_forecast(watch_here, event) -> None:
    half = event.rain_rate.astype(np.float16)
    write_event(RainEvent(half, event.time, GRID), "incoming/frames.npz")
    assert watch_here() == 0
    assert len(list(Path("forecasts").iterdir())) == 3


def test_the_service_reads_pieces_and_rounds_times(watch_here, event, capsys) -> None:
    seconds = np.arange(len(event.time)) % 3 * np.timedelta64(9, "s")
    write_event(RainEvent(event.rain_rate, event.time + seconds, GRID), "incoming/frames.npz")
    assert watch_here("--crop", "3", "5", "32", "16") == 0
    paths = sorted(Path("forecasts").iterdir())
    assert len(paths) == 3
    forecast = read_forecast(paths[-1])
    assert forecast.rain_rate.shape[2:] == (32, 16)
    assert forecast.issue_time == event.time[-1]
    assert forecast.past_time_as_read.tolist() == (event.time + seconds)[-4:].tolist()
    assert capsys.readouterr().out.count("past_time_as_read") == 1  # the note


def test_newer_forecasts_of_another_time_do_not_make_it_work_for_nothing(
    watch_here, event, capsys
) -> None:
    Path("forecasts").mkdir()
    Path("forecasts/forecast_21000101T0000.npz").touch()
    write_event(event, "incoming/frames.npz")
    assert watch_here("--keep", "1") == 0
    assert "members in" not in capsys.readouterr().out


def test_the_newest_forecast_is_drawn_and_a_picture_that_fails_costs_no_forecast(
    watch_here, event, capsys, monkeypatch
) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is an extra")
    drawn = []

    def draw(flags, past, forecast) -> None:
        drawn.append(forecast.issue_time)
        raise OSError("the disk is full")

    monkeypatch.setattr(watching, "draw", draw)
    write_event(event, "incoming/frames.npz")
    assert watch_here("--plot", "latest.png") == 0
    output = capsys.readouterr().out
    assert drawn == [event.time[-1]]  # not the two that were made after it
    assert output.count("no picture of") == 1 and output.count("members in") == 3


def test_a_disk_that_is_full_ends_the_service(watch_here, event, capsys, monkeypatch) -> None:
    def write(*_) -> None:
        raise OSError(28, "No space left on device", "forecasts/x.npz")

    monkeypatch.setattr(watching, "write_all", write)
    write_event(event, "incoming/frames.npz")
    assert watch_here() == 2
    assert "No space left on device: forecasts/x.npz" in capsys.readouterr().err


def test_a_stop_interrupts_a_forecast(watch_here, event, capsys, monkeypatch) -> None:
    predict = LDCast.predict

    def stopped(self, *arguments, progress, **more):
        os.kill(os.getpid(), signal.SIGTERM)
        return predict(self, *arguments, progress=progress, **more)

    monkeypatch.setattr(LDCast, "predict", stopped)
    write_event(event, "incoming/frames.npz")
    Path("forecasts").mkdir()
    Path("forecasts/.forecast_20000101T0000.npz.7.tmp").touch()
    assert watch_here() == 0
    assert list(Path("forecasts").iterdir()) == []
    assert capsys.readouterr().out.splitlines()[-1] == "stopped by SIGTERM"


def test_the_service_pauses_unless_more_files_wait(watch_here, naps) -> None:
    for number in range(9):
        Path(f"incoming/broken{number}.npz").touch()
    assert watch_here() == 0
    assert naps == [
        watching.POLL_SECONDS,
        0,
        watching.POLL_SECONDS,
    ]  # not complete, eight read, one read


def test_the_oldest_stores_are_removed(watch_here, event) -> None:
    """A forecast that is a folder."""
    pytest.importorskip("zarr", reason="zarr is an extra")
    pytest.importorskip("pyproj", reason="pyproj is an extra")
    old = Path("forecasts/forecast_19990101T0000.zarr")
    old.mkdir(parents=True)
    (old / "zarr.json").touch()
    write_event(event, "incoming/frames.npz")
    assert watch_here("--suffix", ".zarr", "--keep", "1") == 0
    (path,) = Path("forecasts").iterdir()
    assert read_forecast(path).issue_time == event.time[-1]


def test_tables_of_areas_come_and_go_with_the_forecasts(watch_here, event) -> None:
    pytest.importorskip("shapely", reason="areas need shapely, an extra")
    pytest.importorskip("pyproj", reason="areas need pyproj, an extra")
    write_areas("areas.json", Aare=(20, 10))
    old = [Path("forecasts") / f"forecast_19990101T0000.{end}" for end in ("npz", "areas.csv")]
    old[0].parent.mkdir()
    for path in old:
        path.touch()
    write_event(event, "incoming/frames.npz")
    assert watch_here("--keep", "1", "--areas", "areas.json") == 0
    name = f"forecast_{event.time[-1].item():%Y%m%dT%H%M}"
    found = sorted(path.name for path in Path("forecasts").iterdir())
    assert found == [f"{name}.areas.csv", f"{name}.npz"]


def test_the_service_writes_what_pysteps_reads(watch_here, event) -> None:
    xarray = pytest.importorskip("xarray", reason="xarray is an extra")
    pytest.importorskip("netCDF4", reason="netCDF4 is an extra")
    pytest.importorskip("pyproj", reason="pyproj is an extra")
    write_event(event, "incoming/frames.npz")
    assert watch_here("--suffix", ".nc", "--format", "pysteps", "--keep", "1") == 0
    (path,) = Path("forecasts").iterdir()
    with xarray.open_dataset(path, decode_times=False) as dataset:
        assert "ens_number" in dataset.dims  # pysteps's name of the members


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--keep", "0"), "expected 1 forecast or more"),
        (("--watch", "nowhere"), "expected a folder that exists"),
        (("--out", "incoming"), "lies in --watch"),
        (("--out", "incoming/forecasts"), "lies in --watch"),
    ],
)
def test_a_service_that_cannot_be_is_refused(watch_here, capsys, arguments, word) -> None:
    assert watch_here(*arguments) == 2
    assert word in capsys.readouterr().err
    assert list(Path("incoming").iterdir()) == []


def test_a_name_that_the_terminal_cannot_show_is_said_all_the_same(monkeypatch) -> None:
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict")
    monkeypatch.setattr(sys, "stdout", terminal)
    infer.log(os.fsdecode(b"skipped Z\xfcrich.h5"))
    assert terminal.buffer.getvalue() == b"skipped Z\\udcfcrich.h5\n"
