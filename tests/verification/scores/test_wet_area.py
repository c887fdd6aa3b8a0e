"""Wet area of members against that observed, by hand."""

import numpy as np
import pytest
import torch

from ldcast.verification.scores.wet_area import WetAreaScore

SCORE = WetAreaScore()


def values_of(*cases: tuple[torch.Tensor, torch.Tensor]) -> dict[str, float]:
    sums = sum(SCORE.statistics(*case, torch.Generator()).numpy() for case in cases)
    return {name: float(value) for name, value in SCORE.values(sums).items()}


def test_by_hand() -> None:
    """Of four pixels two members wet 3 and 2, the radar 2; one more pixel has no data."""
    members = torch.tensor([[[0.1, 0.2, 5.0, 0.0, 9.0]], [[0.09, 0.1, 0.1, 0.0, 9.0]]])
    observation = torch.tensor([[0.0, 0.3, 0.1, 0.05, torch.nan]])
    members[..., -1] = torch.nan
    values = values_of((members, observation))
    assert values["wet_area"] == 2.5 / 4 and values["wet_area_observed"] == 2 / 4
    assert values["wet_area_ratio"] == pytest.approx(2.5 / 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_threshold_is_wet_in_any_precision(dtype: torch.dtype) -> None:
    at_threshold = torch.tensor([[[0.1, 0.09]]], dtype=dtype)
    values = values_of((at_threshold, at_threshold[0]))
    assert values["wet_area"] == values["wet_area_observed"] == 1 / 2


def test_cases_add_up_by_their_pixels() -> None:
    wet, dry = torch.ones(3, 2, 2), torch.zeros(3, 4, 4)
    values = values_of((wet, wet[0]), (dry + 1, dry[0]))
    assert values["wet_area"] == 1 and values["wet_area_observed"] == 4 / 20
    assert values["wet_area_ratio"] == 5


@pytest.mark.filterwarnings("error")
def test_nothing_wet_has_no_ratio_and_nothing_scored_is_nan() -> None:
    dry = torch.zeros(2, 3, 3)
    values = values_of((dry, dry[0]))
    assert values["wet_area"] == 0 and np.isnan(values["wet_area_ratio"])
    nothing = torch.full((2, 3, 3), torch.nan)
    assert np.isnan(list(values_of((nothing, nothing[0])).values())).all()
