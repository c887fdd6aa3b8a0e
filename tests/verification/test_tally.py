"""Tally: sums over cases and events, resampled events, intervals."""

import numpy as np
import pytest
import torch
from torch import Tensor

from ldcast.verification.tally import NUM_RESAMPLES, Tally, draw_events, interval


class MeanAndShares:
    """The mean of the observation; and shares of two kinds of it, as a histogram would be."""

    def statistics(self, members: Tensor, observation: Tensor, generator) -> Tensor:
        noise = torch.rand((), generator=generator)
        is_valid = ~observation.isnan()
        high = (observation > 2).sum()
        sums = [observation.nansum(), is_valid.sum(), high, is_valid.sum() - high, noise]
        return torch.stack([value.double() for value in sums])

    def values(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        with np.errstate(invalid="ignore"):
            mean = sums[..., 0] / sums[..., 1]
            return {"mean": mean, "shares": sums[..., 2:4] / sums[..., 1:2], "noise": sums[..., 4]}


def frames(*values: float) -> Tensor:
    """An observation (T, 2, 3) of so many constant frames."""
    return torch.tensor(values)[:, None, None].expand(-1, 2, 3)


def filled() -> Tally:
    tally = Tally([MeanAndShares()])
    members = torch.zeros(2, 2, 2, 3)
    tally.add("b", members, frames(1, 2), seed=0)
    tally.add("a", members, frames(3, torch.nan), seed=1)
    tally.add("b", members, frames(5, 8), seed=2)
    return tally


def test_cases_are_pooled_by_their_pixels_at_each_lead_time():
    values = filled().values()
    assert values["mean"].tolist() == [3, 5]
    assert values["shares"].tolist() == [[2 / 3, 1 / 3], [1 / 2, 1 / 2]]


def test_members_are_masked_as_the_observation():
    class CountMembers(MeanAndShares):
        def statistics(self, members: Tensor, observation: Tensor, generator) -> Tensor:
            return (~members.isnan()).sum(dim=(1, 2)).double()

        def values(self, sums: np.ndarray) -> dict[str, np.ndarray]:
            return {"count": sums}

    observation = torch.zeros(2, 2, 3)
    observation[1, 0] = torch.nan
    tally = Tally([CountMembers()])
    tally.add("a", torch.zeros(4, 2, 2, 3), observation, seed=0)
    assert tally.values()["count"].tolist() == [[6] * 4, [3] * 4]


def test_what_is_kept_of_each_case(monkeypatch):
    monkeypatch.setattr("ldcast.verification.tally.CASE_SCORES", ("mean", "unknown"))
    tally = filled()
    assert [case["mean"].tolist() for case in tally.cases] == [
        [1, 2],
        [3, pytest.approx(np.nan, nan_ok=True)],
        [5, 8],
    ]
    assert all(set(case) == {"mean"} for case in tally.cases)


def test_ties_are_broken_by_the_seed_alone():
    def noise(seed: int) -> list[float]:
        tally = Tally([MeanAndShares()])
        tally.add("a", torch.zeros(1, 2, 2, 3), frames(1, 2), seed)
        return tally.values()["noise"].tolist()

    assert noise(7) == noise(7)
    assert noise(7)[0] != noise(7)[1]
    assert not set(noise(7)) & set(noise(8))


def test_events_are_drawn_whole():
    draws = np.array([[1, 1], [2, 0], [0, 2]])  # of the events a and b, in this order
    resampled = filled().resampled(draws)
    assert set(resampled) == {"mean", "noise"}  # curves and histograms have no interval
    np.testing.assert_allclose(resampled["mean"], [[3, 5], [3, np.nan], [3, 5]])


def test_draws_hold_as_many_events_and_repeat_themselves():
    draws = draw_events(7, seed=0)
    assert draws.shape == (NUM_RESAMPLES, 7)
    assert (draws.sum(axis=1) == 7).all()
    assert draws.mean() == 1
    assert abs(draws.mean(axis=0) - 1).max() < 0.15
    assert (draws == draw_events(7, seed=0)).all()
    assert (draws != draw_events(7, seed=1)).any()


def test_interval_holds_nine_tenths():
    resampled = np.stack([np.arange(1001.0), np.full(1001, np.nan)], axis=1)
    resampled[0, 0] = np.nan  # left out
    bounds = interval(resampled)
    np.testing.assert_allclose(bounds["low"], [50.95, np.nan])
    np.testing.assert_allclose(bounds["high"], [950.05, np.nan])


def test_no_interval_where_too_few_events_know_the_score():
    resampled = np.ones((100, 2))
    resampled[:5, 0] = resampled[:6, 1] = np.nan
    assert interval(resampled)["low"].tolist() == [1, pytest.approx(np.nan, nan_ok=True)]


@pytest.mark.filterwarnings("error")
def test_interval_of_a_single_number():
    assert interval(np.arange(11.0)) == pytest.approx({"low": 0.5, "high": 9.5})
    assert np.isnan(interval(np.full(3, np.nan))["low"])
