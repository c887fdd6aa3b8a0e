"""Sums and areas are made of forecasts and of the radar alike, and scored by themselves."""

import json

import numpy as np
import pytest
import torch

from ldcast.frames import FrameConfig
from ldcast.products.areas import AreaPixels
from ldcast.verification.derived import Derived
from ldcast.verification.scores.crps import fair_crps

SIZE = 24
FRAMES = FrameConfig(future_frames=12)


def rain(num_members: int, seed: int) -> torch.Tensor:
    """(E, 12, H, W) mm/h."""
    generator = torch.Generator().manual_seed(seed)
    return 8 * torch.rand(num_members, 12, SIZE, SIZE, generator=generator)


def two_areas(grid, shape) -> AreaPixels:
    """One of two pixels, and one of which a half lies in the domain."""
    return AreaPixels(
        names=("Aare", "Inn"), pixel=np.array([30, 31, 100]), first=np.array([0, 2]),
        share=np.ones(3), counts=np.ones(3, bool), inside=np.array([1.0, 0.5]),
    )  # fmt: skip


@pytest.mark.core
def test_sums_begin_with_the_radar_and_are_scored_as_what_they_are() -> None:
    """Of rain that stands still, a mean of neighbouring frames."""
    derived = Derived(accumulate=(30, 60), thresholds=(3.0,))
    past, members, radar = torch.full((4, SIZE, SIZE), 4.0), rain(3, 1), rain(1, 2)
    about = past, FRAMES, {}
    made, seen = (derived.of(of, *about) for of in (members, radar))
    frames = torch.cat([past[-1:].expand(3, -1, -1, -1), members], dim=1)
    parts = (frames[:, :-1] + frames[:, 1:]) / 2 * 5 / 60
    assert made["sum_30min"].shape == (3, 7, SIZE, SIZE)
    torch.testing.assert_close(made["sum_60min"][:, 0], parts.sum(1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(made["sum_30min"][:, 2], parts[:, 2:8].sum(1), rtol=1e-4, atol=1e-4)
    tally = derived.tallies()["sum_60min"]
    tally.add("storm", made["sum_60min"], seen["sum_60min"][0], seed=0)
    values = tally.values()
    expected = fair_crps(made["sum_60min"], seen["sum_60min"][0]).mean()
    assert values["fair_crps_1px"][0] == pytest.approx(expected.item(), rel=1e-4)
    wet = seen["sum_60min"][0, 0] >= 3
    chance = (made["sum_60min"][:, 0] >= 3).float().mean(0)
    brier = (chance - wet.float()).square().mean()
    assert values["brier_3mm"][0] == pytest.approx(brier.item(), rel=1e-4)


@pytest.mark.core
def test_areas_count_where_all_of_them_is_known() -> None:
    derived = Derived(accumulate=(60,), thresholds=(3.0,), areas=two_areas)
    assert list(derived.tallies()) == ["sum_60min", "area_mean", "area_sum_60min"]
    past, members = torch.full((4, SIZE, SIZE), 4.0), rain(3, 1)
    members[:, 5, 1, 6] = torch.nan  # pixel 30, in one frame
    made = derived.of(members, past, FRAMES, {})
    assert made["area_mean"].shape == (3, 12, 1, 2)
    assert made["area_mean"][..., 1].isnan().all()
    expected = (members[:, :, 1, 6] + members[:, :, 1, 7]) / 2
    torch.testing.assert_close(made["area_mean"][:, :, 0, 0], expected, equal_nan=True)
    assert made["area_mean"][:, 5, 0, 0].isnan().all()
    assert made["area_sum_60min"].isnan().all()
    radar = rain(1, 2)
    tally = derived.tallies()["area_mean"]
    tally.add("storm", made["area_mean"], derived.of(radar, past, FRAMES, {})["area_mean"][0], 0)
    crps = fair_crps(expected[:, 0], (radar[0, 0, 1, 6] + radar[0, 0, 1, 7]) / 2)
    assert tally.values()["fair_crps_1px"][0] == pytest.approx(crps.item(), rel=1e-4)


def test_the_table_of_scores_says_what_they_are() -> None:
    about = Derived(accumulate=(30,), thresholds=(5.0,), areas=two_areas).describe(FRAMES)
    assert about["sum_30min"] == {
        "of": "pixels", "unit": "mm", "thresholds": (5.0,),
        "lead_minutes": [30, 35, 40, 45, 50, 55, 60],
    }  # fmt: skip
    assert about["area_mean"]["of"] == "areas" and about["area_mean"]["unit"] == "mm/h"
    assert len(about["area_mean"]["lead_minutes"]) == 12
    assert about["area_sum_30min"]["unit"] == "mm"
    json.dumps(about)
