"""Forecasts of other systems: what they start from, what case a file is of, what is refused."""

import json
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest
import torch
from pages import about_of
from tiny_models import tiny_model

from ldcast import verify
from ldcast.data.event import RainEvent
from ldcast.data.event_files import read_event_file, write_event
from ldcast.data.past import past_event
from ldcast.data.synthetic import synthetic_event
from ldcast.errors import InputError, run_script
from ldcast.forecasting.event import ForecastRequest, forecast_event
from ldcast.frames import FrameConfig
from ldcast.machine.quiet import contained, import_contained
from ldcast.products.files import write_forecast
from ldcast.products.forecast import Forecast
from ldcast.verification.case_files import case_names
from ldcast.verification.cases import Case, draw_cases
from ldcast.verification.others import find_forecasts
from ldcast.verification.others_files import read_case_name, read_others_forecast
from ldcast.verification.page.distributions import rank_panels, reliability_panels
from ldcast.verification.page.lines import members_of
from ldcast.verification.scoring import read_case

CROP = 32  # pixels
CORNERS = {"x1": 255e3, "y1": -160e3, "x2": 335e3, "y2": -112e3}
PROJECTION = "+proj=stere +lat_0=90 +lon_0=0 +lat_ts=60 +a=6378137 +b=6356752 +x_0=0 +y_0=0"
LEADS = 5 * np.arange(1, 21)
MODELS = ["--members", "3", "--steps", "2", "--device", "cpu"]


@pytest.fixture(autouse=True)
def without_extras(monkeypatch):
    """What needs pysteps or takes matplotlib seconds has tests of its own."""
    monkeypatch.setattr(verify, "pysteps_baselines", lambda num_members: [])
    monkeypatch.setattr(verify, "draw_page", lambda table, shown, path: None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model `tiny`, two events and, in `cases`, the past frames of two cases of each kind.

    `storm` has corners and gaps in its second frame; `gale` says nothing of its place.
    """
    folder = tmp_path_factory.mktemp("others")
    tiny_model().save_pretrained(folder / "tiny")
    storm = synthetic_event(3, 26, 48, 80)
    storm.rain_rate[1, :20] = np.nan
    storm.grid.update({**CORNERS, "projection": PROJECTION})
    write_event(storm, folder / "storm.npz")
    write_event(synthetic_event(4, 26, 48, 80), folder / "gale.npz")
    verify.main([*case_flags(folder), "--write-cases", str(folder / "cases")])
    return folder


def case_flags(folder: Path) -> list[str]:
    data = [str(folder / "storm.npz"), str(folder / "gale.npz")]
    model = ["--model", str(folder / "tiny")]
    return [*model, "--data", *data, "--cases", "4", "--crop-size", str(CROP)]


def score(folder: Path, out: Path, *sources: str) -> dict:
    argv = [*case_flags(folder), *MODELS, "--out", str(out), "--forecasts", *sources]
    verify.main(argv)
    return json.loads((out / "scores.json").read_text())


def drawn(folder: Path) -> tuple[list[RainEvent], list[Case]]:
    events = [read_event_file(folder / f"{name}.npz") for name in ("storm", "gale")]
    return events, draw_cases(events, FrameConfig(), 4, CROP, 0)


def pasts(folder: Path) -> list[Path]:
    return sorted((folder / "cases").glob("*.npz"))


def persist(past: Path) -> dict[str, np.ndarray]:
    """A plain forecast, one member: the newest frame, unchanged."""
    with np.load(past) as file:
        rain_rate = np.repeat(file["rain_rate"][-1:], 20, axis=0)
        issue_time, case = file["time"][-1], file["case"]
    entries = {"rain_rate": rain_rate, "lead_minutes": LEADS, "issue_time": issue_time}
    return {**entries, "case": case}


def write_all(folder: Path, out: Path, change: Callable[[dict], dict] = lambda of: of) -> Path:
    """Persistence for all cases, each file's entries changed on the way."""
    out.mkdir(parents=True)
    for past in pasts(folder):
        np.savez_compressed(out / past.name, **change(persist(past)))
    return out


def refused(folder: Path, out: Path, capsys, *sources: str) -> str:
    """The one line that the command ends with."""
    argv = [*case_flags(folder), *MODELS, "--out", str(out), "--forecasts", *sources]
    assert run_script(lambda: verify.main(argv)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert not (out / "scores.json").exists()
    assert not (out / "cache").exists() or not any((out / "cache").iterdir())  # before the work
    return error


# ---- what other systems start from ---------------------------------------------------------------


def test_the_past_of_each_case_is_written_and_nothing_later(folder):
    events, cases = drawn(folder)
    names = case_names(events, cases, CROP)
    assert [path.stem for path in pasts(folder)] == sorted(names) and len(set(names)) == 4
    for name, case in zip(names, cases, strict=True):
        past = read_event_file(folder / "cases" / f"{name}.npz")
        event, (y, x) = events[case.window.event], (case.window.y, case.window.x)
        first = case.window.first_frame
        np.testing.assert_array_equal(past.time, event.time[first : first + 4])
        assert past.time[-1] == case.issue_time
        filled = read_case(events, case, CROP, torch.device("cpu")).past
        np.testing.assert_array_equal(past.rain_rate, filled.numpy())
        assert past.grid["case"] == name and past.grid["pixel_size_m"] == 1000
        if "x1" in event.grid:
            corners = [past.grid[of] for of in CORNERS]
            x1, y2 = 255e3 + 1000 * x, -112e3 - 1000 * y
            assert corners == [x1, y2 - 1000 * CROP, x1 + 1000 * CROP, y2]
        else:
            assert "x1" not in past.grid


def test_a_case_is_called_otherwise_where_its_past_frames_are_others(folder):
    events, cases = drawn(folder)
    names = case_names(events, cases, CROP)
    for event in events:
        event.rain_rate[:] = event.rain_rate + np.float32(0.25)
    again = case_names(events, cases, CROP)
    parts = [[name.rpartition("_") for name in of] for of in (names, again)]
    assert [of[0] for of in parts[0]] == [of[0] for of in parts[1]]
    assert all(one[2] != two[2] for one, two in zip(*parts, strict=True))


def test_two_events_of_one_name_and_one_rain_are_refused(folder):
    events, cases = drawn(folder)
    with pytest.raises(InputError, match=r"2 cases are called \w+, expected one"):
        case_names(events, [cases[0], cases[0]], CROP)


def test_cases_are_written_again_but_not_beside_others(folder, tmp_path, capsys):
    argv = [*case_flags(folder), "--write-cases", str(tmp_path / "cases")]
    for _ in range(2):
        assert run_script(lambda: verify.main(argv)) == 0
    shown = capsys.readouterr().out
    assert "wrote the past frames of 4 cases" in shown
    assert "20 frames, 5 minutes apart, +5 to +100 min" in shown
    before = {path.name: path.read_bytes() for path in (tmp_path / "cases").iterdir()}
    assert run_script(lambda: verify.main([*argv, "--seed", "1"])) == 2
    error = capsys.readouterr().err
    assert "4 .npz files that are none of the 4 cases" in error and error.count("\n") == 1
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "cases").iterdir()}


