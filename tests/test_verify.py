"""The command: scores of every model beside the baselines, kept forecasts, and what it refuses."""

import hashlib
import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from pages import about_of

from ldcast import verify
from ldcast.config import TINY_AUTOENCODER, TINY_DIFFUSION, ModelConfig
from ldcast.data.event_files import write_event
from ldcast.data.pickers import Window
from ldcast.data.synthetic import synthetic_event
from ldcast.errors import run_script
from ldcast.machine.code_version import code_version, command_line
from ldcast.nowcast.ldcast import LDCast, build
from ldcast.products import plot
from ldcast.verification.cases import Case
from ldcast.verification.forecasters import simple_baselines
from ldcast.verification.scores.crps import crps_ensemble
from ldcast.verification.scoring import Record

CROP = 32  # pixels


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two untrained models, `tiny` and `other`, and two events, `storm.npz` and `gale.npz`."""
    folder = tmp_path_factory.mktemp("verify")
    torch.manual_seed(0)
    config = ModelConfig(
        autoencoder=TINY_AUTOENCODER.autoencoder,
        conditioner=TINY_DIFFUSION.conditioner,
        denoiser=TINY_DIFFUSION.denoiser,
        diffusion=TINY_DIFFUSION.diffusion,
    )
    build(config).save_pretrained(folder / "tiny")
    build(config).save_pretrained(folder / "other")
    write_event(synthetic_event(3, 26, 48, 80), folder / "storm.npz")
    write_event(synthetic_event(4, 26, 48, 80), folder / "gale.npz")
    return folder


def arguments(folder, out, *more: str) -> list[str]:
    argv = ["--model", str(folder / "tiny"), "--data", str(folder / "storm.npz")]
    argv += ["--members", "3", "--cases", "2", "--crop-size", str(CROP), "--steps", "2"]
    return [*argv, "--device", "cpu", "--out", str(out), *more]


draw_page = verify.draw_page


@pytest.fixture(autouse=True)
def without_extras(monkeypatch):
    """What needs pysteps or takes matplotlib seconds has tests of its own."""
    monkeypatch.setattr(verify, "pysteps_baselines", lambda num_members: [])
    monkeypatch.setattr(verify, "require_matplotlib", lambda: None)
    monkeypatch.setattr(verify, "draw_page", lambda table, shown, path: None)


def read_scores(out) -> dict:
    return json.loads((out / "scores.json").read_text())


def test_the_command_writes_the_scores_of_every_model(folder, tmp_path, capsys):
    assert run_script(lambda: verify.main(arguments(folder, tmp_path / "out"))) == 0
    shown = capsys.readouterr()
    assert shown.err == ""  # no progress bar: this is not a terminal
    tiny = str(folder / "tiny")
    table = read_scores(tmp_path / "out")
    assert table["lead_minutes"] == list(range(5, 101, 5))
    assert table["num_members"] == 3 and table["crop_size"] == CROP
    assert len(table["cases"]) == 2
    assert {"event", "issue_time", "y", "x", "wet_share", "motion_px"} <= set(table["cases"][0])
    for part in ("models", "interior"):
        assert list(table[part]) == ["persistence", "dry", tiny]
    for scores in table["models"].values():
        assert all(len(score) == 20 for score in scores.values())
        assert scores["crps_64px"] == [None] * 20  # the crop is a quarter of such a block
        assert all(0 < value < 20 for value in scores["crps_1px"] + scores["crps_8px"])
        assert all(len(shares) in (2, 4) for shares in scores["rank_histogram_1px"])
    scores = table["models"][tiny]
    assert all(np.array(scores["fair_crps_1px"]) < np.array(scores["crps_1px"]))
    first, last = (table["models"]["persistence"]["crps_1px"][lead] for lead in (0, -1))
    lines = shown.out.splitlines()[::-1]  # the first table counts
    rows = {line.split()[0]: line for line in lines if line}
    assert rows["persistence"].split()[1:6:4] == [f"{first:.3f}", f"{last:.3f}"]
    skill = 1 - np.mean(scores["fair_crps_1px"]) / np.mean(
        table["models"]["persistence"]["fair_crps_1px"]
    )
    against = [line for line in shown.out.splitlines() if "against persistence" in line]
    assert f"pooled {skill:+.2f}" in against[0]
    assert "1 event, expected at least 5: no intervals" in shown.out
    few_steps, *notes = table["notes"]
    assert few_steps.startswith(f"{tiny}: warning: 2 sampling steps are too few")
    assert [note[:7] for note in notes] == ["1 event", "crops o"]


def test_sums_and_areas_are_scored_beside_the_rates(folder, tmp_path, capsys):
    more = ["--accumulate", "60", "--amount-thresholds", "0.5", "2"]
    assert run_script(lambda: verify.main(arguments(folder, tmp_path / "scores", *more))) == 0
    table = json.loads((tmp_path / "scores" / "scores.json").read_text())
    scored = table["derived"]["sum_60min"]
    assert scored["unit"] == "mm" and scored["lead_minutes"] == list(range(60, 105, 5))
    name = str(folder / "tiny")
    assert scored["models"].keys() == {"persistence", "dry", name}
    assert len(scored["models"][name]["fair_crps_8px"]) == 9
    assert scored["models"][name]["brier_0.5mm"][0] is not None
    assert "fss_2mm_16px" in scored["models"][name]
    skill = scored["skill"][name]["persistence"]["fair_crps_1px"]["pooled"]
    crps = [scored["models"][of]["fair_crps_1px"][0] for of in (name, "persistence")]
    assert skill[0] == pytest.approx(1 - crps[0] / crps[1])
    assert "sum_60min: fair CRPS, mm | Brier scores | spread over error" in capsys.readouterr().out


def test_areas_that_lie_in_a_case_are_scored(folder, tmp_path, capsys):
    pytest.importorskip("shapely", reason="areas need shapely, an extra")
    pytest.importorskip("pyproj", reason="areas need pyproj, an extra")
    shutil.copytree(folder / "tiny", tmp_path / "tiny")
    grid = {"projection": "EPSG:2056", "x1": 2.6e6, "y1": 1.2e6, "x2": 2.68e6, "y2": 1.248e6}
    event = replace(synthetic_event(3, 26, 48, 80), grid=grid)
    event.rain_rate[:, :, 60:] = np.nan  # there no area is scored
    write_event(event, tmp_path / "storm.npz")
    east = {**grid, "x1": 2.8e6, "x2": 2.88e6}  # beyond all areas
    write_event(replace(synthetic_event(4, 26, 48, 80), grid=east), tmp_path / "gale.npz")
    features = []
    for number, x in enumerate(range(0, 80, 4)):
        west, north = 2.6e6 + 1000 * x, 1.248e6 - 20_000
        ring = [
            [west + dx, north - dy] for dx, dy in ((0, 0), (0, 3e3), (3e3, 3e3), (3e3, 0), (0, 0))
        ]
        square = {"type": "Polygon", "coordinates": [ring]}
        features.append({"properties": {"name": str(number)}, "geometry": square})
    crs = {"type": "name", "properties": {"name": "EPSG:2056"}}
    areas = tmp_path / "areas.json"
    areas.write_text(json.dumps({"crs": crs, "features": features}))
    more = ["--areas", str(areas), "--accumulate", "60", "--data", str(tmp_path / "gale.npz")]
    assert run_script(lambda: verify.main(arguments(tmp_path, tmp_path / "scores", *more))) == 0
    table = json.loads((tmp_path / "scores" / "scores.json").read_text())
    assert list(table["derived"]) == ["sum_60min", "area_mean", "area_sum_60min"]
    assert table["num_events"] == 2  # though one has no area
    scores = table["derived"]["area_mean"]["models"][str(tmp_path / "tiny")]
    assert all(value > 0 for value in scores["fair_crps_1px"]) and len(scores["brier_1mm"]) == 20
    shown = capsys.readouterr().out
    assert "area_sum_60min: fair CRPS, mm" in shown and "nothing was scored" not in shown

    with np.load(tmp_path / "storm.npz") as file:
        holes = dict(file)
    holes["rain_rate"][:, 18:28, ::3] = np.nan  # in every area
    np.savez(tmp_path / "storm.npz", **holes)
    assert run_script(lambda: verify.main(arguments(tmp_path, tmp_path / "holes", *more))) == 0
    shown = capsys.readouterr().out
    assert shown.count("nothing was scored: nowhere had all of it data") == 2

    areas.write_text(json.dumps({"crs": crs, "features": [
        {"properties": {"name": "far"}, "geometry": {"type": "Polygon", "coordinates": [
            [[2.5e6, 1.1e6], [2.51e6, 1.1e6], [2.51e6, 1.11e6], [2.5e6, 1.1e6]]]}}
    ]}))  # fmt: skip
    assert run_script(lambda: verify.main(arguments(tmp_path, tmp_path / "again", *more))) == 2
    assert "none lies wholly in one of the 2 cases of 32 pixels" in capsys.readouterr().err


def test_scores_say_what_they_were_made_of(folder, tmp_path):
    argv = arguments(folder, tmp_path / "scores")
    assert run_script(lambda: verify.main(argv)) == 0
    made_of = json.loads((tmp_path / "scores" / "scores.json").read_text())["made_of"]
    weights = (folder / "tiny" / "model.safetensors").read_bytes()
    sha256 = hashlib.sha256(weights).hexdigest()
    assert made_of["weights_sha256"] == {str(folder / "tiny"): sha256}
    assert made_of["command"] == command_line(argv, "-m ldcast.verify")
    assert made_of["code_version"] == code_version()


def test_two_models_and_two_events_side_by_side(folder, tmp_path, capsys):
    argv = arguments(folder, tmp_path / "out", "--cases", "8")
    argv[1:2] = [str(folder / "tiny"), str(folder / "other")]
    argv[argv.index("--data") + 1 : argv.index("--data") + 2] = [
        str(folder / "storm.npz"),
        str(folder / "gale.npz"),
    ]
    verify.main(argv)
    table = read_scores(tmp_path / "out")
    names = ["persistence", "dry", str(folder / "tiny"), str(folder / "other")]
    assert list(table["models"]) == list(table["skill"]) == names
    assert table["num_events"] == 2
    assert "2 events, expected at least 5: the intervals are too narrow" in capsys.readouterr().out
    for name in names:
        bounds = table["intervals"]["models"][name]["crps_1px"]
        inside = np.array([bounds["low"], table["models"][name]["crps_1px"], bounds["high"]])
        assert (np.diff(inside, axis=0) >= 0).all()
    # Neither model knows anything: the skill of one is not that of the other.
    first, second = (table["skill"][name]["dry"]["fair_crps_1px"] for name in names[2:])
    assert first["pooled"] != second["pooled"]
    assert first["mean"]["num_cases"] <= 8


def test_the_command_repeats_itself_and_its_forecasts_can_be_made_again(folder, tmp_path):
    for out in ("a", "b"):
        verify.main(arguments(folder, tmp_path / out))
    tables = [read_scores(tmp_path / out) for out in ("a", "b")]
    assert all(table.pop("seconds_per_forecast") for table in tables)
    commands = [table["made_of"].pop("command") for table in tables]
    assert commands[0] != commands[1]
    assert tables[0] == tables[1]
    verify.main(arguments(folder, tmp_path / "c", "--cases", "1"))
    table = read_scores(tmp_path / "c")
    case = table["cases"][0]
    event = synthetic_event(3, 26, 48, 80)
    crop = event.rain_rate[:, case["y"] :, case["x"] :][:, :CROP, :CROP]
    frame = list(event.time).index(np.datetime64(case["issue_time"]))
    model = LDCast.from_pretrained(folder / "tiny", "cpu")
    forecast = model.predict(
        crop[frame - 3 : frame + 1], num_members=3, seed=case["seed"], num_sampling_steps=2
    )
    observation = torch.from_numpy(crop[frame + 1 : frame + 21])
    expected = crps_ensemble(torch.from_numpy(forecast), observation).mean(dim=(-2, -1))
    scores = table["models"][str(folder / "tiny")]["crps_1px"]
    assert scores == pytest.approx(expected.tolist(), rel=1e-5)


def test_forecasts_are_kept_and_an_interrupted_run_resumes(folder, tmp_path, monkeypatch):
    verify.main(arguments(folder, tmp_path / "whole", "--cache", str(tmp_path / "kept")))
    assert len(list((tmp_path / "kept").iterdir())) == 2  # two cases of the one model
    assert not (tmp_path / "whole" / "cache").exists()

    predict, num_calls = LDCast.predict, []

    def interrupted(self, *args, **kwargs):
        num_calls.append(1)
        if len(num_calls) == 2:
            raise KeyboardInterrupt
        return predict(self, *args, **kwargs)

    monkeypatch.setattr(LDCast, "predict", interrupted)
    with pytest.raises(KeyboardInterrupt):
        verify.main(arguments(folder, tmp_path / "out"))
    assert not (tmp_path / "out" / "scores.json").exists()
    verify.main(arguments(folder, tmp_path / "out"))
    assert len(num_calls) == 3  # the first case was not forecast again
    again, whole = (read_scores(tmp_path / out)["models"] for out in ("out", "whole"))
    assert again == whole


def test_pysteps_baselines_join_or_a_line_says_why_not(folder, tmp_path, capsys, monkeypatch):
    baseline = simple_baselines()[0]
    extrapolation = type(baseline)("extrapolation", baseline.forecast, {"version": 1})
    monkeypatch.setattr(verify, "pysteps_baselines", lambda num_members: [extrapolation])
    verify.main(arguments(folder, tmp_path))
    assert "extrapolation" in read_scores(tmp_path)["models"]
    assert "against extrapolation" in capsys.readouterr().out

    def missing(num_members):
        raise ImportError("extrapolation and STEPS need pysteps; install it")

    monkeypatch.setattr(verify, "pysteps_baselines", missing)
    verify.main(arguments(folder, tmp_path))
    note = "skipped: extrapolation and STEPS need pysteps; install it"
    assert note in capsys.readouterr().out.splitlines()
    assert note in read_scores(tmp_path)["notes"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--model", "no/such/model"], "no/such/model is not a model folder"),
        (["--model", "dry"], "a baseline has this name"),
        (["--data", "no-such.npz"], "no event file no-such.npz"),
        (["--crop-size", "256"], "use --crop-size 48"),
        (["--crop-size", "8"], "--crop-size 8: expected at least 16"),
        (["--members", "0"], "--members 0: expected at least 1"),
        (["--cases", "0"], "--cases 0: expected at least 1"),
        (["--seed", "-1"], "--seed -1: expected at least 0"),
        (["--steps", "0"], "--steps 0: expected at least 1"),
        (["--model", "bundled", "bundled"], "given twice"),
        (["--cache", "/dev/null"], "choose another --cache"),
        (["--accumulate", "7"], "expected multiples of 5 minutes"),
        (["--accumulate", "60", "--amount-thresholds", "5", "-1"], "expected amounts above 0 mm"),
        (["--areas", "nowhere.json"], "there is no file nowhere.json"),
    ],
)
def test_what_the_user_can_fix_exits_2_with_one_line(folder, tmp_path, capsys, change, message):
    argv = arguments(folder, tmp_path / "out", *change)
    assert run_script(lambda: verify.main(argv)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out" / "scores.json").exists()


def test_the_output_folder_is_tried_before_the_work(folder, tmp_path, capsys):
    (tmp_path / "file").touch()
    argv = arguments(folder, tmp_path / "file", "--model", "no/such/model")
    assert run_script(lambda: verify.main(argv)) == 2
    assert "cannot write into" in capsys.readouterr().err


def test_a_page_but_no_picture_without_matplotlib(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(verify, "require_matplotlib", plot.require_matplotlib)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    verify.main(arguments(folder, tmp_path))
    shown = capsys.readouterr().out
    assert "skipped: scores.png: pictures need matplotlib" in shown
    assert f"wrote {tmp_path / 'scores.html'}" in shown
    about, table = about_of(tmp_path / "scores.html"), read_scores(tmp_path)
    ((crps,), *_) = about["groups"][0]["panels"]
    drawn = {line["name"]: line["values"] for line in crps["lines"]}
    assert drawn == {name: of["fair_crps_1px"] for name, of in table["models"].items()}
    assert "wettest" in about["cases"][0]["title"]
    assert about["cases"][0]["sources"] == ["observed", "persistence", str(folder / "tiny")]


def test_figures_and_the_cases_in_them(folder, tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    cases_shown = []

    def draw(table, shown, path):
        cases_shown.extend(shown)
        draw_page(table, shown, path)

    monkeypatch.setattr(verify, "draw_page", draw)
    verify.main(arguments(folder, tmp_path, "--cases", "3"))
    assert (tmp_path / "scores.png").read_bytes().startswith(b"\x89PNG")
    assert f"wrote {tmp_path / 'scores.png'}" in capsys.readouterr().out
    titles = " ".join(case.title for case in cases_shown)
    assert all(word in titles for word in ("wettest", "median", "worst"))
    assert [len(case.forecasts) for case in cases_shown] == [3] * len(cases_shown)
    cases = read_scores(tmp_path)["cases"]
    assert cases[-1]["issue_time"][:10] in titles


def test_the_worst_case_is_that_of_the_least_skill():
    cases = [
        Case(Window(0, 0, 0, index), "storm", None, wet, 0) for index, wet in enumerate((3, 1, 2))
    ]
    record, reference = Record(), Record()
    for of, scores in ((record, (2.0, 0.1, 9.0)), (reference, (1.0, 0.001, 9.0))):  # one is dry
        of.whole.cases.extend({"fair_crps_1px": np.full(20, score)} for score in scores)
    chosen = verify.choose_shown(cases, record, reference)
    assert chosen == {"wettest and worst": cases[0], "median": cases[2]}


def test_another_precision_is_another_forecast(folder, tmp_path):
    for amp in ("off", "bf16"):
        verify.main(arguments(folder, tmp_path, "--amp", amp))
    assert len(list((tmp_path / "cache").iterdir())) == 4


def test_picture_and_page_of_an_earlier_run_do_not_stay(folder, tmp_path, monkeypatch):
    for name in ("scores.png", "scores.html"):
        (tmp_path / name).write_text("old")
    monkeypatch.setattr(verify, "save_scores_page", lambda table, shown, path: None)
    verify.main(arguments(folder, tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "scores.json"}


def test_spans_of_one_file_are_one_event(folder, tmp_path, capsys):
    write_event(synthetic_event(5, 52, 40, 40), folder / "long.npz")
    halves = [
        f"{folder / 'long.npz'}@/2000-01-01T02:10",
        f"{folder / 'long.npz'}@2000-01-01T02:10/",
    ]
    verify.main(arguments(folder, tmp_path, "--data", *halves))
    assert read_scores(tmp_path)["num_events"] == 1
    argv = arguments(folder, tmp_path, "--data", *[str(folder / "storm.npz")] * 2)
    assert run_script(lambda: verify.main(argv)) == 2
    assert "share 26 frames" in capsys.readouterr().err


def test_a_model_that_has_seen_the_rain_is_told(folder, tmp_path, capsys):
    model = LDCast.from_pretrained(folder / "tiny", "cpu")
    model.trained_on = {"data": ["storm"]}
    model.save_pretrained(tmp_path / "seen")
    verify.main(arguments(folder, tmp_path / "out", "--model", str(tmp_path / "seen")))
    assert "was trained on rain of storm" in capsys.readouterr().out
    assert "was trained on rain of storm" in " ".join(read_scores(tmp_path / "out")["notes"])
