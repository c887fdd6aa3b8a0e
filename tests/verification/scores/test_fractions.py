"""Fractions skill score: by hand, against a plain loop, and against pysteps."""

import numpy as np
import pytest
import torch
from torch import Tensor

from ldcast.verification.scores.fractions import FractionsScore, window_sums

SCALES = (1, 2, 3, 4, 9, 16)
GENERATOR = torch.Generator()  # the score leaves nothing to chance


def draw_rain(*shape: int, seed: int = 0) -> Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).relu()


def score(members: Tensor, observation: Tensor, threshold: float = 1.0) -> dict[str, float]:
    fractions = FractionsScore(threshold, SCALES)
    sums = fractions.statistics(members, observation, GENERATOR)
    assert sums.shape == (3 * len(SCALES),)
    assert sums.dtype == torch.float64
    return {name: float(value) for name, value in fractions.values(sums.numpy()).items()}


def sum_slowly(field: Tensor, size: int) -> Tensor:
    """A window of even size reaches one pixel further up and left."""
    sums = torch.zeros_like(field)
    for y in range(field.shape[0]):
        for x in range(field.shape[1]):
            top, left = y - size // 2, x - size // 2
            window = field[max(top, 0) : max(top + size, 0), max(left, 0) : max(left + size, 0)]
            sums[y, x] = window.sum()
    return sums


def test_score_as_by_hand():
    # One row. Probabilities 1/2 0 0 and 0 1 0 observed; in windows of 3 x 3 pixels, of which two
    # rows are outside, that is (1/2 1/2 0) / 9 and (1 1 1) / 9.
    members = torch.tensor([[[1.0, 0.0, 0.0]], [[0.0, 0.0, 0.0]]])
    observation = torch.tensor([[0.0, 2.0, 0.0]])
    scores = score(members, observation)
    assert scores["fss_1mm_1px"] == 0
    assert scores["fss_1mm_3px"] == pytest.approx(1 - 1.5 / (0.5 + 3))
    sums = FractionsScore(1.0, (1, 3)).statistics(members, observation, GENERATOR)
    expected = [1.25, 0.25, 1, 1.5 / 81, 0.5 / 81, 3 / 81]
    torch.testing.assert_close(sums, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8, 20])
def test_window_sums_are_those_of_a_loop(size):
    field = torch.randint(9, (7, 10), generator=torch.Generator().manual_seed(size)).double()
    assert torch.equal(window_sums(field, size), sum_slowly(field, size))
    both = window_sums(torch.stack([field, 2 * field]), size)
    assert torch.equal(both[1], 2 * both[0])


def test_windows_past_the_rain_are_exactly_empty():
    probability = torch.zeros(3, 40)
    probability[:, :9] = torch.rand(3, 9)  # float32, as shares of members are
    assert not window_sums(probability.double(), 4)[:, 12:].any()


def test_ensemble_scores_as_in_a_loop():
    members, observation = draw_rain(3, 9, 13), draw_rain(9, 13, seed=1)
    scores = score(members, observation)
    for scale in SCALES:
        f = sum_slowly((members >= 1).double().mean(dim=0), scale) / scale**2
        o = sum_slowly((observation >= 1).double(), scale) / scale**2
        expected = 1 - ((f - o) ** 2).sum() / ((f**2).sum() + (o**2).sum())
        assert scores[f"fss_1mm_{scale}px"] == pytest.approx(expected.item(), rel=1e-6)


def test_one_member_scores_as_in_pysteps():
    reason = "compares with pysteps, which is not installed"
    pysteps = pytest.importorskip("pysteps.verification.spatialscores", reason=reason)
    member, observation = draw_rain(21, 34), draw_rain(21, 34, seed=1)
    member[:5, :7] = observation[:5, :7] = torch.nan
    scores = score(member[None], observation)
    for scale in SCALES:
        expected = pysteps.fss(member.numpy(), observation.numpy(), 1.0, scale)
        assert scores[f"fss_1mm_{scale}px"] == pytest.approx(expected, rel=1e-9)


def test_perfect_forecast_scores_one_and_a_neighbour_more_at_larger_scales():
    observation = draw_rain(20, 30)
    assert set(score(observation[None], observation).values()) == {1.0}
    shifted = score(observation.roll(2, dims=1)[None], observation)
    assert shifted["fss_1mm_1px"] < shifted["fss_1mm_4px"] < shifted["fss_1mm_16px"] < 1


def test_threshold_itself_counts_as_exceeded():
    rain = torch.full((4, 5), 0.1)
    assert score(rain[None], rain, threshold=0.1)["fss_0.1mm_1px"] == 1


def test_pixels_not_scored_count_as_no_exceedance():
    members, observation = draw_rain(4, 12, 10), draw_rain(12, 10, seed=1)
    members[:, 3:6], observation[3:6] = 0, 0
    expected = score(members, observation)
    members[:, 3:6], observation[3:6] = torch.nan, torch.nan
    assert score(members, observation) == expected


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("rain_rate", [torch.nan, 0.5])
def test_score_is_unknown_where_nothing_exceeds(rain_rate):
    rain = torch.full((5, 6), rain_rate)
    assert all(np.isnan(list(score(rain.repeat(3, 1, 1), rain).values())))


def test_sums_of_two_cases_are_those_of_both_and_values_take_any_leading_axes():
    fractions = FractionsScore(1.0, (1, 4))
    cases = [(draw_rain(2, 8, 8, seed=k), draw_rain(8, 8, seed=k + 9)) for k in range(2)]
    sums = torch.stack([fractions.statistics(*case, GENERATOR) for case in cases]).numpy()
    apart = torch.zeros(3, 24, 8)  # far enough from each other to share no window
    apart[:, :8] = torch.cat([cases[0][0], cases[0][1][None]])
    apart[:, 16:] = torch.cat([cases[1][0], cases[1][1][None]])
    both = fractions.values(fractions.statistics(apart[:2], apart[2], GENERATOR).numpy())
    pooled = fractions.values(sums.sum(axis=0))
    assert pooled["fss_1mm_1px"] == pytest.approx(both["fss_1mm_1px"])

    nested = fractions.values(sums.reshape(1, 2, -1))
    for k in range(2):
        for name, value in fractions.values(sums[k]).items():
            assert nested[name].shape == (1, 2)
            assert nested[name][0, k] == value