def test_past_frames_never_replace_forecasts(folder, tmp_path, capsys):
    still = write_all(folder, tmp_path / "still")
    before = {path.name: path.read_bytes() for path in still.iterdir()}
    argv = [*case_flags(folder), "--write-cases", str(still)]
    assert run_script(lambda: verify.main(argv)) == 2
    error = capsys.readouterr().err
    assert "is a forecast, which past frames would replace" in error and error.count("\n") == 1
    assert before == {path.name: path.read_bytes() for path in still.iterdir()}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--write-cases", "cases", "--forecasts", "a=b"], "leave one out"),
        (["--write-cases", "cases", "--areas", "none.json"], "leave one out"),
        (["--out", "scores", "--amount-thresholds", "5"], "add --accumulate"),
        ([], "got no --out"),
        (["--write-cases", "/dev/null"], "choose another --write-cases"),
    ],
)
def test_flags_that_do_not_go_together(folder, capsys, more, message):
    assert run_script(lambda: verify.main([*case_flags(folder), *more])) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


# ---- scores --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "file_format"), [(".npz", None), (".nc", "pysteps")])
def test_our_own_forecasts_read_back_score_as_the_model_itself(
    folder, tmp_path, suffix, file_format
):
    if suffix != ".npz":
        pytest.importorskip("xarray")
    events, cases = drawn(folder)
    model = tiny_model()
    model.use_sampler(None, 2)
    (tmp_path / "own").mkdir()
    for index, (name, case) in enumerate(zip(case_names(events, cases, CROP), cases, strict=True)):
        past = past_event(read_event_file(folder / "cases" / f"{name}.npz"), model.frames)
        request = ForecastRequest(num_members=3, seed=case.seed, model="tiny")
        # Named as one likes: the case's name came along from the past.
        path = tmp_path / "own" / f"{index}{suffix}"
        write_forecast(forecast_event(model, past, request), path, file_format)
    table = score(folder, tmp_path / "out", f"own={tmp_path / 'own'}")
    tiny = str(folder / "tiny")
    assert list(table["models"]) == ["persistence", "dry", tiny, "own"]
    for part in ("models", "interior"):
        assert table[part]["own"] == table[part][tiny]
    assert table["intervals"]["models"]["own"] == table["intervals"]["models"][tiny]
    skill = table["skill"]["own"]["persistence"]
    assert skill == table["skill"][tiny]["persistence"]
    against_own = table["skill"][tiny]["own"]["fair_crps_1px"]
    assert against_own["mean"]["pooled"] == against_own["mean"]["low"] == 0
    assert table["forecasts"] == {
        "own": {"directory": str(tmp_path / "own"), "num_files": 4, "num_members": 3}
    }
    assert table["seconds_per_forecast"]["own"] is None


