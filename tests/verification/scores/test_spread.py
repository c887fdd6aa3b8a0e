"""Spread against error: by hand, and a ratio of 1 for a reliable ensemble of any size."""

import numpy as np
import pytest
import torch
from torch import Tensor

from ldcast.verification.scores.spread import SpreadScore

SCORE = SpreadScore()


def normal(num: int, height: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(num, height, width, generator=torch.Generator().manual_seed(seed))


def sums_of(members: Tensor, observation: Tensor) -> Tensor:
    return SCORE.statistics(members, observation, torch.Generator())


def values_of(members: Tensor, observation: Tensor) -> dict[str, float]:
    values = SCORE.values(sums_of(members, observation).numpy())
    return {name: value.item() for name, value in values.items()}


def test_by_hand():
    """Means 2 and 5 of three members where 4 and 5 fell; unbiased variances 1 and 9."""
    members = torch.tensor([[[1.0, 2.0]], [[2.0, 5.0]], [[3.0, 8.0]]])
    values = values_of(members, torch.tensor([[4.0, 5.0]]))
    assert values["rmse"] == pytest.approx(np.sqrt((4 + 0) / 2))
    assert values["spread"] == pytest.approx(np.sqrt((1 + 9) / 2))
    assert values["spread_error_ratio"] == pytest.approx(np.sqrt(4 / 3 * 5 / 2))


def test_error_of_the_mean_agrees_with_pysteps():
    detcontscores = pytest.importorskip(
        "pysteps.verification.detcontscores", reason="pysteps, to compare with, is not installed"
    )
    members, observation = normal(7, 30, 50).double().exp(), normal(1, 30, 50, 1).double().exp()[0]
    expected = detcontscores.det_cont_fct(members.mean(dim=0).numpy(), observation.numpy(), "RMSE")
    assert values_of(members, observation)["rmse"] == pytest.approx(expected["RMSE"], rel=1e-9)


def test_spread_agrees_with_pysteps():
    """Its spread is the mean distance of pairs of members: of two, sqrt(2) standard deviations."""
    ensscores = pytest.importorskip(
        "pysteps.verification.ensscores", reason="pysteps, to compare with, is not installed"
    )
    members = normal(2, 30, 50).double().exp()
    expected = ensscores.ensemble_spread(members.numpy(), "RMSE") / np.sqrt(2)
    assert values_of(members, members[0])["spread"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("num_members", [2, 3, 16])
def test_a_reliable_ensemble_has_a_ratio_of_1(num_members):
    """Not so without the correction: two members would have 0.82."""
    rain_rate = normal(num_members + 1, 200, 300) * torch.linspace(0.1, 3, 300)
    values = values_of(rain_rate[1:], rain_rate[0])
    assert values["spread_error_ratio"] == pytest.approx(1, abs=0.03)


def test_too_narrow_an_ensemble_has_a_ratio_below_1():
    rain_rate = normal(9, 100, 150)
    assert values_of(rain_rate[1:] / 2, rain_rate[0])["spread_error_ratio"] < 0.6


def test_pixels_without_data_are_left_out():
    rain_rate = normal(5, 8, 12)
    rain_rate[:, 2:, 4:9] = torch.nan
    is_valid = ~rain_rate[0].isnan()
    members, observation = rain_rate[1:, is_valid], rain_rate[0, is_valid]
    values = values_of(rain_rate[1:], rain_rate[0])
    rmse = (members.mean(dim=0) - observation).square().mean().sqrt().item()
    assert values["rmse"] == pytest.approx(rmse, rel=1e-5)
    spread = members.var(dim=0, correction=1).mean().sqrt().item()
    assert values["spread"] == pytest.approx(spread, rel=1e-5)


@pytest.mark.filterwarnings("error")
def test_one_member_has_an_error_but_no_spread():
    values = values_of(torch.tensor([[[1.0, 2.0]]]), torch.tensor([[4.0, 6.0]]))
    assert values["rmse"] == pytest.approx(np.sqrt((9 + 16) / 2))
    assert np.isnan([values["spread"], values["spread_error_ratio"]]).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("num_members", [1, 4])
def test_nothing_to_score_is_nan(num_members):
    nothing = torch.full((num_members + 1, 5, 7), torch.nan)
    assert np.isnan(list(values_of(nothing[1:], nothing[0]).values())).all()


@pytest.mark.filterwarnings("error")
def test_no_error_has_no_ratio():
    values = values_of(torch.tensor([[[1.0]], [[3.0]]]), torch.tensor([[2.0]]))
    assert (values["rmse"], values["spread"]) == (0, pytest.approx(np.sqrt(2)))
    assert np.isnan(values["spread_error_ratio"])


def test_sums_of_two_cases_are_those_of_both_at_once():
    cases = [normal(6, 10, 14, seed) for seed in range(2)]
    apart = [sums_of(case[1:], case[0]) for case in cases]
    both = torch.cat(cases, dim=-1)
    assert apart[0].dtype == torch.float64
    torch.testing.assert_close(apart[0] + apart[1], sums_of(both[1:], both[0]))
    values = SCORE.values((apart[0] + 3 * apart[1]).numpy())  # a case drawn three times
    assert values["spread_error_ratio"] == pytest.approx(1, abs=0.15)


def test_values_of_many_sums():
    cases = [normal(6, 10, 14, seed) for seed in range(6)]
    sums = np.stack([sums_of(case[1:], case[0]) for case in cases])
    values = SCORE.values(sums.reshape(2, 3, -1))
    for name in values:
        assert values[name].shape == (2, 3)
        assert values[name][1, 2] == SCORE.values(sums[5])[name]


def test_a_small_error_beside_a_large_one_is_not_rounded_away():
    sums = sums_of(torch.zeros(2, 1, 2), torch.tensor([[4096.0, 1.0]]))
    assert sums.tolist() == [2**24 + 1, 0, 2, 4]  # float32 ends at 2^24
