"""Verification: CRPS against hand and brute force, fair cases, and one mask for every model."""

import json

import numpy as np
import pytest
import torch
from torch import Tensor

from ldcast import verify
from ldcast.config import TINY_AUTOENCODER, TINY_DIFFUSION, ModelConfig
from ldcast.data.archive import RainEvent, write_event
from ldcast.data.crops import Window, read_window
from ldcast.data.synthetic import synthetic_event
from ldcast.errors import InputError, run_script
from ldcast.nowcaster import LDCast, build
from ldcast.verification.baselines import dry, persistence
from ldcast.verification.cases import CASE_FRAMES, Case, draw_cases
from ldcast.verification.crps import block_mean, crps_ensemble, fair_crps

FIVE_MINUTES = np.timedelta64(300, "s")
CROP = 32  # pixels


def make_event(rain_rate: np.ndarray, name: str = "storm") -> RainEvent:
    time = np.datetime64("2020-06-01", "s") + np.arange(len(rain_rate)) * FIVE_MINUTES
    return RainEvent(rain_rate.astype(np.float32), time, name=name)


def brute_force(members: Tensor, observation: Tensor, num_pairs: int) -> Tensor:
    crps = torch.zeros_like(observation)
    for first in members:
        crps += (first - observation).abs() / len(members)
        for second in members:
            crps -= (first - second).abs() / (2 * num_pairs)
    return crps


# ---- CRPS ----------------------------------------------------------------------------------------


def test_crps_with_ties_as_by_hand():
    members, observation = torch.tensor([[0.0], [0.0], [0.0], [1.0]]), torch.zeros(1)
    assert crps_ensemble(members, observation).item() == 1 / 16
    assert fair_crps(members, observation).item() == 0


@pytest.mark.parametrize("num_members", [2, 3, 8])
def test_crps_is_that_of_the_double_sum(num_members):
    generator = torch.Generator().manual_seed(num_members)
    members = torch.randn(num_members, 5, 7, generator=generator).relu().double()  # half are ties
    observation = torch.randn(5, 7, generator=generator).relu().double()
    expected = brute_force(members, observation, num_members**2)
    torch.testing.assert_close(crps_ensemble(members, observation), expected)
    expected = brute_force(members, observation, num_members * (num_members - 1))
    torch.testing.assert_close(fair_crps(members, observation), expected)


@pytest.mark.parametrize("crps", [crps_ensemble, fair_crps])
def test_one_member_scores_its_absolute_error(crps):
    assert crps(torch.tensor([[1.0, 5.0]]), torch.tensor([3.0, 3.0])).tolist() == [2, 2]


@pytest.mark.parametrize("crps", [crps_ensemble, fair_crps])
def test_equal_members_have_no_spread_to_the_last_bit(crps):
    members = torch.full((7, 1), 100.1)
    assert crps(members, torch.zeros(1)).item() == members.mean(dim=0).item()


@pytest.mark.parametrize("crps", [crps_ensemble, fair_crps])
def test_no_data_has_no_score(crps):
    members = torch.tensor([[1.0, 1.0, torch.nan], [2.0, 2.0, 2.0]])
    scores = crps(members, torch.tensor([1.0, torch.nan, 1.0]))
    assert torch.isnan(scores).tolist() == [False, True, True]


def test_half_precision_is_scored_in_float32():
    members = torch.tensor([0.0, 100.0], dtype=torch.float16).repeat(32)[:, None]
    assert crps_ensemble(members, torch.zeros(1)).item() == 25  # sums pass what float16 holds


def test_fair_crps_does_not_depend_on_the_number_of_members():
    generator = torch.Generator().manual_seed(0)
    members = torch.randn(16, 40_000, generator=generator)
    observation = torch.randn(40_000, generator=generator)
    few, many = (fair_crps(members[:num], observation).mean().item() for num in (2, 16))
    # Of a standard normal forecast, averaged over such observations: 1 / sqrt(pi).
    assert few == pytest.approx(np.pi**-0.5, abs=0.015)  # 4 standard errors
    assert many == pytest.approx(np.pi**-0.5, abs=0.01)


def test_crps_agrees_with_pysteps():
    probscores = pytest.importorskip(
        "pysteps.verification.probscores", reason="pysteps, to compare with, is not installed"
    )
    rng = np.random.default_rng(0)
    members, observation = rng.gamma(0.5, 4, (10, 20, 30)), rng.gamma(0.5, 4, (20, 30))
    ours = crps_ensemble(torch.from_numpy(members), torch.from_numpy(observation)).mean().item()
    assert ours == pytest.approx(probscores.CRPS(members, observation), rel=1e-9)


def test_block_means_need_data_in_half_of_a_block():
    nan = torch.nan
    rain_rate = torch.tensor([[1, 3, nan, 8, 5], [nan, 2, nan, nan, 7]])  # the edge cuts a block
    means = block_mean(rain_rate[None], 2)
    assert means.shape == (1, 1, 3)
    torch.testing.assert_close(means[0, 0], torch.tensor([2, nan, 6]), equal_nan=True)