def test_forecasts_of_one_member_and_of_more_than_the_models_have(folder, tmp_path, capsys):
    def five(entries: dict) -> dict:
        return entries | {"rain_rate": np.stack([entries["rain_rate"]] * 5)}

    still, fives = write_all(folder, tmp_path / "still"), write_all(folder, tmp_path / "five", five)
    (still / "notes.txt").write_text("not a forecast")
    table = score(folder, tmp_path / "out", f"still={still}", f"five={fives}")
    shown = capsys.readouterr().out
    tiny = str(folder / "tiny")
    assert list(table["models"]) == ["persistence", "dry", tiny, "still", "five"]

    # One member: a deterministic forecast, scored and shown as the baselines that are such.
    for part in ("models", "interior"):
        assert table[part]["still"] == table[part]["persistence"]
    note = f"still: 4 forecasts of 1 member from {still}"
    assert note in shown.splitlines() and note in table["notes"]
    rows = [line.split() for line in shown.splitlines() if line.startswith("still ")]
    assert rows[0][-1] == "-"  # seconds that nobody knows
    assert any(row[:3] == ["still", "against", "persistence"] for row in rows)
    about = about_of(tmp_path / "out" / "scores.html")
    panels = {of[0]["title"]: of[0] for group in about["groups"] for of in group["panels"]}
    lines_of = {title: {line["name"] for line in of["lines"]} for title, of in panels.items()}
    assert {tiny, "still", "five"} <= lines_of["fair CRPS, 1 px"]
    assert lines_of["error (solid) and spread (dashed)"] == {tiny, "five"}
    assert {"still", "five"} <= set(about["cases"][0]["sources"])
    assert "dry, extrapolation and still have one member" in about["groups"][0]["hint"]

    # Others than the models have: what depends on their number is not drawn beside the models'.
    assert "five has 5 members, the models 3: its rank histograms" in shown
    assert len(table["models"]["five"]["rank_histogram_1px"][0]) == 6
    assert [members_of(table, name) for name in ("five", "still", "dry", tiny)] == [5, 1, 1, 3]
    (panel,) = rank_panels(table, [0])[0]
    assert [line.name for line in panel.lines] == [tiny]
    assert all([line.name for line in of.lines] == [tiny] for of in reliability_panels(table))


# ---- which case a file is of ---------------------------------------------------------------------


def test_a_file_is_of_the_case_that_it_is_named_after_or_says(folder, tmp_path):
    def without_case(entries: dict) -> dict:
        return {name: of for name, of in entries.items() if name != "case"}

    named = write_all(folder, tmp_path / "named", without_case)
    said = tmp_path / "said"
    said.mkdir()
    for index, past in enumerate(pasts(folder)):
        np.savez_compressed(said / f"{index}.npz", **persist(past))
    np.savez_compressed(said / "old.npz", **(persist(pasts(folder)[0]) | {"case": "another"}))
    events, cases = drawn(folder)
    found = find_forecasts({"named": named, "said": said}, events, cases, CROP)
    for case, name in zip(cases, case_names(events, cases, CROP), strict=True):
        index = [past.stem for past in pasts(folder)].index(name)
        paths = [of.paths[case.window] for of in found]
        assert paths == [named / f"{name}.npz", said / f"{index}.npz"]
    assert [of.num_unused for of in found] == [0, 1]
    assert f"{said}: 1 file is of none of the cases" in found[1].notes(1)


