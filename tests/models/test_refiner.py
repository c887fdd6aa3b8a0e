"""The network that corrects the first frames at full resolution."""

import pytest
import torch

from ldcast.models import refiner as module
from ldcast.models.refiner import REACH, Refiner


@pytest.fixture
def trained() -> Refiner:
    torch.manual_seed(0)
    refiner = Refiner(4, 3)
    torch.nn.init.normal_(refiner.layers[-1].weight, std=0.1)
    return refiner


@pytest.mark.core
def test_with_fresh_weights_it_changes_nothing() -> None:
    rain_norm, known = torch.randn(2, 1, 8, 20, 24), torch.randn(2, 3, 4, 20, 24)
    assert torch.equal(Refiner(4, 3)(rain_norm, known), rain_norm)


@pytest.mark.core
def test_it_corrects_the_first_frames_alone(trained: Refiner) -> None:
    rain_norm, known = torch.randn(2, 1, 8, 20, 24), torch.randn(2, 3, 4, 20, 24)
    refined = trained(rain_norm, known)
    assert torch.equal(refined[:, :, 4:], rain_norm[:, :, 4:])
    assert ((refined - rain_norm)[:, :, :4].flatten(3).abs().amax(3) > 0).all()
    shorter = trained(rain_norm[:, :, :4], known)
    assert torch.equal(shorter, refined[:, :, :4])


@pytest.mark.core
def test_what_is_known_of_one_domain_is_for_all_its_members(trained: Refiner) -> None:
    rain_norm, known = torch.randn(3, 1, 4, 16, 16), torch.randn(1, 3, 4, 16, 16)
    together = trained(rain_norm, known)
    for member, alone in zip(rain_norm.split(1), together.split(1), strict=True):
        torch.testing.assert_close(trained(member, known), alone)


@pytest.mark.core
@pytest.mark.parametrize("strip_pixels", [1, 24 * 7, 24 * 20])
def test_strips_of_rows_give_the_same(trained: Refiner, strip_pixels: int, monkeypatch) -> None:
    rain_norm, known = torch.randn(2, 1, 8, 50, 24), torch.randn(2, 3, 4, 50, 24)
    with torch.no_grad():
        whole = trained(rain_norm, known)
        monkeypatch.setattr(module, "STRIP_PIXELS", strip_pixels)
        torch.testing.assert_close(trained(rain_norm, known), whole)


@pytest.mark.core
def test_a_pixel_is_seen_as_far_as_it_says(trained: Refiner) -> None:
    rain_norm, known = torch.zeros(1, 1, 4, 41, 41), torch.zeros(1, 3, 4, 41, 41)
    other = known.clone()
    other[0, 0, 0, 20, 20] = 10.0
    moved = (trained(rain_norm, other) - trained(rain_norm, known)).abs().amax((0, 1, 2))
    rows, columns = moved.nonzero(as_tuple=True)
    for axis in (rows, columns):
        assert (axis.min().item(), axis.max().item()) == (20 - REACH, 20 + REACH)
