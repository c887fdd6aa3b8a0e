"""CSI of the probability-matched mean: by hand, and against pysteps."""

import numpy as np
import pytest
import torch
from torch import Tensor

from ldcast.products.ensemble import probability_matched_mean
from ldcast.verification.scores.categorical import MatchedMeanScore

THRESHOLDS = (0.1, 1.0, 10.0)
GENERATOR = torch.Generator()  # the score leaves nothing to chance


def draw_rain(*shape: int, seed: int = 0) -> Tensor:
    return 6 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).relu()


def score(members: Tensor, observation: Tensor) -> dict[str, float]:
    matched_mean = MatchedMeanScore(THRESHOLDS)
    sums = matched_mean.statistics(members, observation, GENERATOR)
    assert sums.shape == (2 * len(THRESHOLDS),)
    assert sums.dtype == torch.float64
    return {name: float(value) for name, value in matched_mean.values(sums.numpy()).items()}


def test_score_as_by_hand():
    # The matched mean is 2 8 0: at 1 mm/h one hit, one false alarm, one miss.
    members = torch.tensor([[[0.0, 4.0, 1.0]], [[2.0, 8.0, 0.0]]])
    scores = score(members, torch.tensor([[0.0, 1.0, 3.0]]))
    assert scores["csi_pmm_1mm"] == pytest.approx(1 / 3)
    assert np.isnan(scores["csi_pmm_10mm"])


def test_threshold_itself_counts_as_reached():
    rain = torch.tensor([[0.1, 1.0, 0.0]])
    scores = score(rain[None], rain)
    assert (scores["csi_pmm_0.1mm"], scores["csi_pmm_1mm"]) == (1, 1)


@pytest.mark.parametrize("num_members", [1, 4])
def test_score_is_that_of_pysteps(num_members):
    reason = "compares with pysteps, which is not installed"
    pysteps = pytest.importorskip("pysteps.verification.detcatscores", reason=reason)
    members, observation = draw_rain(num_members, 17, 23), draw_rain(17, 23, seed=1)
    members[:, :4], observation[:4] = torch.nan, torch.nan
    scores = score(members, observation)
    matched = probability_matched_mean(members).numpy()
    for threshold in THRESHOLDS:  # pysteps wants more than the threshold: no value is equal to it
        expected = pysteps.det_cat_fct(matched, observation.numpy(), threshold, "CSI")["CSI"]
        assert scores[f"csi_pmm_{threshold:g}mm"] == pytest.approx(float(expected))


def test_pixels_not_scored_take_no_part():
    members, observation = draw_rain(3, 8, 10), draw_rain(8, 10, seed=1)
    expected = score(members[:, 2:], observation[2:])
    members[:, :2], observation[:2] = torch.nan, torch.nan
    assert score(members, observation) == expected


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("rain_rate", [torch.nan, 0.05])
def test_score_is_unknown_without_event_and_forecast(rain_rate):
    rain = torch.full((5, 6), rain_rate)
    assert all(np.isnan(list(score(rain.repeat(3, 1, 1), rain).values())))


def test_cases_are_counted_together_and_values_take_any_leading_axes():
    matched_mean = MatchedMeanScore(THRESHOLDS)
    cases = [(draw_rain(1, 6, 7, seed=k), draw_rain(6, 7, seed=k + 9)) for k in range(2)]
    sums = torch.stack([matched_mean.statistics(*case, GENERATOR) for case in cases]).numpy()
    both = [torch.cat(parts, dim=-2) for parts in zip(*cases, strict=True)]
    pooled = matched_mean.values(sums.sum(axis=0))
    assert {name: float(value) for name, value in pooled.items()} == score(*both)
    nested = matched_mean.values(sums.reshape(2, 1, -1))
    for k in range(2):
        for name, value in matched_mean.values(sums[k]).items():
            assert nested[name].shape == (2, 1)
            assert nested[name][k, 0] == value
