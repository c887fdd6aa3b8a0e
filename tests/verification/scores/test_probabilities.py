"""Brier score: by hand, its decomposition exact, the reliability curve against pysteps."""

import numpy as np
import pytest
import torch
from torch import Tensor

from ldcast.verification.scores.probabilities import BrierScore

TERMS = ("brier", "brier_reliability", "brier_resolution", "brier_uncertainty")


def some_rain(num_members: int, height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Members that know something of the observation, and a corner without data."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(num_members + 2, height, width, generator=generator)
    rain_rate = (noise[1:] + noise[0]).relu()
    rain_rate[:, :2, :3] = torch.nan
    return rain_rate[1:], rain_rate[0]


def values_of(members: Tensor, observation: Tensor, threshold: float) -> dict[str, np.ndarray]:
    score = BrierScore(threshold)
    values = score.values(score.statistics(members, observation, torch.Generator()).numpy())
    suffix = f"_{threshold:g}mm"
    assert all(name.endswith(suffix) for name in values)
    return {name.removesuffix(suffix): value for name, value in values.items()}


def test_by_hand():
    """Probabilities 0, 1/2, 1/2, 1 of rain, which falls at the second and the last pixel."""
    members = torch.tensor([[[0.0, 0.1, 0.0, 5.0]], [[0.0, 0.0, 1.0, 0.1]]])
    values = values_of(members, torch.tensor([[0.0, 0.1, 0.05, 2.0]]), 0.1)
    assert values["num_forecasts"].tolist() == [1, 2, 1]
    assert values["observed_frequency"].tolist() == [0, 0.5, 1]
    assert [values[name] for name in TERMS] == pytest.approx([0.5 / 4, 0, 0.5 / 4, 1 / 4])


def test_a_forecast_that_is_always_wrong():
    members = torch.tensor([[[0.0, 9.0]]])
    values = values_of(members, torch.tensor([[9.0, 0.0]]), 1)
    assert values["observed_frequency"].tolist() == [1, 0]
    assert [values[name] for name in TERMS] == pytest.approx([1, 1, 0.25, 0.25])


@pytest.mark.parametrize("num_members", [1, 2, 7])
@pytest.mark.parametrize("threshold", [0.1, 1])
def test_the_decomposition_is_exact(num_members, threshold):
    members, observation = some_rain(num_members, 20, 30)
    values = values_of(members, observation, threshold)
    is_valid = ~observation.isnan()
    probability = (members >= threshold).double().mean(dim=0)[is_valid]
    is_wet = (observation >= threshold).double()[is_valid]
    expected = (probability - is_wet).square().mean().item()
    assert values["brier"] == pytest.approx(expected, rel=1e-12)
    reliability, resolution, uncertainty = (values[name] for name in TERMS[1:])
    assert reliability - resolution + uncertainty == pytest.approx(expected, rel=1e-12)
    assert min(reliability, resolution) > 0
    assert uncertainty == pytest.approx(is_wet.var(correction=0).item())
    assert values["num_forecasts"].sum() == is_valid.sum()


def test_the_reliability_curve_agrees_with_pysteps():
    probscores = pytest.importorskip(
        "pysteps.verification.probscores", reason="pysteps, to compare with, is not installed"
    )
    members, observation = some_rain(5, 40, 60)
    probability = (members >= 0.5).double().mean(dim=0).masked_fill(observation.isnan(), torch.nan)
    # Six bins of equal width hold one of the values 0, 1/5, ..., 1 each.
    forecast, observed = probscores.reldiag(
        probability.numpy(), observation.numpy(), X_min=0.5, n_bins=6, min_count=0
    )
    assert forecast == pytest.approx(np.arange(6) / 5)
    assert values_of(members, observation, 0.5)["observed_frequency"] == pytest.approx(observed)


def test_a_probability_that_was_never_forecast_has_no_observed_frequency():
    members, observation = torch.ones(4, 3, 5), torch.ones(3, 5)
    values = values_of(members, observation, 1)
    assert values["num_forecasts"].tolist() == [0, 0, 0, 0, 15]
    assert np.isnan(values["observed_frequency"]).tolist() == [True, True, True, True, False]
    assert [values[name] for name in TERMS] == [0, 0, 0, 0]


@pytest.mark.filterwarnings("error")
def test_nothing_to_score_is_nan():
    nothing = torch.full((4, 5, 7), torch.nan)
    values = values_of(nothing[1:], nothing[0], 10)
    assert values["num_forecasts"].tolist() == [0, 0, 0, 0]
    assert np.isnan(values["observed_frequency"]).all()
    assert np.isnan([values[name] for name in TERMS]).all()


def test_names_hold_the_threshold():
    assert "brier_0.1mm" in BrierScore(0.1).values(np.ones(6))
    assert "num_forecasts_10mm" in BrierScore(10.0).values(np.ones(6))


def test_sums_of_two_cases_are_those_of_both_at_once():
    score, generator = BrierScore(0.5), torch.Generator()
    cases = [some_rain(4, 6, 9, seed) for seed in range(2)]
    apart = [score.statistics(*case, generator) for case in cases]
    both = [torch.cat(fields, dim=-1) for fields in zip(*cases, strict=True)]
    assert apart[0].dtype == torch.float64
    assert (apart[0] + apart[1]).equal(score.statistics(*both, generator))


def test_values_of_many_sums():
    score = BrierScore(0.5)
    cases = [some_rain(4, 20, 30, seed) for seed in range(6)]
    sums = np.stack([score.statistics(*case, torch.Generator()) for case in cases])
    values = score.values(sums.reshape(2, 3, -1))
    for name, value in values.items():
        is_curve = name.startswith(("observed_frequency", "num_forecasts"))
        assert value.shape == ((2, 3, 5) if is_curve else (2, 3))
        assert value[1, 2] == pytest.approx(score.values(sums[5])[name], nan_ok=True)