def test_a_name_and_an_entry_that_contradict_each_other_are_refused(folder, tmp_path, capsys):
    write_all(folder, tmp_path / "still")
    one, two, *_ = sorted((tmp_path / "still").iterdir())
    other = tmp_path / "other"
    one.rename(other), two.rename(one), other.rename(two)
    error = refused(folder, tmp_path / "out", capsys, f"still={tmp_path / 'still'}")
    assert f"{one} has the name of one case and says that it is of another" in error


def test_two_files_of_a_case_are_refused(folder, tmp_path, capsys):
    write_all(folder, tmp_path / "still")
    np.savez_compressed(tmp_path / "still" / "again.npz", **persist(pasts(folder)[0]))
    error = refused(folder, tmp_path / "out", capsys, f"still={tmp_path / 'still'}")
    assert "are both of the case" in error and "again.npz" in error


def test_cases_without_a_file_are_counted_and_named(folder, tmp_path, capsys):
    write_all(folder, tmp_path / "still")
    for path in sorted((tmp_path / "still").iterdir())[1:3]:
        path.unlink()
    error = refused(folder, tmp_path / "out", capsys, f"still={tmp_path / 'still'}")
    assert "no forecast of 2 of 4 cases" in error
    assert all(path.stem in error for path in pasts(folder)[1:3])
    assert pasts(folder)[0].stem not in error
    write_all(folder, tmp_path / "other", lambda of: of | {"case": f"{of['case']}0"})
    for path in list((tmp_path / "other").iterdir()):
        path.rename(path.with_name(f"x{path.name}"))
    error = refused(folder, tmp_path / "out", capsys, f"still={tmp_path / 'other'}")
    assert "no forecast of 4 of 4 cases" in error and ", ... (it has" in error


# ---- files that do not fit -----------------------------------------------------------------------


def later(entries: dict) -> dict:
    return entries | {"issue_time": entries["issue_time"] + np.timedelta64(5, "m")}


def with_a_hole(entries: dict) -> dict:
    entries["rain_rate"][7, 10:12, 10] = np.nan
    return entries


def changed(**entries) -> Callable[[dict], dict]:
    return lambda of: of | entries


def scaled(factor: float) -> Callable[[dict], dict]:
    return lambda of: of | {"rain_rate": of["rain_rate"] * np.float32(factor)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (later, ", expected 2000-01-01T"),
        (lambda of: of | {"rain_rate": of["rain_rate"][..., :-1]}, "32 x 31 pixels, expected 32 x"),
        (changed(lead_minutes=2 * LEADS), "lead times 10, 20, ..., 200 min (20 of them), expected"),
        (
            lambda of: of | {"rain_rate": of["rain_rate"][:6], "lead_minutes": LEADS[:6]},
            "lead times 5, 10, ..., 30 min (6 of them), expected 5, 10, ..., 100 min (20 of",
        ),
        (changed(lead_minutes=LEADS[:6]), "rain of shape (1, 20, 32, 32) with 6 lead times"),
        (changed(lead_minutes=np.array("5")), "expected a number of minutes after"),
        (changed(issue_time=3), "issue_time is array(3), expected one datetime64 or ISO text"),
        (changed(issue_time="today"), "expected one datetime64 or ISO text"),
        (changed(units="mm"), "units 'mm', expected rates in mm/h; convert them"),
        (changed(units="dBZ"), "units 'dBZ', expected rates in mm/h; convert it by mm/h ="),
        (with_a_hole, "no forecast (NaN) in 2 of "),
        (lambda of: of | {"rain_rate": of["rain_rate"] - 1}, "goes down to -1"),
        (lambda of: of | {"rain_rate": of["rain_rate"] + np.inf}, "infinite rain, expected mm/h"),
        (scaled(1e4), "of its values are above 500 mm/h"),
        (lambda of: of | {"rain_rate": of["rain_rate"].astype(int)}, "its rain is int64, expected"),
        (lambda of: {"rain_rate": of["rain_rate"]}, "lacks lead_minutes, issue_time"),
        (changed(**CORNERS | {"x1": "west"}), "x1 is array('west'"),
        (changed(**CORNERS), "expected 2"),
        (changed(x1=0.0), "has x1, expected all of x1, y1, x2, y2 or none of them"),
        (changed(case=np.zeros(2)), "expected the case's name as text"),
    ],
)
def test_what_does_not_fit_its_case_is_refused(folder, tmp_path, capsys, change, message):
    still = write_all(folder, tmp_path / "still", change)
    error = refused(folder, tmp_path / "out", capsys, f"still={still}")
    assert message in error and str(still) in error


