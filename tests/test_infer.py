"""infer.py, run as a user runs it, with a tiny untrained model."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import infer
from ldcast import LDCast
from ldcast.calibration import CALIBRATION_NAME, Calibration, write_calibration
from ldcast.calibration.maps import model_fingerprint
from ldcast.data.event import RainEvent
from ldcast.data.event_files import write_event
from ldcast.data.synthetic import synthetic_event
from ldcast.errors import run_script
from ldcast.forecasting import arguments as forecast_arguments
from ldcast.forecasting import flags
from ldcast.forecasting.arguments import parse_flags
from ldcast.forecasting.reading import radar_of
from ldcast.frames import FrameConfig
from ldcast.nowcast.model_folder import read_nowcaster
from ldcast.products.ensemble import THRESHOLDS

LEAD_MINUTES = FrameConfig().lead_minutes


@pytest.fixture(scope="module")
def event() -> RainEvent:
    return synthetic_event(seed=1, num_frames=6, height=40, width=56)


@pytest.fixture
def call(model_folder: Path, event: RainEvent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs the script in an empty folder that holds `event.npz`; returns its exit status."""
    monkeypatch.chdir(tmp_path)
    write_event(event, tmp_path / "event.npz")

    def run(*arguments: str) -> int:
        usual = ["--model", str(model_folder), "--data", "event.npz", "--members", "2"]
        return run_script(lambda: infer.main([*usual, "--steps", "1", *arguments]))

    return run


def read(path: str = "forecast.npz") -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def save_changed(event: RainEvent, **changes: object) -> None:
    """Writes `event.npz` with some of its arrays replaced."""
    arrays = {"rain_rate": event.rain_rate, "time": event.time, **changes}
    np.savez("event.npz", **arrays)


# ---- the forecast file ---------------------------------------------------------------------------


def test_the_file_says_what_was_forecast_and_how(call, event, model_folder) -> None:
    assert call("--seed", "5") == 0
    forecast = read()
    assert forecast["rain_rate"].shape == (2, 20, 40, 56)
    assert forecast["rain_rate"].dtype == np.float32
    assert forecast["lead_minutes"].tolist() == list(range(5, 105, 5))
    assert forecast["issue_time"] == event.time[-1]
    assert forecast["time"][0] == event.time[-1] + np.timedelta64(300, "s")
    assert forecast["pixel_size_m"] == event.grid["pixel_size_m"]
    assert forecast["seed"] == 5
    assert forecast["model"] == str(model_folder)
    assert forecast["sampler"] == "plms"
    assert forecast["num_sampling_steps"] == 1


def test_few_steps_are_warned_of(call, capsys) -> None:
    assert call() == call("--steps", "10", "--members", "1") == 0
    assert capsys.readouterr().out.count("1 sampling steps are too few") == 1


@pytest.mark.core
def test_the_forecast_is_that_of_predict(call, event, model_folder) -> None:
    assert call("--seed", "3") == 0
    model = LDCast.from_pretrained(model_folder, device="cpu")
    expected = model.predict(event.rain_rate[-4:], 2, seed=3, num_sampling_steps=1)
    np.testing.assert_array_equal(read()["rain_rate"], expected)


def test_issue_time_chooses_the_newest_frame(call, event) -> None:
    assert call("--issue-time", str(event.time[3])) == 0
    assert read()["issue_time"] == event.time[3]


def test_steps_are_exact_and_default_to_the_models(call, monkeypatch) -> None:
    calls = []
    predict = LDCast.predict

    def counting(self, *arguments, progress, **more):
        return predict(self, *arguments, progress=lambda *n: calls.append(n), **more)

    monkeypatch.setattr(LDCast, "predict", counting)
    assert call("--steps", "3") == 0
    assert calls[-1] == (4, 4)
    assert read()["num_sampling_steps"] == 3


def test_the_sampler_can_be_named(call) -> None:
    assert call("--sampler", "plms") == 0
    assert read()["sampler"] == "plms"


def test_amp_bf16_changes_little(call) -> None:
    for amp in ("off", "bf16", "auto"):
        assert call("--out", f"{amp}.npz", "--amp", amp) == 0
    made = {amp: read(f"{amp}.npz") for amp in ("off", "bf16", "auto")}
    precisions = {amp: str(forecast["network_precision"]) for amp, forecast in made.items()}
    exact, half = made["off"]["rain_rate"], made["bf16"]["rain_rate"]
    chosen = {"bfloat16": half, "float32": exact}[precisions.pop("auto")]
    assert precisions == {"off": "float32", "bf16": "bfloat16"}
    assert np.array_equal(made["auto"]["rain_rate"], chosen)
    assert not np.array_equal(exact, half)
    assert np.abs(exact - half).mean() < 0.1 * exact.mean() + 0.05


