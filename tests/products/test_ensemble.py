"""Reductions of an ensemble: shares of members, and the mean that keeps the members' amounts."""

import pytest
import torch
from torch import Tensor

from ldcast.products.ensemble import exceedance_probability, probability_matched_mean

NAN = torch.nan


def draw_rain(*shape: int, seed: int = 0) -> Tensor:
    """Half of it dry, no two wet values alike."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).relu()


def match_slowly(members: Tensor) -> Tensor:
    """One frame (E, H, W) without NaN, pixel by pixel."""
    num_members, num_pixels = len(members), members[0].numel()
    mean = members.mean(dim=0).flatten().tolist()
    pool = sorted(members.flatten().tolist())
    matched = [NAN] * num_pixels
    for rank, pixel in enumerate(sorted(range(num_pixels), key=lambda i: (mean[i], i))):
        run = pool[num_members * rank : num_members * (rank + 1)]
        matched[pixel] = run[num_members // 2]
    return torch.tensor(matched).reshape(members.shape[1:])


# ---- probability of exceedance -------------------------------------------------------------------


def test_probability_is_the_share_of_members_that_reach_the_threshold():
    members = torch.tensor([[0.0, 0.1, 0.2], [0.0, 0.0, 0.3], [0.0, 0.0, 0.1], [0.0, 0.0, 0.1]])
    assert exceedance_probability(members, 0.1).tolist() == [0, 0.25, 1]


def test_probability_is_unknown_where_a_member_is():
    members = torch.tensor([[NAN, NAN, 1.0], [NAN, 1.0, 1.0]])
    assert exceedance_probability(members, 1.0).isnan().tolist() == [True, True, False]


def test_probability_of_half_precision_rain_counts_its_tenth_as_wet():
    members = torch.tensor([[0.1], [0.0]], dtype=torch.float16)  # 0.09998 in fact
    probability = exceedance_probability(members, 0.1)
    assert probability.item() == 0.5
    assert probability.dtype == torch.float32


# ---- probability-matched mean --------------------------------------------------------------------


def test_matched_mean_as_by_hand():
    members = torch.tensor([[[0.0, 4.0, 1.0]], [[2.0, 8.0, 0.0]]])
    # Pool: 0 0 | 1 2 | 4 8. Means: 1, 6, 0.5, so the last pixel gets the lowest run.
    assert probability_matched_mean(members).tolist() == [[2, 8, 0]]


@pytest.mark.parametrize("num_members", [1, 2, 3, 8])
def test_matched_mean_of_each_frame_is_that_of_the_slow_way(num_members):
    members = draw_rain(num_members, 3, 5, 7)
    expected = torch.stack([match_slowly(members[:, frame]) for frame in range(3)])
    assert torch.equal(probability_matched_mean(members), expected)


def test_one_member_is_its_own_matched_mean():
    member = draw_rain(1, 2, 9, 5).round(decimals=1)  # with ties
    member[0, 0, :3, 1] = NAN
    torch.testing.assert_close(
        probability_matched_mean(member), member[0], rtol=0, atol=0, equal_nan=True
    )


@pytest.mark.parametrize("num_members", [4, 5])
def test_matched_mean_has_the_members_mean_area_at_every_amount(num_members):
    members = draw_rain(num_members, 12, 11)
    matched = probability_matched_mean(members)
    for amount in (1e-6, 0.3, 1.0, 2.0):
        mean_area = (members >= amount).sum().item() / num_members
        assert (matched >= amount).sum().item() == int(mean_area + 0.5)


def test_pixels_without_data_take_no_part_whatever_the_frame():
    members = draw_rain(4, 2, 6, 8)
    expected = probability_matched_mean(members[:, :, :, 3:])
    members[:, :, :, :3] = NAN
    members[:, 1] = NAN
    matched = probability_matched_mean(members)
    assert matched[0, :, :3].isnan().all()
    assert matched[1].isnan().all()
    assert torch.equal(matched[0, :, 3:], expected[0])


def test_matching_leaves_the_members_alone():
    members = draw_rain(3, 4, 4)
    before = members.clone()
    probability_matched_mean(members)
    assert torch.equal(members, before)


def test_probabilities_agree_with_pysteps():
    ensemblestats = pytest.importorskip(
        "pysteps.postprocessing.ensemblestats", reason="pysteps, to compare with, is not installed"
    )
    members = torch.randn(7, 9, 11, generator=torch.Generator().manual_seed(0)).exp()
    expected = ensemblestats.excprob(members.numpy(), 1.0)
    ours = exceedance_probability(members, 1.0)
    torch.testing.assert_close(ours, torch.from_numpy(expected).float())


@pytest.mark.parametrize("num_members", [1, 4, 7])
def test_matching_agrees_with_pysteps(num_members):
    """It matches a field to a sample of as many values: here the middle ones of runs of E."""
    probmatching = pytest.importorskip(
        "pysteps.postprocessing.probmatching", reason="pysteps, to compare with, is not installed"
    )
    generator = torch.Generator().manual_seed(num_members)
    members = torch.randn(num_members, 9, 11, generator=generator).double().exp()
    sample = members.flatten().sort().values[num_members // 2 :: num_members].reshape(9, 11)
    mean = members.mean(dim=0).numpy()
    expected = probmatching.nonparam_match_empirical_cdf(mean, sample.numpy())
    ours = probability_matched_mean(members)
    torch.testing.assert_close(ours, torch.from_numpy(expected), check_dtype=False)
