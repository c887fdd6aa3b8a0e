"""A model for 10-minute data, of 8 past and 12 future frames, by settings alone."""

import hashlib
import json
import os
import re
import shlex
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from stages import LOOP
from tiny_models import rain, tiny_model

import infer
import train_autoenc
import train_diffusion
from ldcast import LDCast, calibrate, pysteps_plugin, verify
from ldcast.calibration import maps
from ldcast.calibration.maps import model_fingerprint, model_fingerprints
from ldcast.data.build import main as build
from ldcast.data.cadence import check_cadence
from ldcast.data.crops import Example
from ldcast.data.event import RainEvent, check_apart
from ldcast.data.event_files import write_event
from ldcast.data.past import past_event
from ldcast.data.readers.specs import read_event
from ldcast.data.reading import Reading
from ldcast.data.synthetic import synthetic_event
from ldcast.errors import InputError, run_script
from ldcast.forecasting.arguments import parse_flags
from ldcast.forecasting.feed import FrameFeed
from ldcast.forecasting.reading import radar_of
from ldcast.frames import FrameConfig
from ldcast.motion import UPSTREAM_UNKNOWN, fill_gaps
from ldcast.nowcast.model_folder import read_description
from ldcast.products.files import read_forecast
from ldcast.seeds import keyed_generators
from ldcast.settings import to_dict
from ldcast.training import arguments
from ldcast.training.arguments import held_out_frames, read_split_events
from ldcast.training.latents import encode_example
from ldcast.verification.cases import draw_cases
from ldcast.verification.forecasters import ForecastCache
from ldcast.verification.scoring import read_case, score_cases

FRAMES = FrameConfig(past_frames=8, future_frames=12, minutes_per_frame=10)
LEADS = list(range(10, 121, 10))


def set_apart(event: RainEvent, minutes: int) -> RainEvent:
    """The event as if its frames were so far apart."""
    step = np.timedelta64(60 * minutes, "s")
    return replace(event, time=event.time[0] + step * np.arange(len(event.time)))