def test_help_gives_the_bundled_models_frames_as_its_own(capsys) -> None:
    with pytest.raises(SystemExit):
        infer.main(["--help"])
    help_text = " ".join(capsys.readouterr().out.split())
    frames = read_nowcaster("bundled").model.frames
    counts = f"{frames.past_frames} in and {frames.future_frames} out"
    assert f"of the bundled one {counts}, each {frames.minutes_per_frame} minutes" in help_text
    assert "(four)" not in help_text and "twenty" not in help_text


def test_without_data_the_seed_makes_the_rain() -> None:
    past = radar_of(parse_flags("", ["--seed", "7"])).past
    assert past.name == "synthetic:7"
    assert past.rain_rate.shape == (4, 256, 256)
    assert past.time.tolist() == synthetic_event(7, height=16, width=16).time[-4:].tolist()


def test_the_sample_is_radar_with_images_after_the_issue_time() -> None:
    past, later = radar_of(
        parse_flags("", ["--data", "sample", "--issue-time", "2016-08-28T10:15", "--plot", "a.png"])
    )
    assert past.name == "meteonet_20160828" and past.rain_rate.shape == (4, 256, 256)
    assert 10 < np.nanmax(past.rain_rate) < 100 and "Etalab" in str(past.grid["licence"])
    assert later.shape == (20, 256, 256)
    has_data = np.isfinite(later).any((1, 2))
    assert has_data.tolist() == [True] * 11 + [False] * 9  # up to 11:10
    assert radar_of(parse_flags("", ["--data", "sample", "--plot", "a.png"])).later is None
    spanned = parse_flags("", ["--data", "sample@/2016-08-28T10:40"])
    assert radar_of(spanned).past.time[-1] == np.datetime64("2016-08-28T10:35")


def test_blank_images_after_the_issue_time_are_none(call, event) -> None:
    rain_rate = event.rain_rate.copy()
    rain_rate[4:] = np.nan
    save_changed(event, rain_rate=rain_rate)
    given = parse_flags("", ["--data", "event.npz", "--plot", "a.png"])
    past, later = radar_of(given)
    assert past.time[-1] == event.time[3] and later is None


def test_a_file_called_sample_comes_first(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_event(synthetic_event(1, num_frames=4, height=16, width=16), tmp_path / "event.npz")
    (tmp_path / "event.npz").rename("sample")
    assert radar_of(parse_flags("", ["--data", "sample"])).past.rain_rate.shape == (4, 16, 16)


def test_the_picture_has_what_was_observed_later(call, event, monkeypatch) -> None:
    given = []
    monkeypatch.setattr(
        flags, "plot_forecast", lambda *view, later, **settings: given.append(later)
    )
    monkeypatch.setattr(forecast_arguments, "require_plot_packages", lambda path: None)
    assert call("--issue-time", str(event.time[3]), "--plot", "picture.png") == 0
    assert call("--plot", "picture.png") == 0  # from the newest frame: nothing is later
    later, nothing = given
    assert nothing is None
    np.testing.assert_array_equal(later[:2], event.rain_rate[4:].astype(np.float32))
    assert np.isnan(later[2:]).all()


def test_the_summary_is_printed(call, capsys) -> None:
    assert call() == 0
    assert "Rain forecast from" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["picture.png", "film.gif"])
def test_a_picture_is_drawn(call, name) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is an extra")
    assert call("--plot", name) == 0
    assert Path(name).stat().st_size > 1000


# ---- calibrated ----------------------------------------------------------------------------------


@pytest.fixture
def calibrated_folder(model_folder: Path, tmp_path: Path) -> Path:
    """A copy of the model with a calibration that makes all rain half as strong."""
    folder = tmp_path / "calibrated"
    shutil.copytree(model_folder, folder)
    num_leads = len(LEAD_MINUTES)
    probability = np.tile([0.1, 0.3, 0.5], (len(THRESHOLDS), num_leads, 1))
    calibration = Calibration(
        lead_minutes=LEAD_MINUTES,
        forecast_rain=np.tile([0.2, 100], (num_leads, 1)),
        radar_rain=np.tile([0.1, 50], (num_leads, 1)),
        thresholds=THRESHOLDS,
        probability=probability,
        num_forecasts=np.ones_like(probability),
        fitted_on={},
        model=model_fingerprint(folder),
        sampler="plms",
        num_sampling_steps=1,
    )
    write_calibration(folder, calibration)
    return folder


