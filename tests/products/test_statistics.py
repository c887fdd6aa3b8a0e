"""Statistics of an ensemble: what each is, lead time by lead time, and what cannot be asked for."""

import numpy as np
import pytest
import torch

from ldcast.errors import InputError
from ldcast.products.ensemble import exceedance_probability, probability_matched_mean
from ldcast.products.statistics import (
    STATISTICS_ENTRIES,
    Statistics,
    check_statistics,
    ensemble_statistics,
)

LEVELS = (0.0, 0.1, 0.5, 0.75, 1.0)


@pytest.fixture
def rain_rate() -> np.ndarray:
    """(5, 3, 6, 9) mm/h, half of it dry, with pixels that have no forecast."""
    rng = np.random.default_rng(0)
    rain = np.maximum(rng.normal(0, 5, (5, 3, 6, 9)), 0).astype(np.float32)
    rain[:, :, 0, :2] = np.nan
    return rain


def linear_quantile(values: list[float], level: float) -> float:
    ordered = sorted(values)
    below = int(level * (len(ordered) - 1))
    above = min(below + 1, len(ordered) - 1)
    share = level * (len(ordered) - 1) - below
    return (1 - share) * ordered[below] + share * ordered[above]


def test_nothing_is_there_that_was_not_asked_for(rain_rate: np.ndarray) -> None:
    assert ensemble_statistics(rain_rate).entries() == {}
    assert ensemble_statistics(rain_rate, thresholds=[1.0]).entries().keys() == {
        "exceedance_threshold",
        "exceedance_probability",
    }
    everything = ensemble_statistics(rain_rate, [1.0], [0.5], use_means=True)
    assert tuple(everything.entries()) == STATISTICS_ENTRIES
    assert all(values.dtype == np.float32 for values in everything.maps().values())


def test_probabilities_are_shares_of_the_members(rain_rate: np.ndarray) -> None:
    rain_rate[0, :, 3, 3] = 0.1
    statistics = ensemble_statistics(rain_rate, thresholds=(0.1, 5.0))
    assert statistics.exceedance_threshold.tolist() == [0.1, 5.0]
    assert statistics.exceedance_probability.shape == (2, 3, 6, 9)
    for threshold, found in zip((0.1, 5.0), statistics.exceedance_probability, strict=True):
        expected = exceedance_probability(torch.from_numpy(rain_rate), threshold)
        np.testing.assert_array_equal(found, expected)


def test_quantiles_are_those_of_numpy_and_of_the_definition(rain_rate: np.ndarray) -> None:
    quantile = ensemble_statistics(rain_rate, quantile_levels=LEVELS).quantile
    expected = np.quantile(rain_rate, LEVELS, axis=0, method="linear")
    np.testing.assert_allclose(quantile, expected, rtol=1e-6)  # stored as float32
    np.testing.assert_array_equal(quantile[0], rain_rate.min(axis=0))
    np.testing.assert_array_equal(quantile[-1], rain_rate.max(axis=0))
    by_hand = linear_quantile(rain_rate[:, 1, 4, 5].tolist(), 0.1)
    assert quantile[1, 1, 4, 5] == pytest.approx(by_hand, rel=1e-6)


def test_means(rain_rate: np.ndarray) -> None:
    statistics = ensemble_statistics(rain_rate, use_means=True)
    np.testing.assert_allclose(statistics.ensemble_mean, rain_rate.mean(axis=0), rtol=1e-6)
    expected = probability_matched_mean(torch.from_numpy(rain_rate))
    np.testing.assert_array_equal(statistics.probability_matched_mean, expected)


def test_a_lead_time_has_the_same_statistics_alone(rain_rate: np.ndarray) -> None:
    asked = {"thresholds": [1.0], "quantile_levels": [0.2, 0.9], "use_means": True}
    together = ensemble_statistics(rain_rate, **asked).maps()
    alone = ensemble_statistics(rain_rate[:, 1:2], **asked).maps()
    for name, values in together.items():
        np.testing.assert_array_equal(values[..., 1:2, :, :], alone[name])


def test_a_pixel_without_data_in_one_member_has_none_in_any_statistic(
    rain_rate: np.ndarray,
) -> None:
    rain_rate[2, 0, 5, 5] = np.nan  # the others have rain there
    without = rain_rate.copy()
    without[:, 0, 5, 5] = np.nan
    asked = {"thresholds": [1.0], "quantile_levels": [0.5], "use_means": True}
    found = ensemble_statistics(rain_rate, **asked).maps()
    expected = ensemble_statistics(without, **asked).maps()
    for name, values in found.items():
        assert np.isnan(values[..., 0, 5, 5]).all(), name
        # Among them the probability-matched mean, whose pool must not have the others' rain.
        np.testing.assert_array_equal(values, expected[name])


def test_one_member_is_its_own_statistics(rain_rate: np.ndarray) -> None:
    one = rain_rate[:1]
    statistics = ensemble_statistics(one, (0.1,), (0.3,), use_means=True)
    for values in (statistics.quantile[0], statistics.ensemble_mean):
        np.testing.assert_array_equal(values, one[0])
    np.testing.assert_array_equal(statistics.probability_matched_mean, one[0])


def test_the_members_stay_as_they_are(rain_rate: np.ndarray) -> None:
    rain_rate[0, 0, 4, 4] = np.nan
    before = rain_rate.copy()
    ensemble_statistics(rain_rate, [1.0], [0.5], use_means=True)
    np.testing.assert_array_equal(rain_rate, before)


@pytest.mark.parametrize("thresholds", [[0.0], [-1.0, 1.0], [1.0, 1.0], [5.0, 1.0], [np.inf]])
def test_thresholds_that_mean_nothing(thresholds: list[float], rain_rate: np.ndarray) -> None:
    with pytest.raises(InputError, match=f"thresholds {thresholds[0]:g}.* such as 0.1 1 5 10"):
        check_statistics(thresholds)
    with pytest.raises(InputError):
        ensemble_statistics(rain_rate, thresholds)


@pytest.mark.parametrize("levels", [[-0.1], [1.5], [0.5, 0.5], [0.9, 0.1], [np.nan]])
def test_levels_that_mean_nothing(levels: list[float]) -> None:
    with pytest.raises(InputError, match=f"levels {levels[0]:g}.* such as 0.1 0.5 0.9"):
        check_statistics(quantile_levels=levels)


def test_what_can_be_asked_for() -> None:
    check_statistics()
    check_statistics((0.1, 1, 5, 10), (0, 0.5, 1))


def test_half_a_statistic_is_none() -> None:
    with pytest.raises(AssertionError, match="only one of quantile_level and quantile"):
        Statistics(quantile_level=np.array([0.5]))
    with pytest.raises(AssertionError, match="exceedance_threshold"):
        Statistics(
            exceedance_threshold=np.array([1.0, 2.0]),
            exceedance_probability=np.zeros((1, 3, 6, 9), np.float32),
        )
