"""Averaged weights: as published, and back again."""

import pytest
import torch
from golden_arrays import assert_close, below, load, notes
from torch import nn

from ldcast.training.ema import EMA

pytestmark = pytest.mark.core

ARRAYS = below(load("units"), "ema.")


class Network(nn.Module):
    """The parameters that the published arrays have: nested, bare and frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.ModuleDict({"b": nn.Linear(3, 2)})
        self.w = nn.Parameter(torch.zeros(4))
        self.frozen = nn.Parameter(torch.zeros(2), requires_grad=False)


def network_at(step: int) -> Network:
    network = Network()
    network.load_state_dict(below(ARRAYS, f"param.{step}."))
    return network


def assert_average_is_as_published(ema: EMA, step: str) -> None:
    stored = below(ARRAYS, f"shadow.{step}.")
    assert stored.pop("num_updates") == ema.num_updates
    assert len(stored) == 3
    for name, average in ema.shadow.items():
        if name != "net.frozen":  # left out there; see below
            assert_close(average, stored[name.removeprefix("net.").replace(".", "")])


def test_average_is_as_published():
    network = network_at(0)
    ema = EMA({"net": network}, max_decay=0.9999)
    assert_average_is_as_published(ema, "0")
    for step in (1, 2, 3):
        network.load_state_dict(below(ARRAYS, f"param.{step}."))
        ema.update()
        assert_average_is_as_published(ema, str(step))
    ema.num_updates = 10**6
    ema.update()
    assert_average_is_as_published(ema, "1e6")


def test_frozen_parameters_stay_as_they_are():
    """The published average leaves them out; averaging equal values comes to the same."""
    assert "frozen" not in notes("units")["ema_buffers"]
    network = network_at(0)
    ema = EMA({"net": network}, max_decay=0.9999)
    for _ in range(3):
        ema.update()
    assert torch.equal(ema.shadow["net.frozen"], network.frozen)


@pytest.mark.parametrize("max_decay", [0.5, 0.9])
def test_decay_grows_up_to_its_limit(max_decay):
    network = network_at(0)
    ema = EMA({"net": network}, max_decay)
    expected = 0.0
    with torch.no_grad():
        ema.shadow["net.w"].zero_()
        network.w.fill_(1.0)
    for update in range(1, 40):
        ema.update()
        decay = min(max_decay, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay)
        torch.testing.assert_close(ema.shadow["net.w"], torch.full((4,), expected))


def test_networks_hold_the_average_within_the_context_only():
    network = network_at(0)
    ema = EMA({"net": network}, max_decay=0.9999)
    network.load_state_dict(below(ARRAYS, "param.1."))
    ema.update()
    raw, average = network.w.clone(), ema.shadow["net.w"].clone()
    with pytest.raises(RuntimeError, match="inside"), ema.averaged():
        assert torch.equal(network.w, average)
        assert not torch.equal(network.w, raw)
        raise RuntimeError("inside")
    assert torch.equal(network.w, raw)
    assert torch.equal(ema.shadow["net.w"], average)
