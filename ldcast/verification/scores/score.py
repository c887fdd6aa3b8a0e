"""What a score is: sums that every case adds to, and the numbers that they come to."""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class Score(Protocol):
    """One family of scores of an ensemble at one lead time. Holds settings only, no state.

    Sums make it streaming: they add up over any cases, are kept by event, and a bootstrap adds up
    those of the events that it drew.
    """

    def statistics(
        self, members: Tensor, observation: Tensor, generator: torch.Generator
    ) -> Tensor:
        """What one case adds to the sums at one lead time: (S,), float64, on the same device.

        members: (E, H, W) mm/h, observation: (H, W) mm/h, float32 on one device. NaN marks the
            pixels that are not scored, the same ones in all of them; all may be.
        generator: on the CPU, for what is left to chance (ties of ranks).
        """

    def values(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        """The scores that sums (..., S) float64 come to, by their names in `scores.json`.

        Each is (...), or (..., K) for a histogram or a curve; NaN where nothing was scored.
        """