@pytest.mark.parametrize(
    "issue_time", [np.datetime64("2016-07-11T22:00:00.2"), "2016-07-11T22:00Z"]
)
def test_issue_times_of_arrays(tmp_path, issue_time):
    rain_rate = np.ones((1, 4, 5), np.float32)
    np.savez(tmp_path / "a.npz", rain_rate=rain_rate, lead_minutes=[5.0], issue_time=issue_time)
    forecast = read_others_forecast(tmp_path / "a.npz")
    assert forecast.issue_time == np.datetime64("2016-07-11T22:00") and forecast.corners is None


def test_rounding_below_zero_is_no_rain_and_halves_are_read(tmp_path):
    rain_rate = np.array([-1e-4, 0.1, np.nan, 3], np.float16).reshape(1, 2, 2)
    np.savez(tmp_path / "a.npz", rain_rate=rain_rate, lead_minutes=[5], issue_time="2016-07-11")
    found = read_others_forecast(tmp_path / "a.npz").rain_rate
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.ravel(), np.array([0, 0.1, np.nan, 3], np.float32))


def test_files_of_different_numbers_of_members_are_refused(folder, tmp_path, capsys):
    still = write_all(folder, tmp_path / "still")
    entries = persist(pasts(folder)[0])
    twice = entries | {"rain_rate": np.stack([entries["rain_rate"]] * 2)}
    np.savez_compressed(still / pasts(folder)[0].name, **twice)
    error = refused(folder, tmp_path / "out", capsys, f"still={still}")
    assert (
        "for the number of members, expected " in error
        and "make all forecasts with as many" in error
    )


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"rain"])
def test_damaged_files_are_refused(folder, tmp_path, capsys, damage):
    still = write_all(folder, tmp_path / "still")
    path = still / pasts(folder)[0].name
    path.write_bytes(damage(path.read_bytes()))
    assert f"{path} is damaged" in refused(folder, tmp_path / "out", capsys, f"s={still}")
    pytest.importorskip("xarray")
    path.unlink()
    path.with_suffix(".nc").write_bytes(b"rain")
    error = refused(folder, tmp_path / "out", capsys, f"s={still}")
    assert "is not a readable NetCDF or Zarr" in error


def test_folders_and_names_that_are_none_are_refused(folder, tmp_path, capsys):
    still = write_all(folder, tmp_path / "still")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "rain.h5").touch()
    (tmp_path / "file").touch()
    tiny = folder / "tiny"
    for sources, message in (
        (["still"], "expected NAME=DIR"),
        ([f"={still}"], "expected NAME=DIR"),
        ([f"dry={still}"], "a baseline or the radar has the name dry"),
        ([f"observed={still}"], "a baseline or the radar has the name observed"),
        ([f"{tiny}={still}"], f"a model has the name {tiny}"),
        ([f"a={still}", f"a={still}"], "the name a is given twice"),
        ([f"a={still}", "--forecasts", f"a={still}"], "the name a is given twice"),
        ([f"$a={still}"], "expected a name without $ and not beginning with _"),
        (["a=no/such/folder"], "no/such/folder is not there"),
        ([f"a={tmp_path / 'file'}"], "file is a file"),
        ([f"a={tmp_path / 'empty'}"], "empty holds no forecasts, expected files that end in .npz"),
    ):
        assert message in refused(folder, tmp_path / "out", capsys, *sources)


# ---- NetCDF of pysteps ---------------------------------------------------------------------------