# ---- baselines -----------------------------------------------------------------------------------


def test_baselines():
    past = torch.rand(4, 5, 7)
    past[-1, 0, 0] = torch.nan
    forecast = persistence(past, 3)
    assert forecast.shape == dry(past, 3).shape == (1, 3, 5, 7)
    torch.testing.assert_close(forecast[0, 2], past[-1], equal_nan=True)
    assert (dry(past, 3) == 0).all()


# ---- cases ---------------------------------------------------------------------------------------


def test_cases_are_reproducible_different_and_say_what_they_are():
    events = [synthetic_event(seed, 30, 48, 64) for seed in range(2)]
    cases = draw_cases(events, 6, CROP, seed=3)
    assert cases == draw_cases(events, 6, CROP, seed=3)
    assert cases != draw_cases(events, 6, CROP, seed=4)
    assert len({case.window for case in cases}) == len({case.seed for case in cases}) == 6
    for case in cases:
        event = events[case.window.event]
        rain_rate = read_window(events, case.window, CASE_FRAMES, CROP)
        assert rain_rate.shape == (1, 24, CROP, CROP)
        assert case.event == event.name
        assert case.issue_time == event.time[case.window.first_frame] + 3 * FIVE_MINUTES
        assert case.wet_share == pytest.approx((rain_rate >= 0.1).float().mean().item())


def test_cases_keep_the_share_of_wet_windows():
    rain_rate = np.zeros((123, CROP, CROP + 99))  # 100 first frames, 100 first columns
    rain_rate[48:] = 1  # three quarters of the windows end there
    events = [make_event(rain_rate)]
    for seed in range(16):
        cases = draw_cases(events, 8, CROP, seed)
        num_wet = sum(case.wet_share > 0 for case in cases)
        assert num_wet in (5, 6, 7)  # plain draws would leave this range in every fifth set
        assert [case.wet_share for case in cases] == sorted(case.wet_share for case in cases)


def test_no_case_starts_from_an_image_without_data():
    rain_rate = np.ones((60, CROP, CROP))
    rain_rate[::2] = np.nan
    for case in draw_cases([make_event(rain_rate)], 4, CROP, seed=0):
        assert (case.window.first_frame + 3) % 2 == 1


def test_too_few_windows_for_the_cases():
    with pytest.raises(InputError, match="found 1 different cases, expected 2: give more --data"):
        draw_cases([synthetic_event(0, CASE_FRAMES, CROP, CROP)], 2, CROP, seed=0)


# ---- scoring -------------------------------------------------------------------------------------


def score(forecasters: dict, event: RainEvent, num_cases: int) -> dict[str, dict]:
    """Results of the forecasters over windows that start at frames 0, 1, ..."""
    cases = [
        Case(Window(0, frame, 0, 0), event.name, event.time[frame + 3], 1.0, seed=frame)
        for frame in range(num_cases)
    ]
    records = verify.score_cases(forecasters, [event], cases, CROP, torch.device("cpu"))
    return {name: record.results() for name, record in records.items()}


def test_scores_are_pooled_over_the_valid_pixels_of_all_cases():
    rain_rate = np.ones((25, CROP, CROP))
    rain_rate[4] = 3  # the first case's lead of 5 minutes, three quarters of it without data
    rain_rate[4, :24] = np.nan
    rain_rate[24] = np.nan  # the second case's last lead
    scores = score({"dry": lambda past, seed: dry(past, 20)}, make_event(rain_rate), 2)["dry"]
    # 5 minutes: 256 pixels off by 3; in the second case, whose newest past frame is the same
    # frame, the same quarter of the domain off by 1. 10 minutes: 1024 and 256 pixels off by 1.
    assert scores["crps_1px"][0] == (3 * 256 + 1 * 256) / 512
    assert scores["crps_8px"][0] == (3 * 4 + 1 * 4) / 8
    assert scores["crps_1px"][1:] == scores["fair_crps_1px"][1:] == [1.0] * 19
    assert np.isnan(scores["crps_64px"]).all()  # the crop is a quarter of such a block


def test_every_forecaster_is_scored_on_the_same_pixels():
    rain_rate = np.ones((24, CROP, CROP))
    rain_rate[3, :, :4] = np.nan  # the newest past frame: half of a block of 8 pixels
    rain_rate[4:, :, :4] = 100
    rain_rate[4:, :, 8:12] = np.nan  # the radar image of the future: half of another one

    def five_where_scored(past: Tensor, seed: int) -> Tensor:
        forecast = torch.full((2, 20, CROP, CROP), 5.0)
        forecast[..., :4] = torch.nan
        forecast[..., 8:12] = 1000
        return forecast

    forecasters = {"dry": lambda past, seed: dry(past, 20), "five": five_where_scored}
    scores = score(forecasters, make_event(rain_rate), 1)
    assert scores["dry"]["crps_1px"] == scores["dry"]["crps_8px"] == [1] * 20
    assert scores["five"]["crps_1px"] == scores["five"]["crps_8px"] == [4] * 20


