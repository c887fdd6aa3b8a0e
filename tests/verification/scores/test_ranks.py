"""Rank histogram: by hand, ties shared fairly, against pysteps, and flat where it should be."""

import numpy as np
import pytest
import torch
from torch import Tensor

from ldcast.verification.scores.crps import block_mean
from ldcast.verification.scores.ranks import RankScore


def ranks_of(members: Tensor, observation: Tensor, size: int = 1, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return RankScore(size).statistics(members, observation, generator)


def normal(num: int, height: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(num, height, width, generator=torch.Generator().manual_seed(seed))


def test_ranks_by_hand():
    members = torch.tensor([[[3.0, 1.0, 2.0]], [[5.0, 1.0, 4.0]]])
    observation = torch.tensor([[4.0, 7.0, 8.0]])  # between the members, above, above
    counts = ranks_of(members, observation)
    assert counts.tolist() == [0, 1, 2]
    values = RankScore(1).values(counts.numpy())
    assert list(values) == ["rank_histogram_1px", "rank_divergence_1px"]
    assert values["rank_histogram_1px"].tolist() == [0, 1 / 3, 2 / 3]
    expected = np.log(1 / 3 * 3) / 3 + 2 / 3 * np.log(2 / 3 * 3)
    assert values["rank_divergence_1px"] == pytest.approx(expected)


def test_divergence_is_0_for_flat_and_largest_for_one_rank():
    values = RankScore(8).values(np.array([[5.0, 5, 5, 5], [0, 0, 9, 0]]))
    assert values["rank_divergence_8px"] == pytest.approx([0, np.log(4)])
    assert values["rank_histogram_8px"].tolist() == [[0.25] * 4, [0, 0, 1, 0]]


def test_ties_are_drawn_evenly_from_the_ranks_that_they_span():
    """It is dry; two members are too, two are not: ranks 0, 1 and 2 are as likely."""
    members = torch.tensor([0.0, 1.0, 0.0, 2.0])[:, None, None].expand(4, 200, 300)
    counts = ranks_of(members, torch.zeros(200, 300))
    assert counts[3:].tolist() == [0, 0]
    assert counts.sum() == 60_000
    assert counts[:3].tolist() == pytest.approx([20_000] * 3, abs=500)  # 4 standard errors


def test_draws_come_from_the_generator_alone():
    members, observation = torch.zeros(5, 30, 40), torch.zeros(30, 40)
    first = ranks_of(members, observation, seed=1)
    torch.manual_seed(99)
    assert ranks_of(members, observation, seed=1).equal(first)
    assert not ranks_of(members, observation, seed=2).equal(first)


def test_members_like_the_observation_have_flat_ranks_and_too_narrow_ones_do_not():
    rain_rate = normal(10, 200, 300)
    counts = ranks_of(rain_rate[1:], rain_rate[0])
    values = RankScore(1).values(counts.numpy())
    assert values["rank_histogram_1px"] == pytest.approx([0.1] * 10, abs=0.005)  # 4 standard errors
    assert values["rank_divergence_1px"] < 4e-4  # 9 / (2 * 60000) is expected by chance
    counts = ranks_of(rain_rate[1:] / 2, rain_rate[0])
    assert RankScore(1).values(counts.numpy())["rank_divergence_1px"] > 0.1


def test_ranks_agree_with_pysteps():
    ensscores = pytest.importorskip(
        "pysteps.verification.ensscores", reason="pysteps, to compare with, is not installed"
    )
    rain_rate = normal(9, 20, 30)
    rain_rate[0] += 0.5
    counts = ranks_of(rain_rate[1:], rain_rate[0])
    expected = ensscores.rankhist(rain_rate[1:].numpy(), rain_rate[0].numpy(), normalize=False)
    assert counts.tolist() == expected.tolist()


def test_no_data_has_no_rank():
    rain_rate = normal(6, 10, 14)
    rain_rate[:, 3:7, 2:5] = torch.nan
    counts = ranks_of(rain_rate[1:], rain_rate[0])
    assert counts.sum() == 10 * 14 - 4 * 3
    is_valid = ~rain_rate[0].isnan()
    assert counts.equal(ranks_of(rain_rate[1:, is_valid], rain_rate[0, is_valid]))  # no ties


@pytest.mark.filterwarnings("error")
def test_nothing_to_rank_is_nan():
    nothing = torch.full((4, 5, 7), torch.nan)
    values = RankScore(8).values(ranks_of(nothing[1:], nothing[0], size=8).numpy())
    assert np.isnan(values["rank_histogram_8px"]).all()
    assert values["rank_histogram_8px"].shape == (4,)
    assert np.isnan(values["rank_divergence_8px"])


def test_one_member_has_two_ranks():
    observation = torch.tensor([[1.0, 2.0, 3.0]])
    assert ranks_of(torch.full((1, 1, 3), 1.5), observation).tolist() == [1, 2]


def test_blocks_are_ranked_by_their_means():
    """The same rain elsewhere in the block is a tie, not a rank that rounding decides."""
    rain_rate = normal(5, 10, 14).abs() + 0.1
    rain_rate[1:3] = rain_rate[0].unflatten(-1, (7, 2)).flip(-1).flatten(-2)  # pairs change places
    means = block_mean(rain_rate, 2)
    assert (means[1:3] == means[0]).all()
    counts = ranks_of(rain_rate[1:3], rain_rate[0], size=2)
    assert counts.sum() == 35
    assert (counts > 3).all()
    counts = ranks_of(rain_rate[3:], rain_rate[0], size=2)
    assert counts.equal(ranks_of(means[3:], means[0]))


def test_sums_of_two_cases_are_those_of_both_at_once():
    cases = [normal(6, 10, 14, seed) for seed in range(2)]
    apart = [ranks_of(case[1:], case[0]) for case in cases]
    both = torch.cat(cases, dim=-1)
    assert apart[0].dtype == torch.float64
    assert (apart[0] + apart[1]).equal(ranks_of(both[1:], both[0]))


def test_values_of_many_sums():
    score = RankScore(1)
    sums = np.random.default_rng(0).integers(0, 9, (2, 3, 5)).astype(float)
    values = score.values(sums)
    assert values["rank_histogram_1px"].shape == (2, 3, 5)
    assert values["rank_divergence_1px"].shape == (2, 3)
    for name in values:
        assert values[name][1, 2] == pytest.approx(score.values(sums[1, 2])[name])