@pytest.fixture(scope="module")
def ten_path(event_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """52 frames of 64 x 80 pixels, 10 minutes apart."""
    path = tmp_path_factory.mktemp("data") / "ten.npz"
    write_event(set_apart(read_event(event_path), 10), path)
    return path


@pytest.fixture(scope="module")
def runs(ten_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both trainings; nothing that the first was told is repeated for the second."""
    folder = tmp_path_factory.mktemp("runs")
    out = {name: folder / name for name in ("autoenc", "ldcast")}
    usual = [*LOOP, "--iterations", "2"]
    first = ["--data", str(ten_path), "--frames.minutes-per-frame", "10"]
    train_autoenc.main([*usual, *first, "--frames.num-frames", "4", "--out", str(out["autoenc"])])
    second = ["--frames.past-frames", "8", "--frames.future-frames", "12"]
    second += ["--forecast-score.num-cases", "1", "--diffusion.num-sampling-steps", "2"]
    second += ["--autoencoder", str(out["autoenc"]), "--out", str(out["ldcast"])]
    train_diffusion.main([*usual, *second])
    return out


def complaint(capsys: pytest.CaptureFixture[str], main, *arguments: object) -> str:
    """The one line of a command that exits with status 2."""
    capsys.readouterr()
    assert run_script(lambda: main([str(argument) for argument in arguments])) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


# ---- trainings, forecasts and verification -------------------------------------------------------


def test_both_stages_record_their_frames(runs) -> None:
    assert read_description(runs["autoenc"]).model.frames.minutes_per_frame == 10
    assert read_description(runs["ldcast"]).model.frames == FRAMES
    assert LDCast.from_pretrained(runs["ldcast"], device="cpu").config.frames == FRAMES


def test_a_run_starts_from_a_models_frames(runs, ten_path, tmp_path) -> None:
    usual = [*LOOP, "--iterations", "1", "--data", str(ten_path), "--init", str(runs["ldcast"])]
    train_autoenc.main([*usual, "--out", str(tmp_path / "autoenc")])
    assert read_description(tmp_path / "autoenc").model.frames.minutes_per_frame == 10
    few = ["--forecast-score.num-cases", "1", "--diffusion.num-sampling-steps", "2"]
    train_diffusion.main([*usual, *few, "--out", str(tmp_path / "ldcast")])
    assert read_description(tmp_path / "ldcast").model.frames == FRAMES


def test_forecasts_reach_as_far_as_the_model_and_beyond(runs, ten_path, tmp_path, capsys) -> None:
    usual = ["--model", str(runs["ldcast"]), "--data", str(ten_path), "--members", "2"]
    out = tmp_path / "forecast.npz"
    infer.main([*usual, "--out", str(out)])
    forecast = read_forecast(out)
    assert forecast.lead_minutes.tolist() == LEADS
    assert forecast.rain_rate.shape == (2, 12, 64, 80)
    assert forecast.time[0] == forecast.issue_time + np.timedelta64(600, "s")
    assert re.findall(r"\+(\d+) min ", capsys.readouterr().out) == ["10", "30", "60", "100", "120"]
    infer.main([*usual, "--out", str(out), "--lead-minutes", "150"])
    longer = read_forecast(out)
    assert longer.lead_minutes.tolist() == [*LEADS, 130, 140, 150]
    assert longer.is_second_hand.tolist() == [False] * 12 + [True] * 3


def test_synthetic_rain_has_the_models_minutes(tmp_path, small_synthetic) -> None:
    tiny_model(frames=FrameConfig(minutes_per_frame=6)).save_pretrained(tmp_path)
    past = radar_of(parse_flags("", ["--model", str(tmp_path)])).past
    assert (np.diff(past.time) == np.timedelta64(360, "s")).all() and past.notes == ()
    events, _ = read_split_events(["synthetic:0"], None, 10, 8, 24)
    check_cadence(events[0], 10)


def test_other_lead_times_are_refused(runs, ten_path, tmp_path, capsys) -> None:
    usual = ["--model", runs["ldcast"], "--data", ten_path, "--out", tmp_path / "forecast.npz"]
    line = complaint(capsys, infer.main, *usual, "--lead-minutes", "25")
    assert "got 25 minutes of lead time, expected a multiple of 10" in line


def test_it_is_verified_and_calibrated(runs, ten_path, tmp_path, capsys) -> None:
    model = ["--model", str(runs["ldcast"]), "--members", "2", "--crop-size", "32"]
    usual = [*model, "--data", str(ten_path), "--cases", "2", "--cache", str(tmp_path / "cache")]
    verify.main([*usual, "--out", str(tmp_path)])
    assert re.search(r" +\+10 +\+30 +\+60 +\+100 +\+120 \|", capsys.readouterr().out)
    table = json.loads((tmp_path / "scores.json").read_text())
    assert table["lead_minutes"] == LEADS
    assert len(table["models"][str(runs["ldcast"])]["fair_crps_1px"]) == 12
    calibrate.main(usual)
    calibrated = tmp_path / "forecast.npz"
    arguments = ["--model", str(runs["ldcast"]), "--data", str(ten_path), "--calibrated"]
    infer.main([*arguments, "--members", "2", "--out", str(calibrated)])
    assert read_forecast(calibrated).statistics.exceedance_probability.shape[1] == 12


# ---- other data are refused ----------------------------------------------------------------------


def test_a_5_minute_model_refuses_10_minute_data(
    model_folder, autoencoder_run, ten_path, tmp_path, capsys
) -> None:
    expected = r"10 minutes apart throughout, expected 5"
    data, out = ("--data", ten_path), ("--out", tmp_path / "forecast.npz")
    assert re.search(expected, complaint(capsys, infer.main, "--model", model_folder, *data, *out))
    verifying = (*data, "--crop-size", "32", "--out", tmp_path)
    assert re.search(expected, complaint(capsys, verify.main, "--model", model_folder, *verifying))
    training = (*LOOP, *data, "--out", tmp_path / "run")
    line = complaint(capsys, train_autoenc.main, *training)
    assert re.search(rf"{expected}.* --frames.minutes-per-frame 10", line)
    line = complaint(capsys, train_diffusion.main, "--autoencoder", autoencoder_run, *training)
    assert re.search(expected, line)


def test_a_10_minute_model_refuses_5_minute_data(runs, event_path, tmp_path, capsys) -> None:
    expected = r"5 minutes apart throughout, expected 10"
    data = ("--data", event_path)
    verifying = (*data, "--crop-size", "32", "--out", tmp_path)
    assert re.search(
        expected, complaint(capsys, verify.main, "--model", runs["ldcast"], *verifying)
    )
    training = ("--autoencoder", runs["autoenc"], *LOOP, *data, "--out", tmp_path / "run")
    line = complaint(capsys, train_diffusion.main, *training)
    assert re.search(rf"{expected}.* --frames.minutes-per-frame 5", line)
    # A forecast can use every second frame, as it can of a minute each fifth, and says so.
    out = ("--out", str(tmp_path / "forecast.npz"), "--members", "1")
    infer.main(["--model", str(runs["ldcast"]), "--data", str(event_path), *out])
    assert "frames are 5 minutes apart: every second one is used" in capsys.readouterr().out
    six = tmp_path / "six.npz"
    write_event(set_apart(read_event(event_path), 6), six)
    line = complaint(capsys, infer.main, "--model", runs["ldcast"], "--data", six, *out)
    assert re.search(r"6 minutes apart throughout, expected 10 minutes, .* such as 2 or 5", line)


def test_the_command_that_is_named_makes_the_data_fit(
    runs, event_path, tmp_path, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    usual = ("--model", runs["ldcast"], "--crop-size", "32", "--out", tmp_path)
    usual += ("--cases", "2", "--members", "2")
    line = complaint(capsys, verify.main, *usual, "--data", event_path)
    assert "--frames." not in line  # a flag of the training scripts
    arguments = shlex.split(re.search(r"python -m ldcast.data.build (.*), or ", line)[1])
    build(arguments)
    assert "of 52 frames, 5 minutes apart, 26 were left out" in capsys.readouterr().out
    verify.main([str(argument) for argument in (*usual, "--data", arguments[-1])])


def test_counts_that_do_not_fit_are_refused(runs, ten_path, tmp_path, capsys) -> None:
    usual = (*LOOP, "--data", ten_path, "--out", tmp_path / "run")
    line = complaint(capsys, train_autoenc.main, *usual, "--frames.num-frames", "6")
    assert "frames.num_frames: got 6, expected a multiple of 4" in line and "4 or 8" in line
    usual = ("--autoencoder", runs["autoenc"], *usual)
    line = complaint(capsys, train_diffusion.main, *usual, "--frames.past-frames", "10")
    assert "past_frames: got 10, expected a multiple of 4" in line and "8 or 12" in line
    path = runs["ldcast"] / "config.json"
    folder = tmp_path / "changed"
    folder.mkdir()
    text = path.read_text().replace('"future_frames": 12', '"future_frames": 13')
    (folder / "config.json").write_text(text)
    line = complaint(capsys, infer.main, "--model", folder, "--out", tmp_path / "forecast.npz")
    assert str(folder) in line and "future_frames: got 13" in line


def test_models_of_different_frames_are_not_verified_together(
    runs, model_folder, ten_path, tmp_path, capsys
) -> None:
    models = ("--model", runs["ldcast"], model_folder)
    line = complaint(capsys, verify.main, *models, "--data", ten_path, "--out", tmp_path)
    assert "forecasts 20 frames 5 minutes apart from 4, expected as" in line


# ---- a run that was started before there were frames ---------------------------------------------


def without_frames(path: Path) -> None:
    """As arguments and config.json were written before."""
    table = json.loads(path.read_text())
    del table.get("model", table)["frames"]
    path.write_text(json.dumps(table))


def test_an_old_run_resumes_and_refuses_other_frames(stage, tmp_path, capsys) -> None:
    out = stage.run(tmp_path / "run", 1)
    without_frames(out / "state.json")
    without_frames(out / "config.json")
    name, was = ("num", 8) if stage.name == "autoencoder" else ("past", 4)
    line = stage.fails(capsys, out, f"--frames.{name}-frames", "16")
    assert f"frames.{name}_frames {was}, now it is 16" in line
    stage.run(out, 2)
    assert json.loads((out / "config.json").read_text())["model"]["frames"]["past_frames"] == 4


# Of the settings of `tiny_model`, as revision 497ca5f made it, with "W" in place of its weights.
OLD_FINGERPRINT = "b67f508d1622af9919cc469c5b219d857b213164be30c49b92d5ffaae3931b46"


def test_an_old_folder_is_of_the_published_frames_and_keeps_its_calibration(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(maps, "fingerprint", lambda folder: "W")
    tiny_model().save_pretrained(tmp_path)
    without_frames(tmp_path / "config.json")
    assert LDCast.from_pretrained(tmp_path, device="cpu").frames == FrameConfig()
    known = model_fingerprints(tmp_path)
    assert known[0] == model_fingerprint(tmp_path)
    assert known[6] == OLD_FINGERPRINT and len(set(known)) == 9
    # Before there were kinds of autoencoders, and settings of samplers.
    settings = to_dict(read_description(tmp_path).model)
    del settings["denoiser"]["use_linear_path"], settings["denoiser"]["linear_path_scales"]
    del settings["diffusion"]["channel_sizes"], settings["diffusion"]["around_linear_forecast"]
    del settings["rain"]["transform"], settings["rain"]["exponent"]
    del settings["diffusion"]["member_noise"]
    del settings["frames"], settings["inputs"], settings["autoencoder"]["rain_weight"]
    del settings["autoencoder"]["kind"]
    assert (
        known[7] == hashlib.sha256(f"W {json.dumps(settings, sort_keys=True)}".encode()).hexdigest()
    )
    tiny_model(frames=FrameConfig(minutes_per_frame=10)).save_pretrained(tmp_path / "ten")
    assert not set(known) & set(model_fingerprints(tmp_path / "ten"))


# ---- in Python -----------------------------------------------------------------------------------


def test_fewer_future_than_past_frames_go_on_from_both() -> None:
    model = tiny_model(frames=FrameConfig(past_frames=8, future_frames=4, minutes_per_frame=10))
    past = torch.cat([rain(32, 32, seed) for seed in (0, 1)])
    first = model.predict(past, 1, seed=2)
    both = model.predict(past, 1, seed=2, lead_minutes=80)
    assert both.shape == (1, 8, 32, 32) and torch.equal(both[:, :4], first)
    noise = torch.randn(1, 4, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    going_on = model.predict(past, 1, noise=noise, lead_minutes=80)
    again = torch.cat([past[4:], going_on[0, :4]])
    torch.testing.assert_close(model.predict(again, 1, noise=noise[:, :, 1:]), going_on[:, 4:])


def test_a_past_of_another_length_is_refused() -> None:
    with pytest.raises(InputError, match=r"expected \(8, H, W\): 8 frames 10 minutes apart"):
        tiny_model(frames=FRAMES).predict(rain())


def fast_rain(num_frames: int, width: int = 192) -> torch.Tensor:
    """Rain (T, 64, width) that moves 20 pixels a frame, with a gap in the sixth one."""
    field = torch.randn(64, width + 400, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.avg_pool2d(field[None], 9, stride=1, padding=4)[0]
    starts = [400 - 20 * frame for frame in range(num_frames)]
    fields = [10 ** (6 * smooth).clamp(-2, 2)[:, start : start + width] for start in starts]
    rain_rate = torch.stack(fields)
    rain_rate[5, :, 60:120] = torch.nan
    return rain_rate


def test_gaps_are_filled_along_motion_that_is_fast_for_5_minutes() -> None:
    past, model = fast_rain(8), tiny_model(frames=FRAMES)
    filled = fill_gaps(past, 10).rain_rate
    assert not torch.equal(filled, fill_gaps(past, 5).rain_rate)
    assert torch.equal(model.predict(past, 1), model.predict(filled, 1))


def test_gaps_of_training_examples_and_cases_are_filled_alike() -> None:
    rain_rate, model = fast_rain(20), tiny_model(frames=FRAMES)
    filled = torch.cat([fill_gaps(rain_rate[:8], 10).rain_rate, rain_rate[8:]])

    def loss(rain_rate: torch.Tensor) -> float:
        grid = train_diffusion.latent_grid(model, model.autoencoder)
        latents = encode_example(Example(rain_rate[None, None], {}), grid, {})
        generators = keyed_generators(0, indices=[0])
        return train_diffusion.training_loss(model.latent_nowcaster, latents, generators).item()

    assert loss(rain_rate) == loss(filled)
    times = np.datetime64("2020-06-01", "s") + FRAMES.step * np.arange(20)
    event = RainEvent(rain_rate.numpy(), times)
    (case,) = draw_cases([event], FRAMES, 1, 64, seed=0)
    case = replace(case, window=replace(case.window, y=0, x=0))
    past, _, _ = read_case([event], case, 64, torch.device("cpu"))
    assert torch.equal(past, fill_gaps(rain_rate[:8, :, :64], 10).rain_rate)


def test_the_quality_in_a_file_knows_fast_motion(tmp_path, capsys) -> None:
    tiny_model(frames=FRAMES).save_pretrained(tmp_path / "model")
    times = np.datetime64("2020-06-01", "s") + FRAMES.step * np.arange(8)
    write_event(RainEvent(fast_rain(8).numpy(), times), tmp_path / "event.npz")
    arguments = ["--model", str(tmp_path / "model"), "--data", str(tmp_path / "event.npz")]
    infer.main([*arguments, "--members", "1", "--out", str(tmp_path / "forecast.npz")])
    assert "Gaps in earlier images, 31 % of 20 min before: filled" in capsys.readouterr().out
    quality = read_forecast(tmp_path / "forecast.npz").quality
    assert (quality[0, :, :20] == UPSTREAM_UNKNOWN).all()
    assert not (quality[0, :, 20:] == UPSTREAM_UNKNOWN).any()


def test_scores_know_fast_motion(tmp_path) -> None:
    times = np.datetime64("2020-06-01", "s") + FRAMES.step * np.arange(20)
    event = RainEvent(fast_rain(20).numpy(), times)
    cases = draw_cases([event], FRAMES, 1, 64, seed=0)
    nothing = ForecastCache(tmp_path)
    _, (motion,) = score_cases([], [event], cases, 64, torch.device("cpu"), nothing)
    assert motion == pytest.approx((0, 20), abs=0.3)


def test_frames_that_the_conditioner_does_not_make_are_refused() -> None:
    model = tiny_model()
    with pytest.raises(ValueError, match=r"got 12 future frames, .* makes latents of 20"):
        LDCast(model.autoencoder, model.latent_nowcaster, frames=FrameConfig(future_frames=12))


def test_pysteps_gives_the_minutes(ten_path) -> None:
    past = past_event(read_event(ten_path, Reading(minutes=10)), FRAMES).rain_rate
    model = tiny_model(frames=FRAMES)
    members = pysteps_plugin.forecast(past, None, 3, 1, timestep=10, model=model)
    np.testing.assert_array_equal(members, model.predict(past, 1, lead_minutes=30))
    with pytest.raises(InputError, match="got a time step of 5 minutes, expected 10"):
        pysteps_plugin.forecast(past, None, 3, 1, timestep=5, model=model)


def test_dataarrays_have_the_minutes() -> None:
    xarray = pytest.importorskip("xarray", reason="xarray is an extra")
    pytest.importorskip("pyproj", reason="pyproj is an extra")
    past = torch.cat([rain(32, 48, seed) for seed in (0, 1)]).clamp(max=100).numpy()
    step = np.timedelta64(10, "m")
    times = np.datetime64("2016-07-11T22:00", "ns") + np.arange(8) * step
    kilometres = {"units": "km"}
    coordinates = {
        "time": times,
        "y": ("y", -np.arange(32.0), kilometres),
        "x": ("x", np.arange(48.0), kilometres),
    }
    given = xarray.DataArray(past, coordinates, ("time", "y", "x"), attrs={"units": "mm/h"})
    model = tiny_model(frames=FRAMES)
    forecast = model.predict_xarray(given, num_members=1, lead_minutes=130)
    np.testing.assert_array_equal(forecast.time, times[-1] + step * np.arange(1, 14))
    assert forecast.second_hand.values.tolist() == [0] * 12 + [1]
    # Sums of 10 minutes every 5: those between are not used, so that none overlap.
    twice = np.repeat(given, 2, axis=0).assign_coords(time=times[0] + step // 2 * np.arange(16))
    amounts = (twice / 6).assign_attrs(units="mm", accutime=10)
    with pytest.warns(UserWarning, match="amounts of 10 minutes|every second one is used"):
        forecast = model.predict_xarray(amounts, num_members=1)
    assert forecast.sizes["time"] == 12


def test_times_are_rounded_to_the_models_minutes(tmp_path) -> None:
    event = set_apart(synthetic_event(0, 8, 32, 32), 6)
    late = replace(event, time=event.time + np.array([0, 9, 3, 0, 8, 2, 0, 5], "m8[s]"))
    write_event(late, tmp_path / "late.npz")
    assert (read_event(tmp_path / "late.npz", Reading(minutes=6)).time == event.time).all()
    assert (read_event(tmp_path / "late.npz").time == late.time).all()
    (trained_on,), _ = read_split_events([str(tmp_path / "late.npz")], None, 6, 8, 24)
    assert (trained_on.time == event.time).all()
    out = str(tmp_path / "event.npz")
    build([str(tmp_path / "late.npz"), "--minutes-per-frame", "6", "--out", out])
    with np.load(out) as file:
        assert (file["time"] == event.time).all()


def test_no_less_is_held_out_than_an_example_takes(ten_path) -> None:
    for num_frames, num_held_out in ((20, 24), (26, 26), (28, 0)):  # of 52
        num_wanted = held_out_frames(None, {}, num_frames)
        _, validation = read_split_events([str(ten_path)], None, 10, num_frames, num_wanted)
        assert sum(len(event.time) for event in validation) == num_held_out


@pytest.mark.parametrize(
    ("first_frames", "future_frames", "num_frames", "num_held_out"),
    [
        (8, 20, 52, 24),
        (8, 24, 60, 0),  # 28 held out would overlap what stage 1 trained on
        pytest.param(8, 24, 145, 29, marks=pytest.mark.slow),
        pytest.param(32, 20, 56, 0, marks=pytest.mark.slow),  # all of which stage 1 trained on
        pytest.param(32, 20, 64, 32, marks=pytest.mark.slow),
    ],
)
def test_stage_2_validates_on_nothing_that_stage_1_trained_on(
    tmp_path, monkeypatch, capsys, first_frames, future_frames, num_frames, num_held_out
) -> None:
    write_event(synthetic_event(3, num_frames, 32, 32), tmp_path / "event.npz")
    read = []

    def reading(*asked) -> tuple[list[RainEvent], list[RainEvent]]:
        read.append(read_split_events(*asked))
        return read[-1]

    monkeypatch.setattr(arguments, "read_split_events", reading)
    monkeypatch.chdir(tmp_path)
    once = [*LOOP, "--iterations", "1"]
    first = ["--data", "event.npz", "--frames.num-frames", str(first_frames)]
    train_autoenc.main([*once, *first])
    second = ["--frames.future-frames", str(future_frames), "--diffusion.num-sampling-steps", "2"]
    train_diffusion.main([*once, *second, "--forecast-score.num-cases", "1"])
    (trained_before, _), (trained, validation) = read
    check_apart([*trained_before, *trained], validation)
    assert sum(len(event.time) for event in validation) == num_held_out
    assert ("without validation" in capsys.readouterr().out) == (num_held_out == 0)


def test_other_data_are_held_out_by_their_own_rule(tmp_path) -> None:
    def held_out(before: dict, data: list[str]) -> int:
        (tmp_path / "state.json").write_text(json.dumps(before))
        return held_out_frames(tmp_path, {"data": data}, 28)

    before = {"data": ["a", "b"], "validation_data": [], "held_out_frames": 25}
    assert held_out(before, ["b", "c"]) == 25
    assert held_out(before, ["c"]) == held_out(before | {"validation_data": ["v"]}, ["a"]) == 28
    del before["held_out_frames"]  # as recorded at first
    assert held_out(before, ["a"]) == 24
    assert held_out(before | {"frames": {"num_frames": 32, "minutes_per_frame": 5}}, ["a"]) == 32


# ---- a feed --------------------------------------------------------------------------------------


def test_a_feed_is_of_the_models_frames(tmp_path) -> None:
    event = set_apart(synthetic_event(0, 10, 32, 32), 10)
    lines: list[str] = []
    feed = FrameFeed(tmp_path, read_event, FRAMES, 5, lines.append)
    for index in range(10):
        write_event(event.select([index]), tmp_path / f"frame{index}.npz")
    feed.look()
    while feed.look():
        time.sleep(0)
    assert feed.due() == [event.time[9], event.time[8], event.time[7]] and not lines
    np.testing.assert_array_equal(feed.event(event.time[8]).time, event.time[1:9])


def test_a_service_keeps_the_forecasts_of_a_day(runs, model_folder) -> None:
    for folder, num_kept in ((model_folder, 288), (runs["ldcast"], 144)):
        assert parse_flags("", ["--model", str(folder), "--watch", "incoming"]).keep == num_kept


def test_a_feed_that_brings_nothing_new_is_said_after_four_frames(tmp_path) -> None:
    event = set_apart(synthetic_event(0, 10, 32, 32), 10)
    lines: list[str] = []
    feed = FrameFeed(tmp_path, read_event, FRAMES, 5, lines.append)
    now = time.time()
    for name, minutes in (("first", 0), ("soon", 30), ("later", 41)):
        path = tmp_path / f"{name}.npz"
        write_event(event, path)
        os.utime(path, (now + 60 * minutes, now + 60 * minutes))
        for _ in range(2):
            feed.look()
        said = any("files came for 40 minutes without a frame after" in line for line in lines)
        assert said == (name == "later")


def test_a_feed_of_other_minutes_is_of_no_use(tmp_path) -> None:
    event = set_apart(synthetic_event(0, 10, 32, 32), 15)
    lines: list[str] = []
    feed = FrameFeed(tmp_path, read_event, FRAMES, 5, lines.append)
    write_event(event, tmp_path / "frames.npz")
    for _ in range(3):
        feed.look()
    assert feed.due() == []
    (line,) = lines
    assert "no two of its frames are 10 minutes apart, but 15 minutes" in line
    assert "expected 8 such in a row, every 10, 5 or 2 minutes" in line
