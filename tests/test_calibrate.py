"""Fitting a calibration: maps that are known, what is left out, and the tool as a user runs it."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import tiny_model

from ldcast import calibrate
from ldcast.calibrate import case_reader
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
from ldcast.calibration.judge import Judgement, count_harm, describe, judge
from ldcast.calibration.maps import LEAD_MINUTES, match_rain
from ldcast.data.archive import write_event
from ldcast.data.synthetic import synthetic_event
from ldcast.errors import run_script
from ldcast.nowcaster import LDCast
from ldcast.verification.cases import CASE_FRAMES, draw_cases
from ldcast.verification.forecasters import ForecastCache, Forecaster

NUM_LEADS = len(LEAD_MINUTES)
HALF = 10**-0.3  # 30 classes of rain rate
ABOUT = {"fitted_on": {}, "weights": "1234", "sampler": "plms", "num_sampling_steps": 20}


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
            yield ScoredCase(index % 3, members, radar)


def fit_to(reader: Reader) -> dict:
    return fit(reader, [0, 1, 2], 3, ABOUT)


@pytest.fixture(scope="module")
def clean() -> dict:
    return fit_to(Reader())


@pytest.fixture(scope="module")
def judgements(clean) -> list[Judgement]:
    events = [synthetic_event(seed, 24, 32, 32) for seed in range(3)]
    return judge(Reader(), events, clean, num_members=3)


def test_the_judge_of_an_event_has_not_seen_it(clean):
    poisoned = fit_to(Reader(poisoned=1))
    assert list(clean) == [None, 0, 1, 2]
    for name in ("forecast_rain", "radar_rain", "probability", "num_forecasts"):
        np.testing.assert_array_equal(vars(clean[1])[name], vars(poisoned[1])[name])
        for other in (None, 0, 2):
            assert not np.array_equal(vars(clean[other])[name], vars(poisoned[other])[name])


def test_a_single_event_is_fitted_and_not_judged():
    def one(what: str) -> Iterator[ScoredCase]:
        return (case for case in Reader()(what) if case.event == 2)

    assert list(fit(one, [2], 3, ABOUT)) == [None]


def test_calibration_makes_a_biased_model_reliable(judgements):
    assert [judgement.event for judgement in judgements] == [f"synthetic:{i}" for i in range(3)]
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
    judgement = Judgement("storm", num_members=2)
    case = ScoredCase(0, members.repeat(repeat, axis=1), radar.repeat(repeat, axis=0))
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
    assert count_harm(judgements) == "in 0 of 9 Brier scores calibrated is worse than raw"
    judgement = Judgement("storm", num_members=3)
    for case in Reader(poisoned=1)("judge"):
        if case.event == 1:
            judgement.add(case, clean[1])
    assert count_harm([judgement]).startswith("in 3 of 3 Brier scores calibrated is worse")


def test_pixels_without_data_now_or_then_are_not_scored(tmp_path):
    event = synthetic_event(0, CASE_FRAMES, 32, 32)
    event.rain_rate[3, :4] = np.nan  # the newest past frame
    event.rain_rate[4, :, :4] = np.nan  # the first future one
    cases = draw_cases([event], 1, 32, seed=0)
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
        usual = ["--model", "model", "--data", "event0.npz", "event1.npz", "--cases", "4"]
        usual += ["--members", "2", "--steps", "1", "--crop-size", "32"]
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
    # Again: every forecast is in the cache, and the result the same.
    before = (Path("model") / CALIBRATION_NAME).read_text()
    monkeypatch.setattr(LDCast, "predict", None)  # would fail if it were reached
    assert call("--seed", "3") == 0
    assert (Path("model") / CALIBRATION_NAME).read_text() == before
    assert len(list(Path("runs/calibrate/cache").glob("*.npz"))) == 4


def test_one_event_is_enough_to_fit(call, capsys):
    assert call("--data", "event0.npz", "--cases", "2", "--cache", "kept") == 0
    assert "nothing to judge the fit by" in capsys.readouterr().out
    assert json.loads((Path("model") / CALIBRATION_NAME).read_text())["fitted_on"]["num_cases"] == 2
    assert len(list(Path("kept").glob("*.npz"))) == 2


def test_the_plot_is_drawn(call):
    pytest.importorskip("matplotlib", reason="matplotlib is an extra")
    assert call("--plot", "reliability.png") == 0
    assert Path("reliability.png").stat().st_size > 10_000


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
        (["--data", "nowhere.npz"], "nowhere.npz"),
    ],
)
def test_what_the_user_can_mend(call, capsys, monkeypatch, arguments, word):
    monkeypatch.setattr(LDCast, "predict", None)  # would fail if it were reached
    assert word in refused(call, capsys, *arguments)


def test_a_model_folder_that_cannot_be_written_is_found_before_the_work(call, capsys, monkeypatch):
    touch = Path.touch

    def refuse(self: Path, *arguments: object) -> None:
        if "model" in self.parts:
            raise PermissionError(13, "Permission denied", str(self))
        touch(self, *arguments)

    monkeypatch.setattr(Path, "touch", refuse)  # permission bits do not stop root
    monkeypatch.setattr(LDCast, "predict", None)
    assert CALIBRATION_NAME in refused(call, capsys)