def export(
    path: Path,
    rain_rate: np.ndarray,
    yorigin: str = "upper",
    cartesian_unit: str = "m",
    unit: str = "mm/h",
    timestep: int = 5,
) -> Path:
    """Writes a file by pysteps; rain_rate: (E, T, H, W), or (T, H, W) for one member."""
    pytest.importorskip("pysteps")
    per_metre = 1e-3 if cartesian_unit == "km" else 1.0
    metadata = {name: per_metre * corner for name, corner in CORNERS.items()}
    metadata |= {"projection": PROJECTION, "yorigin": yorigin}
    metadata |= {"unit": unit, "cartesian_unit": cartesian_unit}
    num_members = len(rain_rate) if rain_rate.ndim == 4 else 1
    exporters = import_contained("pysteps.io.exporters")
    start = datetime(2010, 8, 26, 4, 40, tzinfo=timezone.utc)
    with contained("pysteps"):
        exporter = exporters.initialize_forecast_exporter_netcdf(
            *(str(path.parent), path.stem, start, timestep, rain_rate.shape[-3]),
            *(rain_rate.shape[-2:], metadata, num_members),
        )
        exporters.export_forecast_dataset(rain_rate, exporter)
        exporters.close_forecast_files(exporter)
    return path


@pytest.mark.parametrize("cartesian_unit", ["m", "km"])
@pytest.mark.parametrize("yorigin", ["upper", "lower"])
@pytest.mark.parametrize("shape", [(3, 20, 48, 80), (20, 48, 80), (1, 48, 80)])
def test_files_of_pysteps_are_read_from_the_north(tmp_path, shape, yorigin, cartesian_unit):
    rain_rate = np.random.default_rng(0).gamma(0.3, 5, shape).astype(np.float32)
    rain_rate[..., 0, 0] = np.nan
    rows = slice(None, None, -1 if yorigin == "lower" else None)
    path = export(tmp_path / "rain.nc", rain_rate[..., rows, :], yorigin, cartesian_unit)
    found = read_others_forecast(path)
    expected = rain_rate if rain_rate.ndim == 4 else rain_rate[None]
    np.testing.assert_array_equal(found.rain_rate, expected)
    assert found.corners == pytest.approx(tuple(CORNERS.values()), abs=1)
    assert found.issue_time == np.datetime64("2010-08-26T04:40")
    np.testing.assert_array_equal(found.lead_minutes, LEADS[: shape[-3]])
    assert read_case_name(path) is None


def test_files_of_pysteps_are_of_their_cases(folder, tmp_path):
    pytest.importorskip("pysteps")
    out = tmp_path / "nc"
    out.mkdir()
    exporters = import_contained("pysteps.io.exporters")
    for past in pasts(folder):
        entries = persist(past)
        with np.load(past) as file:
            corners = {name: float(file[name]) for name in CORNERS if name in file.files}
        if not corners:  # of which pysteps writes no file
            np.savez_compressed(out / past.name, **entries)
            continue
        metadata = {**corners, "projection": PROJECTION, "yorigin": "lower"}
        metadata |= {"unit": "mm/h", "cartesian_unit": "m"}
        start = entries["issue_time"].astype(datetime)
        with contained("pysteps"):
            exporter = exporters.initialize_forecast_exporter_netcdf(
                str(out), past.stem, start, 5, 20, (CROP, CROP), metadata
            )
            exporters.export_forecast_dataset(entries["rain_rate"][:, ::-1], exporter)
            exporters.close_forecast_files(exporter)
    assert {path.suffix for path in out.iterdir()} == {".nc", ".npz"}
    events, cases = drawn(folder)
    (found,) = find_forecasts({"still": out}, events, cases, CROP)
    for case in cases:
        past = read_case(events, case, CROP, torch.device("cpu")).past
        members = found.forecaster().forecast(past, case)
        assert torch.equal(members, past[-1].expand(1, 20, CROP, CROP))


@pytest.mark.parametrize(
    ("unit", "message"),
    [("mm", "units 'mm', expected rates in mm/h"), ("dBZ", "units 'dBZ', expected rates in mm/h")],
)
def test_pysteps_in_other_units_is_refused(tmp_path, unit, message):
    path = export(tmp_path / "rain.nc", np.ones((20, 48, 80), np.float32), unit=unit)
    with pytest.raises(InputError, match=message):
        read_others_forecast(path)


