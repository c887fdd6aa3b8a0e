"""Averaged ("shadow") weights: an exponential moving average over optimizer updates."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class EMA:
    """Keeps an average of every parameter and buffer of some networks, all float32.

    The decay of update n is min(max_decay, (1 + n) / (10 + n)), so the average forgets its random
    start quickly: the first update already takes it 0.82 of the way.
    networks: name -> module; the names appear in checkpoints.
    Source: Leinonen et al. 2023, where it covers the denoiser only. Differs: whatever is trained is
    averaged, so that the conditioner fits the denoiser it is used with.
    """

    def __init__(self, networks: dict[str, nn.Module], max_decay: float) -> None:
        self.networks = networks
        self.max_decay = max_decay
        self.num_updates = 0
        self.start_again()

    def _weights(self) -> dict[str, Tensor]:
        return {
            f"{network}.{name}": tensor
            for network, module in self.networks.items()
            for name, tensor in module.state_dict().items()
        }

    def start_again(self) -> None:
        """Takes the present weights for the averages."""
        weights = self._weights()
        assert all(w.dtype == torch.float32 for w in weights.values()), "train float32 weights"
        self.shadow = {name: tensor.clone() for name, tensor in weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Moves the average towards the present weights; call once per optimizer update."""
        self.num_updates += 1
        decay = min(self.max_decay, (1 + self.num_updates) / (10 + self.num_updates))
        weights = self._weights()
        present = [weights[name] for name in self.shadow]
        torch._foreach_lerp_(list(self.shadow.values()), present, 1.0 - decay)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Within this context the networks hold the averaged weights; `shadow` holds the raw ones.

        Swapped tensor by tensor, so that no third copy of the weights is needed.
        """
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, tensor in self._weights().items():
            raw = tensor.clone()
            tensor.copy_(self.shadow[name])
            self.shadow[name].copy_(raw)
