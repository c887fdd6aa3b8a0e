"""CRPS: by hand, against the double sum and pysteps; means over blocks; sums over cases."""

import numpy as np
import pytest
import torch
from torch import Tensor

from ldcast.verification.scores.crps import (
    CRPSScore,
    block_mean,
    crps_ensemble,
    fair_crps,
    log_rain,
)

NAMES = ("crps", "fair_crps", "crps_log_rain", "fair_crps_log_rain")
DRY = np.log10(0.02)


def some_rain(num_members: int, height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Members and observation with a third of the pixels dry, and a corner without data."""
    generator = torch.Generator().manual_seed(seed)
    rain_rate = 3 * torch.randn(num_members + 1, height, width, generator=generator) + 1
    rain_rate = rain_rate.relu()
    rain_rate[:, :2, :3] = torch.nan
    return rain_rate[1:], rain_rate[0]


def scores_of(score: CRPSScore, members: Tensor, observation: Tensor) -> dict[str, float]:
    sums = score.statistics(members, observation, torch.Generator()).numpy()
    return {name: value.item() for name, value in score.values(sums).items()}


def brute_force(members: Tensor, observation: Tensor, num_pairs: int) -> Tensor:
    crps = torch.zeros_like(observation)
    for first in members:
        crps += (first - observation).abs() / len(members)
        for second in members:
            crps -= (first - second).abs() / (2 * num_pairs)
    return crps


def test_crps_with_ties_as_by_hand():
    members, observation = torch.tensor([[0.0], [0.0], [0.0], [1.0]]), torch.zeros(1)
    assert crps_ensemble(members, observation).item() == 1 / 16
    assert fair_crps(members, observation).item() == 0


@pytest.mark.parametrize("num_members", [2, 3, 8, 11, 16, 21])
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


@pytest.mark.parametrize("size", [2, 64])
def test_equal_rain_has_equal_block_means_in_any_order(size):
    generator = torch.Generator().manual_seed(0)
    pixels = 10 ** (3 * torch.rand(size**2, generator=generator) - 1)  # 0.1 to 100 mm/h
    shuffled = torch.stack([pixels[torch.randperm(size**2, generator=generator)] for _ in range(5)])
    means = block_mean(shuffled.reshape(5, size, size), size)
    observed = block_mean(pixels.reshape(size, size), size)
    assert (means == observed).all()
    assert observed.item() == pytest.approx(pixels.double().mean().item(), rel=1e-7)


def test_the_mean_over_blocks_of_one_pixel_is_the_pixel():
    rain_rate = some_rain(2, 5, 7)[0]
    torch.testing.assert_close(block_mean(rain_rate, 1), rain_rate, rtol=0, atol=0, equal_nan=True)


# ---- log rain ------------------------------------------------------------------------------------


def test_log_rain_of_little_is_that_of_none():
    rain_rate = torch.tensor([0, 0.05, 0.0999, 0.1, 1, 100, torch.nan])
    expected = torch.tensor([DRY, DRY, DRY, -1, 0, 2, torch.nan])
    torch.testing.assert_close(log_rain(rain_rate), expected.float(), equal_nan=True)


# ---- CRPSScore -----------------------------------------------------------------------------------


def test_all_four_scores_by_hand():
    """Two pixels: 0, 0, 0, 1 mm/h where 0 fell, and 0.05 mm/h from all where 10 fell."""
    members = torch.tensor([[[0, 0.05]], [[0, 0.05]], [[0, 0.05]], [[1, 0.05]]])
    scores = scores_of(CRPSScore(1), members, torch.tensor([[0.0, 10.0]]))
    assert set(scores) == {f"{name}_1px" for name in NAMES}
    assert scores["crps_1px"] == pytest.approx((1 / 16 + 9.95) / 2)
    assert scores["fair_crps_1px"] == pytest.approx((0 + 9.95) / 2)
    assert scores["crps_log_rain_1px"] == pytest.approx((-DRY / 16 + 1 - DRY) / 2)
    assert scores["fair_crps_log_rain_1px"] == pytest.approx((0 + 1 - DRY) / 2)


@pytest.mark.parametrize("size", [1, 3])
def test_scores_are_means_over_the_blocks_with_data(size):
    members, observation = some_rain(5, 7, 11)
    scores = scores_of(CRPSScore(size), members, observation)
    members, observation = block_mean(members, size), block_mean(observation, size)
    assert observation.isnan().any()
    expected = [
        crps(*fields).nanmean().item()
        for fields in [(members, observation), (log_rain(members), log_rain(observation))]
        for crps in (crps_ensemble, fair_crps)
    ]
    assert list(scores) == [f"{name}_{size}px" for name in NAMES]
    assert list(scores.values()) == pytest.approx(expected, rel=1e-5)


def test_one_member_has_one_error_in_both_forms():
    scores = scores_of(CRPSScore(1), torch.tensor([[[1.0, 5.0]]]), torch.tensor([[10.0, 5.0]]))
    assert list(scores.values()) == pytest.approx([4.5, 4.5, 0.5, 0.5])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [1, 8])
def test_nothing_to_score_is_nan(size):
    members = torch.full((3, 5, 7), torch.nan)
    assert np.isnan(list(scores_of(CRPSScore(size), members, members[0]).values())).all()


def test_sums_of_two_cases_are_those_of_both_at_once():
    score, generator = CRPSScore(2), torch.Generator()
    cases = [some_rain(4, 6, 8, seed) for seed in range(2)]
    apart = [score.statistics(*case, generator) for case in cases]
    both = [torch.cat(fields, dim=-1) for fields in zip(*cases, strict=True)]
    assert apart[0].dtype == torch.float64
    torch.testing.assert_close(apart[0] + apart[1], score.statistics(*both, generator))


def test_values_of_many_sums():
    score = CRPSScore(1)
    sums = np.stack(
        [score.statistics(*some_rain(4, 6, 8, seed), torch.Generator()) for seed in range(6)]
    )
    values = score.values(sums.reshape(2, 3, -1))
    for name in values:
        assert values[name].shape == (2, 3)
        assert values[name][1, 2] == score.values(sums[5])[name]