def test_calibrated_rain_and_chances(call, calibrated_folder) -> None:
    assert call("--out", "raw.npz") == 0
    assert call("--model", str(calibrated_folder), "--calibrated") == 0
    raw, calibrated = read("raw.npz"), read()
    assert calibrated.keys() - raw.keys() == {"exceedance_probability", "exceedance_threshold"}
    assert (raw["calibrated"], calibrated["calibrated"]) == (False, True)
    halved = np.where(raw["rain_rate"] < 0.2, 0, raw["rain_rate"] / 2)
    assert (halved > 0).any()
    np.testing.assert_allclose(calibrated["rain_rate"], halved, rtol=1e-5)
    assert calibrated["exceedance_threshold"].tolist() == [0.1, 1, 10]
    chance = calibrated["exceedance_probability"]
    assert chance.dtype == np.float32
    assert chance.shape == (3, 20, 40, 56)
    num_wet = (halved >= 0.1).sum(axis=0)
    np.testing.assert_allclose(chance[0], np.array([0.1, 0.3, 0.5])[num_wet], rtol=1e-6)


def test_a_shorter_calibrated_forecast_is_the_first_part_of_a_longer_one(
    call, calibrated_folder
) -> None:
    arguments = ("--model", str(calibrated_folder), "--calibrated", "--lead-minutes")
    assert call(*arguments, "100") == call(*arguments, "15", "--out", "short.npz") == 0
    long, short = read(), read("short.npz")
    np.testing.assert_array_equal(short["rain_rate"], long["rain_rate"][:, :3])
    chance = long["exceedance_probability"][:, :3]
    np.testing.assert_array_equal(short["exceedance_probability"], chance)


def test_no_calibration_reaches_beyond_its_leads(call, calibrated_folder, capsys) -> None:
    arguments = ("--model", str(calibrated_folder), "--calibrated", "--lead-minutes", "105")
    assert call(*arguments) == 2
    assert "the calibration ends at 100" in capsys.readouterr().err


def show_what_is_drawn(monkeypatch) -> list[tuple]:
    """(rain, chances) that the summary and the picture will have been given."""
    shown = []

    def show(past, rain, *more, **_settings) -> None:
        shown.append((rain, more[-1]))

    monkeypatch.setattr(infer, "summarise", show)
    monkeypatch.setattr(flags, "plot_forecast", show)
    monkeypatch.setattr(forecast_arguments, "require_plot_packages", lambda path: None)
    return shown


def test_the_summary_and_the_picture_are_of_the_calibrated_rain_and_chances(
    call, calibrated_folder, monkeypatch
) -> None:
    shown = show_what_is_drawn(monkeypatch)
    assert call("--model", str(calibrated_folder), "--calibrated", "--plot", "picture.png") == 0
    assert len(shown) == 2
    for rain, chances in shown:
        np.testing.assert_array_equal(rain, read()["rain_rate"])
        assert list(chances) == [0.1, 1, 10]
        for chance, expected in zip(
            chances.values(), read()["exceedance_probability"], strict=True
        ):
            np.testing.assert_array_equal(chance, expected)


def test_without_a_calibration_chances_are_those_of_the_members(call, monkeypatch) -> None:
    shown = show_what_is_drawn(monkeypatch)
    assert call("--plot", "picture.png") == 0
    assert [chances for _, chances in shown] == [None, None]


def test_the_summary_says_that_it_is_calibrated(call, calibrated_folder, capsys) -> None:
    assert call() == call("--model", str(calibrated_folder), "--calibrated") == 0
    headlines = [line for line in capsys.readouterr().out.splitlines() if "forecast from" in line]
    assert [line.endswith(", calibrated") for line in headlines] == [False, True]


def test_the_judgement_is_repeated_where_the_calibration_did_harm(
    call, calibrated_folder, capsys
) -> None:
    path = calibrated_folder / CALIBRATION_NAME
    arguments = ("--model", str(calibrated_folder), "--calibrated")
    for is_harmful in (True, False):
        judged = {"summary": "worse in 2 of 6", "is_harmful": is_harmful}
        path.write_text(json.dumps(json.loads(path.read_text()) | {"judged": judged}))
        assert call(*arguments) == 0
        assert ("worse in 2 of 6" in capsys.readouterr().out) is is_harmful


def test_a_calibration_is_used_only_on_request(call, calibrated_folder) -> None:
    assert call("--out", "raw.npz") == call("--model", str(calibrated_folder)) == 0
    raw, forecast = read("raw.npz"), read()
    assert forecast.keys() == raw.keys()
    np.testing.assert_array_equal(forecast["rain_rate"], raw["rain_rate"])


