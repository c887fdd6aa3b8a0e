"""Skill: pooled, of the median case, and its interval, all against hand-computed numbers."""

import numpy as np
import pytest
import torch
from torch import Tensor

from ldcast.verification.skill import MIN_REFERENCE, mean_of_leads, median_skill, skill, skill_table
from ldcast.verification.tally import Tally

NAN = np.nan


@pytest.mark.filterwarnings("error")
def test_skill():
    scores, references = np.array([1.0, 2, 0, 3, 1]), np.array([2.0, 1, 2, 0, NAN])
    np.testing.assert_array_equal(skill(scores, references), [0.5, -1, 1, NAN, NAN])


@pytest.mark.filterwarnings("error")
def test_every_case_with_rain_has_one_vote():
    references = np.array([[1, 1], [10, 1], [1, 0], [1, MIN_REFERENCE]], dtype=float)
    scores = np.array([[0.9, NAN], [1, 2], [0.8, 5], [0.7, 5]])
    median, num_cases = median_skill(scores[:, [0]], references[:, [0]])
    assert num_cases == [4]
    assert median == pytest.approx([0.25])  # of 0.1, 0.9, 0.2 and 0.3; pooled it is 0.74
    median, num_cases = median_skill(scores[1:], references[1:])
    assert num_cases.tolist() == [3, 1]  # dry and nearly dry references do not count
    assert median[1] == -1
    median, num_cases = median_skill(scores[2:, [1]], references[2:, [1]])
    assert num_cases == [0] and np.isnan(median)


class MeanError:
    """The mean of the members' mean error, under a name that skill knows."""

    def statistics(self, members: Tensor, observation: Tensor, generator) -> Tensor:
        error = (members - observation).abs().mean(dim=0)
        return torch.stack([error.sum(), torch.tensor(error.numel())]).double()

    def values(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        return {"fair_crps_1px": sums[..., 0] / sums[..., 1]}


def tallies() -> tuple[Tally, Tally]:
    """Of a forecaster and its reference: event a twice and event b once; two lead times."""
    pair = Tally([MeanError()]), Tally([MeanError()])
    for event, *errors in [("a", (1, 2), (2, 4)), ("a", (3, 2), (4, 4)), ("b", (2, 2), (6, 1))]:
        for tally, error in zip(pair, errors, strict=True):
            members = torch.tensor(error, dtype=torch.float32)[None, :, None, None]
            tally.add(event, members, torch.zeros(2, 1, 1), seed=0)
    return pair


@pytest.fixture(autouse=True)
def one_score(monkeypatch):
    for module in ("tally", "skill"):
        monkeypatch.setattr(f"ldcast.verification.{module}.CASE_SCORES", ("fair_crps_1px",))


def test_table():
    draws = np.array([[1, 1]] * 8 + [[2, 0], [0, 2]])
    kinds = skill_table(*tallies(), draws, np.array([True, True]))["fair_crps_1px"]
    np.testing.assert_allclose(kinds["pooled"], [1 - 6 / 12, 1 - 6 / 9])
    np.testing.assert_allclose(kinds["median"], [0.5, 0.5])
    assert kinds["num_cases"].tolist() == [3, 3]
    # Event a alone gives 1/3 and 1/2, event b alone 2/3 and -1.
    resampled = np.sort([0.5] * 8 + [1 / 3, 2 / 3])
    np.testing.assert_allclose(kinds["low"][0], np.quantile(resampled, 0.05))
    np.testing.assert_allclose(kinds["high"][0], np.quantile(resampled, 0.95))
    assert kinds["mean"]["pooled"] == pytest.approx(1 - 12 / 21)
    assert kinds["mean"]["median"] == pytest.approx(3 / 7)  # of 1/2, 3/8 and 3/7


def test_table_without_draws_and_with_fewer_leads():
    kinds = skill_table(*tallies(), None, np.array([True, False]))["fair_crps_1px"]
    assert "low" not in kinds and "low" not in kinds["mean"]
    assert kinds["mean"]["pooled"] == pytest.approx(1 - 6 / 12)


@pytest.mark.filterwarnings("error")
def test_mean_of_the_leads_that_both_know():
    scores = np.array([[1, 2, NAN], [NAN, NAN, NAN]])
    references = np.array([[4, NAN, 5], [1, 2, 3.0]])
    means = mean_of_leads(scores, references, np.array([True, True, True]))
    np.testing.assert_array_equal(means[0], [1, NAN])
    np.testing.assert_array_equal(means[1], [4, NAN])