@pytest.mark.parametrize("suffix", [".npz", ".nc", ".zarr"])
def test_our_own_files_are_read(tmp_path, suffix):
    if suffix != ".npz":
        pytest.importorskip("xarray")
    rain_rate = np.random.default_rng(0).gamma(0.3, 5, (2, 3, 48, 80)).astype(np.float32)
    time = np.datetime64("2010-08-26T04:40:00")
    grid = {"case": "storm", "projection": PROJECTION, **CORNERS}
    forecast = Forecast(rain_rate, time, LEADS[:3], grid, 0, "tiny", "plms", 2)
    path = tmp_path / f"own{suffix}"
    write_forecast(forecast, path)
    found = read_others_forecast(path)
    np.testing.assert_array_equal(found.rain_rate, rain_rate)
    np.testing.assert_array_equal(found.lead_minutes, LEADS[:3])
    assert found.corners == pytest.approx(tuple(CORNERS.values()))
    assert found.issue_time == time and read_case_name(path) == "storm"


def test_rows_that_are_only_numbered_stay_as_they_are(tmp_path):
    """Of our own files without corners, where y counts rows from the north, and so rises."""
    pytest.importorskip("xarray")
    rain_rate = np.random.default_rng(0).gamma(0.3, 5, (2, 3, 6, 8)).astype(np.float32)
    time = np.datetime64("2010-08-26T04:40:00")
    forecast = Forecast(rain_rate, time, LEADS[:3], {"case": "storm"}, 0, "tiny", "plms", 2)
    for name, file_format in (("own.nc", None), ("pysteps.nc", "pysteps")):
        write_forecast(forecast, tmp_path / name, file_format)
        found = read_others_forecast(tmp_path / name)
        np.testing.assert_array_equal(found.rain_rate, rain_rate)
        assert found.corners is None and found.issue_time == time
        assert read_case_name(tmp_path / name) == "storm"


def since(start: str) -> Callable:
    """A dataset's times count from there."""

    def change(dataset):
        dataset["time"] = ("time", np.arange(20), {"units": f"minutes since {start}"})
        return dataset

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda of: of.rename(precip_intensity="rain"),
            "has lon, lat, rain, expected rain_rate, or",
        ),
        (lambda of: of.isel(x=slice(None, None, -1)), "x falls, expected columns from west"),
        (lambda of: of.isel(y=[0]), "expected at least two coordinates"),
        (lambda of: of.isel(y=[0, 2, 1]), "y neither rises nor falls all along"),
        (lambda of: of.expand_dims(run=2), "has dimensions run, ens_number, time, y, x, expected"),
        (lambda of: of.drop_vars("y"), "has no coordinate y, expected the centres"),
        (since("2010-08-26 04:40:00 +02:00"), "does not say when the forecast was issued"),
        (lambda of: of.drop_vars("time"), "does not say when the forecast was issued"),
        (lambda of: of.assign_coords(time=range(20)), "does not say when the forecast was issued"),
    ],
)
def test_datasets_that_are_no_forecast_are_refused(tmp_path, change, message):
    xarray = pytest.importorskip("xarray")
    path = export(tmp_path / "rain.nc", np.ones((2, 20, 48, 80), np.float32))
    with xarray.open_dataset(path) as dataset:
        change(dataset.load()).to_netcdf(tmp_path / "changed.nc")
    with pytest.raises(InputError, match=message) as refusal:
        read_others_forecast(tmp_path / "changed.nc")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("zone", ["", " UTC", "+00:00", ".0", " +0000"])
def test_times_that_count_from_utc(tmp_path, zone):
    xarray = pytest.importorskip("xarray")
    path = export(tmp_path / "rain.nc", np.ones((2, 20, 48, 80), np.float32))
    with xarray.open_dataset(path) as dataset:
        since(f"2010-08-26 04:40:00{zone}")(dataset.load()).to_netcdf(tmp_path / "changed.nc")
    forecast = read_others_forecast(tmp_path / "changed.nc")
    assert forecast.issue_time == np.datetime64("2010-08-26T04:40")


def test_pixels_that_were_never_written_have_no_forecast(tmp_path):
    """pysteps states no fill value: NetCDF's own one must not be taken for rain of 1e37 mm/h."""
    netcdf4 = pytest.importorskip("netCDF4")
    path = export(tmp_path / "rain.nc", np.ones((2, 20, 48, 80), np.float32))
    with netcdf4.Dataset(path, "a") as file:
        file["precip_intensity"][1, 3, 5, 7] = np.ma.masked
    rain_rate = read_others_forecast(path).rain_rate
    assert np.isnan(rain_rate[1, 3, 5, 7]) and np.isnan(rain_rate).sum() == 1