@pytest.mark.parametrize(
    ("text", "word"), [(None, "python -m ldcast.calibrate"), ("{", "is broken")]
)
def test_a_bad_calibration_is_found_before_the_work(
    call, calibrated_folder, capsys, monkeypatch, text, word
) -> None:
    path = calibrated_folder / CALIBRATION_NAME
    path.unlink() if text is None else path.write_text(text)
    monkeypatch.setattr(LDCast, "predict", None)  # would fail if it were reached
    assert word in refused(call, capsys, "--model", str(calibrated_folder), "--calibrated")


def test_the_bundled_model_has_no_calibration(call, capsys, monkeypatch) -> None:
    monkeypatch.setattr(LDCast, "predict", None)
    line = refused(call, capsys, "--model", "bundled", "--calibrated")
    assert "python -m ldcast.calibrate --model DIR" in line


def test_other_sampling_than_at_the_fit_is_refused(call, calibrated_folder, capsys) -> None:
    arguments = ("--model", str(calibrated_folder), "--calibrated", "--steps", "2")
    assert "for 1 steps of plms, got 2" in refused(call, capsys, *arguments)


# ---- what the user can fix: one line, status 2, nothing written ----------------------------------


def refused(call, capsys, *arguments: str) -> str:
    assert call(*arguments) == 2
    captured = capsys.readouterr()
    assert len(captured.err.strip().splitlines()) == 1
    assert not Path("forecast.npz").exists()
    return captured.err


def test_too_few_frames(call, event, capsys) -> None:
    save_changed(event, rain_rate=event.rain_rate[:3], time=event.time[:3])
    assert "got 3 frames, expected 4" in refused(call, capsys)


def test_a_missing_frame_is_named(call, event, capsys) -> None:
    keep = [0, 1, 3, 4]
    save_changed(event, rain_rate=event.rain_rate[keep], time=event.time[keep])
    line = refused(call, capsys)
    assert str(event.time[1])[:16] in line
    assert str(event.time[3])[:16] in line


@pytest.mark.parametrize(("value", "word"), [(-5.0, "dBZ"), (np.inf, "infinite")])
def test_impossible_rain(call, event, capsys, value, word) -> None:
    rain_rate = event.rain_rate.copy()
    rain_rate[-1, 3, 3] = value
    save_changed(event, rain_rate=rain_rate)
    assert word in refused(call, capsys)


def test_no_data_at_all(call, event, capsys) -> None:
    save_changed(event, rain_rate=np.full_like(event.rain_rate, np.nan))
    assert "NaN" in refused(call, capsys)


def test_integers_are_not_rain(call, event, capsys) -> None:
    save_changed(event, rain_rate=event.rain_rate.astype(np.int16))
    assert "int16" in refused(call, capsys)


def test_units_of_reflectivity_are_not_rain(call, event, capsys) -> None:
    save_changed(event, units=np.array("dBZ"))
    assert "dBZ" in refused(call, capsys)


@pytest.mark.parametrize("order", [[0, 1, 2, 4, 3, 5], [0, 1, 2, 3, 3, 5]])
def test_times_out_of_order(call, event, capsys, order) -> None:
    save_changed(event, time=event.time[order])
    assert str(event.time[3])[:16] in refused(call, capsys)


def test_another_cadence_is_named(call, event, capsys) -> None:
    minutes = 10 * np.arange(6).astype("timedelta64[m]")
    save_changed(event, time=event.time[0] + minutes)
    assert "10" in refused(call, capsys)


def test_a_missing_file(call, capsys) -> None:
    assert "nowhere.npz" in refused(call, capsys, "--data", "nowhere.npz")


def test_a_folder_without_a_model(call, capsys) -> None:
    assert "config.json" in refused(call, capsys, "--model", ".")


def test_a_model_folder_that_does_not_exist(call, capsys) -> None:
    assert "no such folder" in refused(call, capsys, "--model", "nowhere")


@pytest.mark.parametrize("flag", ["--steps", "--members"])
def test_zero_of_something(call, capsys, flag) -> None:
    assert "got 0" in refused(call, capsys, flag, "0")


def test_a_negative_seed(call, capsys) -> None:
    assert "--seed -1" in refused(call, capsys, "--seed", "-1")


@pytest.mark.parametrize("flag", ["--out", "--plot"])
def test_what_cannot_be_written_is_found_before_the_work(call, capsys, monkeypatch, flag) -> None:
    monkeypatch.setattr(LDCast, "predict", None)  # would fail if it were reached
    suffix = {"--out": "npz", "--plot": "png"}[flag]
    assert "nowhere" in refused(call, capsys, flag, f"nowhere/forecast.{suffix}")


def test_another_ending_is_refused(call, capsys) -> None:
    assert ".npz" in refused(call, capsys, "--out", "forecast.tif")


def test_a_device_that_does_not_exist(call, capsys) -> None:
    assert "cuda:99" in refused(call, capsys, "--device", "cuda:99")