def test_a_forecast_with_holes_is_refused():
    def with_a_hole(past: Tensor, seed: int) -> Tensor:
        forecast = persistence(past, 20)
        forecast[0, 7, 3, 3] = torch.nan
        return forecast

    with pytest.raises(InputError, match=r"model forecasts values that are not finite for storm"):
        score({"model": with_a_hole}, make_event(np.ones((24, CROP, CROP))), 1)


# ---- the command ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the untrained model `tiny` and the event `storm.npz`."""
    folder = tmp_path_factory.mktemp("verify")
    torch.manual_seed(0)
    config = ModelConfig(
        autoencoder=TINY_AUTOENCODER.autoencoder,
        conditioner=TINY_DIFFUSION.conditioner,
        denoiser=TINY_DIFFUSION.denoiser,
        diffusion=TINY_DIFFUSION.diffusion,
    )
    build(config).save_pretrained(folder / "tiny")
    write_event(synthetic_event(3, 26, 48, 80), folder / "storm.npz")
    return folder


def arguments(folder, out, *more: str) -> list[str]:
    argv = ["--model", str(folder / "tiny"), "--data", str(folder / "storm.npz")]
    argv += ["--members", "3", "--cases", "2", "--crop-size", str(CROP), "--steps", "2"]
    return [*argv, "--device", "cpu", "--out", str(out), *more]


def test_the_command_writes_the_scores_of_every_model(folder, tmp_path, capsys):
    assert run_script(lambda: verify.main(arguments(folder, tmp_path / "out"))) == 0
    shown = capsys.readouterr()
    assert shown.err == ""  # no progress bar: this is not a terminal
    tiny = str(folder / "tiny")
    table = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert list(table) == ["lead_minutes", "num_members", "cases", "models"]
    assert table["lead_minutes"] == list(range(5, 101, 5))
    assert table["num_members"] == 3
    assert len(table["cases"]) == 2
    assert {"event", "issue_time", "y", "x", "wet_share"} <= set(table["cases"][0])
    assert set(table["models"]) == {"persistence", "dry", tiny}
    for scores in table["models"].values():
        assert set(scores) == {"crps_1px", "fair_crps_1px", "crps_8px", "crps_64px"}
        assert all(len(score) == 20 for score in scores.values())
        assert scores["crps_64px"] == [None] * 20
        assert all(0 < value < 20 for value in scores["crps_1px"] + scores["crps_8px"])
    scores = table["models"][tiny]
    assert all(np.array(scores["fair_crps_1px"]) < np.array(scores["crps_1px"]))
    first, last = (table["models"]["persistence"]["crps_1px"][lead] for lead in (0, -1))
    rows = {line.split()[0]: line for line in shown.out.splitlines() if line}
    assert rows["persistence"].split()[1:6:4] == [f"{first:.3f}", f"{last:.3f}"]
    skill = 1 - scores["crps_1px"][0] / first
    assert f"{scores['crps_1px'][0]:.3f} ({skill:+.0%})" in rows[tiny]


def test_the_command_repeats_itself_and_its_forecasts_can_be_made_again(folder, tmp_path):
    for out in ("a", "b"):
        verify.main(arguments(folder, tmp_path / out))
    table = (tmp_path / "a" / "scores.json").read_text()
    assert table == (tmp_path / "b" / "scores.json").read_text()
    verify.main(arguments(folder, tmp_path / "c", "--cases", "1"))
    table = json.loads((tmp_path / "c" / "scores.json").read_text())
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--model", "no/such/model"], "no/such/model is not a model folder"),
        (["--model", "dry"], "the name is taken"),
        (["--data", "no-such.npz"], "no event file no-such.npz"),
        (["--crop-size", "256"], "use --crop-size 48"),
        (["--crop-size", "8"], "--crop-size 8: expected at least 16"),
        (["--members", "0"], "--members 0: expected at least 1"),
        (["--cases", "0"], "--cases 0: expected at least 1"),
        (["--seed", "-1"], "--seed -1: expected at least 0"),
        (["--steps", "0"], "0"),
    ],
)
def test_what_the_user_can_mend_exits_2_with_one_line(folder, tmp_path, capsys, change, message):
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


def test_no_figure_without_matplotlib(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    verify.main(arguments(folder, tmp_path))
    assert "no crps.png: it needs matplotlib" in capsys.readouterr().out
    assert not (tmp_path / "crps.png").exists()


def test_figure(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    scores = {name: {"crps_1px": [np.nan, *range(1, 20)]} for name in ("persistence", "model")}
    verify.draw_crps(scores, tmp_path / "crps.png")
    assert (tmp_path / "crps.png").read_bytes().startswith(b"\x89PNG")
