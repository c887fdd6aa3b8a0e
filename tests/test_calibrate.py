"""Fitting a calibration: maps that are known, what is left out, and the tool as a user runs it."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import tiny_model

import infer
from ldcast import calibrate
from ldcast.calibrate import case_reader, name_files
from ldcast.calibration import CALIBRATION_NAME, read_calibration
from ldcast.calibration.fit import (
    EDGES,
    MIN_PIXELS,
    ScoredCase,
    count_exceedances,
    count_rain,
    fit,
    fit_probability,
    fit_rain_maps,
    isotonic,
    pool_leads,
)
from ldcast.calibration.judge import Judgement, count_harm, describe, judge, record
from ldcast.calibration.maps import match_rain
from ldcast.data.event_files import write_event
from ldcast.data.past import past_event
from ldcast.data.pickers import Window
from ldcast.data.readers.specs import read_event
from ldcast.data.synthetic import synthetic_event
from ldcast.errors import run_script
from ldcast.forecasting.event import ForecastRequest, forecast_event
from ldcast.frames import FrameConfig
from ldcast.nowcast.ldcast import LDCast
from ldcast.products.accumulate import accumulate
from ldcast.products.ensemble import THRESHOLDS
from ldcast.products.forecast import Forecast
from ldcast.verification.cases import Case, draw_cases
from ldcast.verification.forecasters import ForecastCache, Forecaster

LEAD_MINUTES = FrameConfig().lead_minutes
NUM_LEADS = len(LEAD_MINUTES)
HALF = 10**-0.3  # 30 classes of rain rate
ABOUT = {"fitted_on": {}, "model": "1234", "sampler": "plms", "num_sampling_steps": 20}


def gamma_rain(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Half of it wet, from 0.1 to about 60 mm/h."""
    rng = np.random.default_rng(seed)
    rain = 0.1 + rng.gamma(0.5, 5, shape)
    return np.where(rng.uniform(size=shape) < 0.5, rain, 0).astype(np.float32)


