"""The calibration of a model: what it does to rain and chances, and how it is kept."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_models import tiny_model

from ldcast.calibration.maps import (
    CALIBRATION_NAME,
    Calibration,
    draw_chance,
    match_rain,
    model_fingerprint,
    read_calibration,
    write_calibration,
)
from ldcast.errors import InputError
from ldcast.frames import FrameConfig
from ldcast.nowcast.model_folder import BUNDLED, CONFIG_NAME
from ldcast.products.ensemble import THRESHOLDS

LEAD_MINUTES = FrameConfig().lead_minutes

NUM_LEADS = len(LEAD_MINUTES)


def make_calibration(
    forecast_rain: list, radar_rain: list, curves: list | None = None, **changes: object
) -> Calibration:
    """The same maps at every lead time; curves (K, E + 1), by default the share of 4 members."""
    curves = curves or [[0, 0.25, 0.5, 0.75, 1]] * 3
    probability = np.repeat(np.array(curves, float)[:, None], NUM_LEADS, axis=1)
    calibration = Calibration(
        lead_minutes=LEAD_MINUTES,
        forecast_rain=np.tile(np.array(forecast_rain, float), (NUM_LEADS, 1)),
        radar_rain=np.tile(np.array(radar_rain, float), (NUM_LEADS, 1)),
        thresholds=THRESHOLDS,
        probability=probability,
        num_forecasts=np.full_like(probability, 1e6),
        fitted_on={"events": ["storm"], "num_cases": 3},
        model="1234",
        sampler="plms",
        num_sampling_steps=20,
    )
    return replace(calibration, **changes)


def members_of(rain: list) -> np.ndarray:
    """Rain (E, W) -> (E, T, 1, W) at every lead time."""
    return np.repeat(np.array(rain, np.float32)[:, None, None], NUM_LEADS, axis=1)


# ---- rain rates ----------------------------------------------------------------------------------


def test_rain_is_mapped_between_the_nodes_and_dry_stays_dry():
    calibration = make_calibration([0.1, 1, 4], [0.2, 2, 3])
    rain = members_of([[0, 0.05, 0.1, 0.55, 1, 2.5, 4, np.nan]])
    matched = calibration.calibrate_members(rain)
    assert matched.shape == rain.shape
    assert matched.dtype == np.float32
    expected = [0, 0, 0.2, 1.1, 2, 2.5, 3, np.nan]
    np.testing.assert_allclose(matched[0, 7, 0], expected, rtol=1e-6)


def test_the_weakest_rain_of_a_wet_model_becomes_dry_and_the_rest_stays_wet():
    calibration = make_calibration([0.5, 10], [0.1, 5])
    matched = calibration.calibrate_members(members_of([[0.1, 0.49, 0.5, 0.500001]]))[0, 0, 0]
    assert matched[:2].tolist() == [0, 0]
    assert (matched[2:] >= np.float32(0.1)).all()


def test_beyond_the_last_node_the_factor_stays_up_to_where_forecasts_end():
    calibration = make_calibration([0.1, 10], [0.1, 20])
    matched = calibration.calibrate_members(members_of([[10, 11, 50, 80, 110, 130]]))[0, 0, 0]
    np.testing.assert_allclose(matched, [20, 22, 100, 118.428, 118.428, 130], rtol=1e-6)


def test_inside_the_nodes_nothing_is_lifted_beyond_where_forecasts_end_either():
    calibration = make_calibration([0.1, 100], [0.1, 200])
    assert calibration.calibrate_members(members_of([[90.0]]))[0, 0, 0] == np.float32(118.428)


def test_the_order_of_values_is_kept():
    rng = np.random.default_rng(0)
    nodes = 0.1 + np.sort(rng.gamma(0.5, 8, (2, 12)))
    nodes[0, 3:6] = nodes[0, 3]  # equal nodes: the map jumps there
    rain = np.sort(rng.gamma(0.5, 20, 1000)).astype(np.float32)
    matched = make_calibration(*nodes).calibrate_members(members_of([rain]))[0, 0, 0]
    assert (np.diff(matched) >= 0).all()
    assert ((matched == 0) | (matched >= np.float32(0.1))).all()


def test_each_lead_time_has_its_own_map():
    forecast_rain, radar_rain = np.full((2, 2), [0.1, 10]), np.array([[0.1, 10], [0.1, 5]])
    matched = match_rain(np.full((3, 2, 1, 1), 10, np.float32), forecast_rain, radar_rain)
    assert matched[:, 0].ravel().tolist() == [10] * 3
    assert matched[:, 1].ravel().tolist() == [5] * 3


def test_the_members_given_are_left_alone():
    rain = members_of([[0.0, 3.0, np.nan]])
    before = rain.copy()
    make_calibration([0.1, 1], [0.2, 2]).calibrate_members(rain)
    np.testing.assert_array_equal(rain, before)


# ---- probabilities -------------------------------------------------------------------------------


def test_the_chance_is_that_of_the_number_of_members():
    curves = [[0.1, 0.2, 0.6, 0.8, 0.9], [0, 0.1, 0.3, 0.5, 0.7], [0, 0.01, 0.02, 0.03, 0.04]]
    calibration = make_calibration([0.1, 1], [0.1, 1], curves)
    members = members_of([[0, 0.1, 1, 10], [0, 0.1, 1, 10], [0, 0, 0.5, 10], [0, 0, 0, 10]])
    chance = calibration.exceedance_probability(members)
    assert chance.shape == (3, NUM_LEADS, 1, 4)
    assert chance.dtype == np.float32
    expected = [[0.1, 0.6, 0.8, 0.9], [0, 0, 0.3, 0.7], [0, 0, 0, 0.04]]
    np.testing.assert_allclose(chance[:, 4, 0], expected)


def test_no_chance_exceeds_that_of_a_lower_threshold():
    curves = [[0, 0.1, 0.2, 0.3, 0.4], [0, 0.5, 0.5, 0.5, 0.5], [0, 0.2, 0.3, 0.9, 0.9]]
    calibration = make_calibration([0.1, 1], [0.1, 1], curves)
    chance = calibration.exceedance_probability(members_of([[20], [20], [20], [0]]))
    np.testing.assert_allclose(chance[:, 0, 0, 0], [0.3, 0.3, 0.3], rtol=1e-6)


def test_where_a_member_is_missing_there_is_no_chance():
    calibration = make_calibration([0.1, 1], [0.1, 1])
    chance = calibration.exceedance_probability(members_of([[1, np.nan, np.nan], [1, np.nan, 1]]))
    assert np.isnan(chance[:, 0, 0]).tolist() == [[False, True, True]] * 3


def test_the_chance_of_drawn_members_is_that_of_every_draw():
    # Of 4 members 2 reach the threshold: of the 6 pairs, 1 has none of them, 4 one, 1 both.
    np.testing.assert_allclose(draw_chance(4, 2)[2], [1 / 6, 4 / 6, 1 / 6])
    np.testing.assert_array_equal(draw_chance(4, 4), np.eye(5))
    for num_all, num_drawn in ((16, 8), (68, 34), (500, 250)):  # from 68 on beyond int64
        np.testing.assert_allclose(draw_chance(num_all, num_drawn).sum(axis=1), 1)


def test_fewer_members_say_less():
    """Rain came wherever 3 or 4 of 4 members had it: what a pair, and a single member, then say."""
    curves = [[0, 0, 0, 1, 1]] * 3
    num_forecasts = np.full((3, NUM_LEADS, 5), [4e9, 0, 0, 2e9, 4e9])
    calibration = make_calibration([0.1, 1], [0.1, 1], curves, num_forecasts=num_forecasts)

    def chances(num_wet: int, num_dry: int) -> float:
        members = members_of([[5.0]] * num_wet + [[0.0]] * num_dry)
        return calibration.exceedance_probability(members)[0, 0, 0, 0]

    assert chances(3, 1) == 1
    assert chances(0, 2) == chances(0, 4) == pytest.approx(0, abs=1e-6)
    assert chances(1, 1) == chances(2, 0) == pytest.approx(1)
    # A dry member: 4 of the 4 + 2 / 4 parts of the cases in which it may be so are dry.
    assert chances(0, 1) == pytest.approx(0.5 / 4.5)
    assert chances(1, 0) == pytest.approx(1)


@pytest.mark.parametrize("num_members", [1, 2, 3, 4, 7, 50])
def test_any_number_of_members_gives_chances_that_grow(num_members):
    rng = np.random.default_rng(num_members)
    curves = np.sort(rng.uniform(size=(3, 5))).tolist()
    num_forecasts = rng.integers(0, 3, (3, NUM_LEADS, 5)).astype(float)
    calibration = make_calibration([0.1, 1], [0.1, 1], curves, num_forecasts=num_forecasts)
    wet = [[20.0] * count + [0.0] * (num_members - count) for count in range(num_members + 1)]
    chance = calibration.exceedance_probability(members_of(np.transpose(wet)))
    assert ((chance >= 0) & (chance <= 1)).all()
    assert (np.diff(chance, axis=-1) >= 0).all()


def test_more_members_lie_between_the_shares_of_the_fit():
    calibration = make_calibration([0.1, 1], [0.1, 1], [[0, 0.2, 0.4, 0.8, 0.8]] * 3)
    members = members_of([[20.0]] * 5 + [[0.0]] * 3)  # 5 of 8, half way between 2 and 3 of 4
    assert calibration.exceedance_probability(members)[0, 0, 0, 0] == pytest.approx(0.6)


# ---- on disk -------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder with its calibration."""
    folder = tmp_path / "model"
    tiny_model().save_pretrained(folder)
    calibration = make_calibration([0.1, 1.25], [0.2, 2], model=model_fingerprint(folder))
    write_calibration(folder, calibration)
    return folder


