"""Skill: pooled, of the median case, and its interval, all against hand-computed numbers."""

import numpy as np
import pytest
import torch
from torch import Tensor

from ldcast.verification.skill import MIN_REFERENCE, median_skill, skill, skill_table
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


def test_table():
    ours, reference = Tally([MeanError()]), Tally([MeanError()])
    observation = torch.zeros(2, 1, 1)
    cases, reference_cases = [], []
    # Event 0 twice and event 1 once; two lead times.
    for event, errors, reference_errors in [
        (0, (1, 2), (2, 4)),
        (0, (3, 2), (4, 4)),
        (1, (2, 2), (6, 1)),
    ]:
        for tally, of_cases, error in (
            (ours, cases, errors),
            (reference, reference_cases, reference_errors),
        ):
            members = torch.tensor(error, dtype=torch.float32)[None, :, None, None]
            of_cases.append(tally.add(event, members, observation, seed=0))
    draws = np.array([[1, 1]] * 8 + [[2, 0], [0, 2]])
    kinds = skill_table(ours, reference, cases, reference_cases, draws)["fair_crps_1px"]
    np.testing.assert_allclose(kinds["pooled"], [1 - 6 / 12, 1 - 6 / 9])
    np.testing.assert_allclose(kinds["median"], [0.5, 0.5])
    assert kinds["num_cases"].tolist() == [3, 3]
    # Event 0 alone gives 1/3 and 1/2, event 1 alone 2/3 and -1.
    resampled = np.sort([0.5] * 8 + [1 / 3, 2 / 3])
    np.testing.assert_allclose(kinds["low"][0], np.quantile(resampled, 0.05))
    np.testing.assert_allclose(kinds["high"][0], np.quantile(resampled, 0.95))
    assert kinds["mean"]["pooled"] == pytest.approx(1 - 12 / 21)
    assert kinds["mean"]["median"] == pytest.approx(3 / 7)  # of 1/2, 3/8 and 3/7
    assert "low" not in skill_table(ours, reference, cases, reference_cases, None)["fair_crps_1px"]