def maps_between(members: np.ndarray, radar: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The map of one lead time."""
    return fit_rain_maps(count_rain(members)[None], count_rain(radar)[None])


# ---- counts --------------------------------------------------------------------------------------


def test_rain_is_counted_by_class():
    rain = np.array([0, 0.05, 0.1, 0.1, 0.101, 1e4, np.nan], np.float32)
    counts = count_rain(rain)
    assert counts.sum() == 6
    assert counts[[0, 1, -1]].tolist() == [2, 3, 1]
    assert counts.shape == EDGES.shape


def test_counts_are_pooled_over_as_many_leads_on_either_side():
    assert pool_leads(np.eye(7)).astype(int).tolist() == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 0, 0],
        [0, 1, 1, 1, 1, 1, 0],
        [0, 0, 1, 1, 1, 1, 1],
        [0, 0, 0, 0, 1, 1, 1],
        [0, 0, 0, 0, 0, 0, 1],
    ]


def test_exceedances_are_counted_where_there_is_data():
    members = np.array([[0, 1, 1, 20, 5], [0, 0, 2, 20, 5]], np.float32)[:, None, None]
    observation = np.array([0.5, 1, 0.5, 10, np.nan], np.float32)[None, None]
    num_forecasts, num_reached = count_exceedances(members, observation)[:, :, 0]
    assert num_forecasts.tolist() == [[1, 1, 2], [1, 1, 2], [3, 0, 1]]
    assert num_reached.tolist() == [[1, 1, 2], [0, 1, 1], [0, 0, 1]]


# ---- maps of rain rates --------------------------------------------------------------------------


def test_equal_distributions_leave_rain_as_it_is():
    rain = gamma_rain((4, 100, 100), seed=0)
    forecast_rain, radar_rain = maps_between(rain, rain[::-1])
    np.testing.assert_array_equal(forecast_rain, radar_rain)
    assert forecast_rain[0, 0] == 0.1
    np.testing.assert_allclose(match_rain(rain[:, None], forecast_rain, radar_rain)[:, 0], rain)


def test_members_with_twice_the_rain_are_halved():
    radar = gamma_rain((400, 400), seed=0)
    forecast_rain, radar_rain = maps_between(radar / HALF, radar)
    assert radar_rain[0, 0] == 0.1
    np.testing.assert_allclose(radar_rain, forecast_rain * HALF, rtol=2e-3)  # of rounding


def test_a_model_that_rains_too_often_gets_the_wet_share_of_the_radar():
    radar, members = gamma_rain((400, 400), seed=0), gamma_rain((2, 400, 400), seed=1)
    radar[:, :200] = 0
    matched = match_rain(members[:, None], *maps_between(members, radar))[:, 0]
    assert (members > 0).mean() == pytest.approx(0.5, abs=0.01)
    assert (matched > 0).mean() == pytest.approx((radar > 0).mean(), rel=0.01)
    assert matched[matched > 0].min() >= np.float32(0.1)
    for level in (0.2, 1, 5, 10):
        assert (matched >= level).mean() == pytest.approx((radar >= level).mean(), rel=0.05)


def test_a_model_that_rains_too_seldom_stays_dry_where_it_is_and_has_the_heavy_rain():
    radar, members = gamma_rain((400, 400), seed=0), gamma_rain((2, 400, 400), seed=1)
    members[:, :, :200] = 0
    matched = match_rain(members[:, None], *maps_between(members, radar))[:, 0]
    assert ((matched > 0) == (members > 0)).all()
    for level in (5, 10):
        assert (matched >= level).mean() == pytest.approx((radar >= level).mean(), rel=0.05)


@pytest.mark.parametrize("num_wet", [0, MIN_PIXELS])
def test_too_little_rain_for_a_map_is_left_alone(num_wet):
    radar = np.zeros(10_000, np.float32)
    radar[:num_wet] = 50
    forecast_rain, radar_rain = maps_between(gamma_rain((10_000,), seed=0), radar)
    np.testing.assert_array_equal(forecast_rain, radar_rain)


# ---- maps of probabilities -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "weights", "expected"),
    [
        ([1, 2, 3], [1, 1, 1], [1, 2, 3]),
        ([3, 1], [1, 3], [1.5, 1.5]),
        ([1, 5, 3, 4, 0, 9], [1, 1, 1, 1, 1, 1], [1, 3, 3, 3, 3, 9]),
        ([3, 2, 1], [1, 1, 1], [2, 2, 2]),
        ([7], [0.5], [7]),
    ],
)
def test_isotonic_regression_by_hand(values, weights, expected):
    np.testing.assert_allclose(isotonic(np.array(values), np.array(weights)), expected)


def test_isotonic_regression_agrees_with_scipy():
    optimize = pytest.importorskip("scipy.optimize", reason="scipy, to compare with, is missing")
    rng = np.random.default_rng(0)
    for num in (2, 9, 33):
        values, weights = rng.uniform(size=num), rng.uniform(0.1, 9, size=num)
        expected = optimize.isotonic_regression(values, weights=weights).x
        np.testing.assert_allclose(isotonic(values, weights), expected)


def test_the_probability_is_the_observed_frequency():
    num_forecasts = np.array([4e7, 2e7, 1e7])
    probability = fit_probability(num_forecasts, np.array([2e7, 4e6, 8e6]))
    # 0.5 and 0.2 are in the wrong order: 24 of 60.
    np.testing.assert_allclose(probability, [0.4, 0.4, 0.8], atol=1e-4)


def test_a_handful_of_pixels_claims_no_certainty():
    probability = fit_probability(np.array([50, 0, 0, 0, 5]), np.array([0, 0, 0, 0, 0]))
    assert probability[0] == 0  # as said by the members, too
    assert probability[1:4].tolist() == [0.25, 0.5, 0.75]
    assert probability[4] == pytest.approx(100 / 105, abs=1e-3)


# ---- leaving out an event ------------------------------------------------------------------------


EVENTS = ("a", "b", "c")


class Reader:
    """Cases of three events: members with twice the rain of the radar, in the right places."""

    def __init__(self, poisoned: int | None = None) -> None:
        self.poisoned = poisoned

    def __call__(self, what: str) -> Iterator[ScoredCase]:
        for index in range(6):
            radar = gamma_rain((NUM_LEADS, 30, 50), seed=index)
            members = np.stack([radar, radar, np.roll(radar, 1, axis=2)]) / np.float32(HALF)
            if index % 3 == self.poisoned:
                members, radar = members[:, :, ::-1] * 10, np.roll(radar, 7, axis=1) / 10
            radar[:, :3] = members[:, :, :3] = np.nan
            yield ScoredCase(EVENTS[index % 3], members, radar)


def fit_to(reader: Reader) -> dict:
    return fit(reader, list(EVENTS), 3, LEAD_MINUTES, ABOUT)


@pytest.fixture(scope="module")
def clean() -> dict:
    return fit_to(Reader())


@pytest.fixture(scope="module")
def judgements(clean) -> list[Judgement]:
    return judge(Reader(), {event: f"storm {event}" for event in EVENTS}, clean, num_members=3)


def test_the_judge_of_an_event_has_not_seen_it(clean):
    poisoned = fit_to(Reader(poisoned=1))
    assert list(clean) == [None, *EVENTS]
    for name in ("forecast_rain", "radar_rain", "probability", "num_forecasts"):
        np.testing.assert_array_equal(vars(clean["b"])[name], vars(poisoned["b"])[name])
        for other in (None, "a", "c"):
            assert not np.array_equal(vars(clean[other])[name], vars(poisoned[other])[name])


def test_a_single_event_is_fitted_and_not_judged():
    def one(what: str) -> Iterator[ScoredCase]:
        return (case for case in Reader()(what) if case.event == "c")

    assert list(fit(one, ["c"], 3, LEAD_MINUTES, ABOUT)) == [None]


def test_calibration_makes_a_biased_model_reliable(judgements):
    assert [judgement.event for judgement in judgements] == ["storm a", "storm b", "storm c"]
    for judgement in judgements:
        raw, _, calibrated = judgement.reliability()
        assert (calibrated < 0.1 * raw).all()
        raw, _, calibrated = judgement.brier()
        assert (calibrated < raw).all()
        raw, matched = judgement.crps()
        assert matched < 0.8 * raw


def test_scores_of_a_judgement_by_hand():
    class Halving:
        def calibrate_members(self, rain: np.ndarray) -> np.ndarray:
            return rain / 2

        def exceedance_probability(self, matched: np.ndarray) -> np.ndarray:
            return np.full((3, *matched.shape[1:]), 0.25, np.float32)

    # Four pixels: both members, one, none reach 1 mm/h; the last has no data.
    members = np.array([[8, 1, 0, 9], [6, 0, 0, 9]], np.float32)[:, None, None]
    radar = np.array([4, 0, 1, np.nan], np.float32)[None, None]
    repeat = NUM_LEADS
    judgement = Judgement("storm", num_members=2, num_leads=NUM_LEADS)
    case = ScoredCase("a", members.repeat(repeat, axis=1), radar.repeat(repeat, axis=0))
    judgement.add(case, Halving())
    # At 1 mm/h: raw 1, 1/2, 0; of halved rain 1, 0, 0; then 1/4 everywhere. Radar: 1, 0, 1.
    np.testing.assert_allclose(
        judgement.brier()[:, 1], [1.25 / 3, 1 / 3, (2 * 0.5625 + 0.0625) / 3]
    )
    # Classes with one pixel each; a mean of -1/2 in the two at 0; 1/4 against 2/3 in three.
    expected = [1.25 / 3, 2 * 0.25 / 3, (0.25 - 2 / 3) ** 2]
    np.testing.assert_allclose(judgement.reliability()[:, 1], expected)
    # |x - y| less half the mean distance: 3 - 1/2, 1/2 - 1/4, 1; halved 1/2 - 1/4, 1/8, 1.
    np.testing.assert_allclose(judgement.crps(), [3.75 / 3, 1.375 / 3])
    num, p, o = judgement.curves()
    assert num[2, 1].sum() == 3 * NUM_LEADS
    assert p[2, 1, 4] == 0.25
    assert o[2, 1, 4] == pytest.approx(2 / 3)


def test_the_table_has_a_line_for_each_event_and_threshold(judgements):
    assert len(describe(judgements).splitlines()) == 1 + 2 * (2 + 9) + 5 + 2


def test_harm_is_counted(judgements, clean):
    assert count_harm(judgements) == (
        "calibrated is worse than raw in 0 of 9 Brier scores, matched than raw in 0 of 3 CRPS"
    )
    assert record(judgements)["is_harmful"] is False
    judgement = Judgement("storm", num_members=3, num_leads=NUM_LEADS)
    for case in Reader(poisoned=1)("judge"):
        if case.event == "b":
            judgement.add(case, replace(clean["b"], radar_rain=clean["b"].radar_rain * 9))
    line = count_harm([judgement])
    assert "in 3 of 3 Brier scores, matched than raw in 1 of 1 CRPS: these events may" in line
    judged = record([judgement])
    assert judged["summary"] == line
    assert judged["is_harmful"] is True
    (event,) = judged["events"]
    assert event["event"] == "storm"
    np.testing.assert_allclose(event["brier_raw"], judgement.brier()[0], atol=1e-6)
    np.testing.assert_allclose(event["brier_calibrated"], judgement.brier()[2], atol=1e-6)


def test_a_worse_crps_alone_is_harm(judgements, monkeypatch):
    monkeypatch.setattr(Judgement, "crps", lambda self: np.array([1.0, 2.0]))
    assert "matched than raw in 3 of 3 CRPS: these events may" in count_harm(judgements)
    assert record(judgements)["is_harmful"] is True


def test_each_event_is_judged_by_the_fit_without_it():
    class Spy:
        """A calibration that does nothing but note the cases it was given."""

        lead_minutes = LEAD_MINUTES
        thresholds = THRESHOLDS

        def __init__(self, left_out: str | None) -> None:
            self.left_out = left_out

        def calibrate_members(self, rain: np.ndarray) -> np.ndarray:
            seen.append((self.left_out, rain.shape[-1]))
            return rain

        def exceedance_probability(self, matched: np.ndarray) -> np.ndarray:
            return np.zeros((3, *matched.shape[1:]), np.float32)

    def read(what: str) -> Iterator[ScoredCase]:
        for width, event in enumerate("abcab", start=1):
            rain = np.zeros((2, NUM_LEADS, 1, width), np.float32)
            yield ScoredCase(event, rain, rain[0])

    seen: list[tuple[str | None, int]] = []
    calibrations = {left_out: Spy(left_out) for left_out in (None, *EVENTS)}
    judge(read, dict(zip(EVENTS, EVENTS, strict=True)), calibrations, num_members=2)
    assert seen == [("a", 1), ("b", 2), ("c", 3), ("a", 4), ("b", 5)]


# ---- what is one event ---------------------------------------------------------------------------


def case_of(index: int, event: str, source: str) -> Case:
    window = Window(index, 0, 0, 0)
    return Case(window, event, np.datetime64("2016-07-11"), 0.5, seed=0, source=source)


def test_spans_of_a_file_are_one_event():
    cases = [
        case_of(2, "sun@b/c", "/sun.npz"),
        case_of(1, "storm@b/c", "/storm.npz"),
        case_of(0, "storm@a/b", "/storm.npz"),
        case_of(2, "sun@b/c", "/sun.npz"),
    ]
    assert list(name_files(cases).items()) == [("/storm.npz", "storm"), ("/sun.npz", "sun@b/c")]


def test_pixels_without_data_now_or_then_are_not_scored(tmp_path):
    event = synthetic_event(0, FrameConfig().num_frames, 32, 32)
    event.rain_rate[3, :4] = np.nan  # the newest past frame
    event.rain_rate[4, :, :4] = np.nan  # the first future one
    cases = draw_cases([event], FrameConfig(), 1, 32, seed=0)
    forecaster = Forecaster("fives", lambda past, case: torch.full((2, 20, 32, 32), 5.0))
    cache, cpu = ForecastCache(tmp_path), torch.device("cpu")
    (case,) = case_reader(forecaster, cache, [event], cases, 32, cpu)("forecasts")
    expected = np.zeros((20, 32, 32), bool)
    expected[:, :4] = expected[0, :, :4] = True
    np.testing.assert_array_equal(np.isnan(case.observation), expected)
    np.testing.assert_array_equal(np.isnan(case.members), np.stack([expected, expected]))
    assert (case.members[:, ~expected] == 5).all()
    np.testing.assert_array_equal(case.observation[~expected], event.rain_rate[4:][~expected])


# ---- the tool ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two events and a model."""
    folder = tmp_path_factory.mktemp("prepared")
    tiny_model().save_pretrained(folder / "model")
    for seed in (0, 1):
        write_event(synthetic_event(seed, 26, 32, 48), folder / f"event{seed}.npz")
    return folder


@pytest.fixture
def call(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs the tool in a copy of the prepared folder; returns its exit status."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> int:
        usual = ["--model", "model", "--cases", "4"]
        usual += ["--members", "2", "--steps", "1", "--crop-size", "32"]
        if "--data" not in arguments:  # given again, it adds to what it had
            usual += ["--data", "event0.npz", "event1.npz"]
        return run_script(lambda: calibrate.main([*usual, *arguments]))

    return run


def test_the_tool_writes_into_the_model_folder_and_judges(call, capsys, monkeypatch):
    assert call("--seed", "3") == 0
    calibration = read_calibration("model")
    assert calibration.probability.shape == (3, NUM_LEADS, 3)
    assert calibration.fitted_on == {
        "events": ["event0", "event1"],
        "num_cases": 4,
        "crop_size": 32,
        "seed": 3,
        "num_members": 2,
    }
    calibration.check_sampling("plms", 1)
    output = capsys.readouterr().out
    assert "event0" in output
    assert "reliability" in output
    assert calibration.judged["summary"] in output
    assert [event["event"] for event in calibration.judged["events"]] == ["event0", "event1"]
    # Again: every forecast is in the cache, and the result the same.
    before = (Path("model") / CALIBRATION_NAME).read_text()
    monkeypatch.setattr(LDCast, "predict", None)  # would fail if it were reached
    assert call("--seed", "3") == 0
    assert (Path("model") / CALIBRATION_NAME).read_text() == before
    assert len(list(Path("runs/calibrate/cache").glob("*.npz"))) == 4


def test_sums_have_a_fit_of_their_own(call, capsys):
    """What it maps is what infer.py makes: windows from the past frames on, of the same motion."""
    assert call("--accumulate", "15", "60", "--amount-thresholds", "0.5", "2") == 0
    output = capsys.readouterr().out
    assert "Sums over 60 minutes" in output and "CRPS, mm" in output
    calibration = read_calibration("model")
    of_quarter, of_hour = calibration.sums
    assert (of_quarter.minutes, of_hour.minutes) == (15, 60)
    assert of_hour.lead_minutes == tuple(range(45, 105, 5))
    assert of_hour.thresholds == (0.5, 2.0)
    assert of_hour.probability.shape == (2, 12, 3)
    assert not np.array_equal(of_hour.forecast_rain, calibration.forecast_rain[8:])
    assert [event["event"] for event in of_hour.judged["events"]] == ["event0", "event1"]
    assert calibration.until(50).of_sums(60).lead_minutes == (45, 50)
    assert [of.minutes for of in calibration.until(40).sums] == [15]

    model = LDCast.from_pretrained("model", "cpu")
    event = read_event("event0.npz")
    request = ForecastRequest(num_members=2, seed=0, model="model", num_sampling_steps=1)
    past = past_event(event, FrameConfig())
    asked = replace(request, accumulate=(15, 60), amount_thresholds=(2.0,))
    raw = forecast_event(model, past, asked).amounts
    fitted = forecast_event(
        model, past, replace(asked, calibration=calibration, amount_thresholds=())
    )
    amounts = fitted.amounts
    for of in calibration.sums:
        chosen = raw.minutes == of.minutes
        expected = of.calibrate_members(raw.rain_amount[:, chosen])
        np.testing.assert_array_equal(amounts.rain_amount[:, chosen], expected)
        chance = amounts.statistics.exceedance_probability[:, chosen]
        np.testing.assert_array_equal(chance, of.exceedance_probability(expected))
    assert amounts.statistics.exceedance_threshold.tolist() == [0.5, 2.0]
    shown = ["--model", "model", "--data", "event0.npz", "--steps", "1", "--calibrated"]
    assert run_script(lambda: infer.main([*shown, "--accumulate", "30"])) == 2
    line = capsys.readouterr().err
    assert "the calibration has sums over 15 60 minutes" in line and line.count("\n") == 1


def test_sums_are_those_of_a_forecast(tmp_path):
    frames = FrameConfig()
    rain = torch.from_numpy(synthetic_event(0, 24, 32, 48).rain_rate).float()
    past, members = rain[:4], torch.stack([rain[4:], 2 * rain[4:]])
    forecast = Forecast(
        rain_rate=members.numpy(), issue_time=np.datetime64("2020-01-01T00:00"), grid={}, seed=0,
        lead_minutes=np.array(frames.lead_minutes), model="", sampler="", num_sampling_steps=1,
    )  # fmt: skip
    expected = accumulate(forecast, 60, past.numpy())
    found = calibrate.sums_of(members, past, frames, 60)
    np.testing.assert_array_equal(found.numpy(), expected.rain_amount)
    ends = (expected.window_end - forecast.issue_time) / np.timedelta64(1, "m")
    assert calibrate.ends_of(frames, 60) == tuple(ends.astype(int))


def test_one_event_is_enough_to_fit(call, capsys):
    assert call("--data", "event0.npz", "--cases", "2", "--cache", "kept") == 0
    assert "all cases are of one event: nothing to judge the fit by" in capsys.readouterr().out
    assert read_calibration("model").judged == {}
    assert json.loads((Path("model") / CALIBRATION_NAME).read_text())["fitted_on"]["num_cases"] == 2
    assert len(list(Path("kept").glob("*.npz"))) == 2


def test_the_plot_is_drawn(call):
    pytest.importorskip("matplotlib", reason="matplotlib is an extra")
    assert call("--plot", "reliability.png") == 0
    assert Path("reliability.png").stat().st_size > 10_000


def test_two_spans_of_a_file_are_not_judged_by_each_other(call, capsys):
    write_event(synthetic_event(2, 60, 32, 48), "long.npz")
    middle = str(synthetic_event(2, 60, 32, 48).time[30])
    spans = (f"long.npz@/{middle}", f"long.npz@{middle}/")
    assert call("--data", *spans) == 0
    assert "all cases are of one event" in capsys.readouterr().out
    assert len(read_calibration("model").fitted_on["events"]) == 2
    assert call("--data", *spans, "event0.npz", "--cases", "8") == 0
    judged = read_calibration("model").judged["events"]
    assert [event["event"] for event in judged] == ["long", "event0"]


def test_events_that_no_case_fell_into_are_told(call, capsys):
    assert call("--cases", "1") == 0
    assert "all 1 cases fell into 1 of 2 events: nothing to judge" in capsys.readouterr().out


def test_rain_that_the_model_was_trained_on_is_told_in_a_line(call, capsys):
    model = tiny_model()
    model.trained_on = {"data": ["event1"]}
    model.save_pretrained("model")
    assert call() == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "trained on" in line]
    assert "event1" in line
    assert "event0" not in line


def test_seed_and_amp_reach_the_forecasts(call):
    def num_kept(*arguments: str) -> int:
        assert call("--cases", "2", *arguments) == 0
        return len(list(Path("runs/calibrate/cache").glob("*.npz")))

    assert num_kept("--amp", "off") == 2
    assert num_kept("--amp", "bf16") == 4 == num_kept()  # auto is one of the two
    assert num_kept("--amp", "off", "--seed", "1") == 6


def refused(call, capsys, *arguments: str) -> str:
    assert call(*arguments) == 2
    captured = capsys.readouterr()
    assert len(captured.err.strip().splitlines()) == 1
    return captured.err


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--members", "0"], "--members 0"),
        (["--crop-size", "8"], "--crop-size 8"),
        (["--plot", "reliability.gif"], ".png"),
        (["--plot", "nowhere/reliability.png"], "nowhere"),
        (["--model", "nowhere"], "no such folder"),
        (["--model", "bundled"], "python -m ldcast.calibrate --model DIR"),
        (["--data", "nowhere.npz"], "nowhere.npz"),
        (["--cache", "event0.npz"], "another --cache"),
        (["--accumulate", "12"], "expected multiples of 5 minutes"),
        (["--accumulate", "30", "--amount-thresholds", "0"], "expected amounts above 0 mm"),
    ],
)
def test_what_the_user_can_fix(call, capsys, monkeypatch, arguments, word):
    monkeypatch.setattr(LDCast, "predict", None)  # would fail if it were reached
    assert word in refused(call, capsys, *arguments)
    assert not Path("runs").exists()


@pytest.mark.parametrize("arguments", [["--data", "event0.npz"], ["--cases", "1"]])
def test_a_plot_without_a_judgement_is_refused_before_the_work(
    call, capsys, monkeypatch, arguments
):
    pytest.importorskip("matplotlib", reason="matplotlib is an extra")
    monkeypatch.setattr(LDCast, "predict", None)
    assert "nothing to judge" in refused(call, capsys, "--plot", "curves.png", *arguments)
    assert not Path("runs").exists()


def test_a_model_folder_that_cannot_be_written_is_found_before_the_work(call, capsys, monkeypatch):
    touch = Path.touch

    def refuse(self: Path, *arguments: object) -> None:
        if "model" in self.parts:
            raise PermissionError(13, "Permission denied", str(self))
        touch(self, *arguments)

    monkeypatch.setattr(Path, "touch", refuse)  # permission bits do not stop root
    monkeypatch.setattr(LDCast, "predict", None)
    assert CALIBRATION_NAME in refused(call, capsys)