def change(folder: Path, **changes: object) -> None:
    path = folder / CALIBRATION_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as error:
        read_calibration(folder)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_round_trip(folder: Path) -> None:
    back = read_calibration(folder)
    written = make_calibration([0.1, 1.25], [0.2, 2], model=model_fingerprint(folder))
    for name, value in vars(written).items():
        np.testing.assert_array_equal(vars(back)[name], value)
    assert isinstance(back.lead_minutes, tuple)


def test_a_row_of_numbers_is_a_line(folder: Path) -> None:
    lines = (folder / CALIBRATION_NAME).read_text().splitlines()
    assert '  "thresholds": [ 0.1, 1.0, 10.0 ],' in lines
    assert lines.count("    [ 0.1, 1.25 ],") == NUM_LEADS - 1


def test_a_missing_file_names_the_tool(folder: Path) -> None:
    (folder / CALIBRATION_NAME).unlink()
    assert f"python -m ldcast.calibrate --model {folder} --data" in refusal(folder)


@pytest.mark.parametrize("text", ["", "{", "[1]", "{}", "7", "[" * 100_000])
def test_a_broken_file(folder: Path, text: str) -> None:
    (folder / CALIBRATION_NAME).write_text(text)
    assert "broken" in refusal(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"extra": 1},
        {"radar_rain": [["x", "y"]] * NUM_LEADS},
        {"radar_rain": [[0.1, 1]] * 3},
        {"radar_rain": [[0.1, 1, 2]] * NUM_LEADS},
        {"radar_rain": [[0.01, 1]] * NUM_LEADS},
        {"forecast_rain": [[2, 1]] * NUM_LEADS},
        {"probability": [[[0.5, 1.5]] * NUM_LEADS] * 3},
        {"probability": [[[0.5, 0.6]] * NUM_LEADS] * 3},
        {"num_forecasts": [[[-1] * 5] * NUM_LEADS] * 3},
        {"radar_rain": [[0.1, float("inf")]] * NUM_LEADS},
        {"radar_rain": [[0.1, float("nan")]] * NUM_LEADS},
        {"radar_rain": [[0.1, 10**400]] * NUM_LEADS},
        {"num_forecasts": [[[float("inf")] * 5] * NUM_LEADS] * 3},
        {"num_forecasts": [[[float("nan")] * 5] * NUM_LEADS] * 3},
        {"thresholds": [1, 2]},
        {"thresholds": [0.1, 1, float("inf")]},
        {"thresholds": [0.1, 10, 1]},
        {"thresholds": ["0.1", "1", "10"]},
        {"judged": "well"},
        {"lead_minutes": None},
    ],
)
def test_what_is_no_calibration(folder: Path, changes: dict) -> None:
    change(folder, **changes)
    assert "broken" in refusal(folder)


def test_a_newer_format(folder: Path) -> None:
    change(folder, format_version=2)
    assert "has format 2, this code reads 1" in refusal(folder)


def test_other_lead_times(folder: Path) -> None:
    change(folder, lead_minutes=[10 * (frame + 1) for frame in range(NUM_LEADS)])
    assert "lead times" in refusal(folder)


def test_a_model_that_was_trained_since(folder: Path) -> None:
    tiny_model(seed=1).save_pretrained(folder)
    assert "trained or changed since" in refusal(folder)


def test_a_model_whose_settings_changed(folder: Path) -> None:
    path = folder / CONFIG_NAME
    config = json.loads(path.read_text())
    config["model"]["rain"]["log_mean"] += 0.1
    path.write_text(json.dumps(config))
    assert "trained or changed since" in refusal(folder)


def test_what_a_model_was_trained_on_is_no_setting(folder: Path) -> None:
    path = folder / CONFIG_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | {"trained_on": {"data": ["sun"]}}))
    read_calibration(folder)


@pytest.mark.parametrize("folder", ["bundled", BUNDLED])
def test_the_bundled_model_has_none(folder: str | Path) -> None:
    assert f"cp -r {BUNDLED} DIR" in refusal(folder)


@pytest.mark.parametrize(
    ("judged", "warning"),
    [
        ({}, ""),
        ({"summary": "worse", "is_harmful": False}, ""),
        ({"summary": "worse", "is_harmful": True}, "worse"),
    ],
)
def test_harm_is_a_warning(judged: dict, warning: str) -> None:
    assert make_calibration([0.1, 1], [0.1, 1], judged=judged).warning == warning


def test_forecasts_must_be_drawn_as_those_of_the_fit():
    calibration = make_calibration([0.1, 1], [0.1, 1])
    calibration.check_sampling("plms", 20)
    for sampler, num_steps in (("plms", 2), ("other", 20)):
        with pytest.raises(InputError, match="the calibration is for 20 steps of plms, got"):
            calibration.check_sampling(sampler, num_steps)
