"""An input: the two newest frames carried along their motion to all lead times.

From an hour on that is the motion of wide surroundings (`follow_upstream`).

Networks that see it need not learn advection. The older of the two says what has lasted and what
has only just come up, and averages the radar's own noise, as the second order of the autoregression
does in STEPS.
Sources: motion and semi-Lagrangian advection as in motion/; advected rain as a network's input:
Ritvanen et al. 2023 (L-CNN, IEEE JSTARS 16), Zhang et al. 2023 (NowcastNet, Nature 619); two frames
and a mirror at the edges: Bowler et al. 2006 (STEPS, QJRMS 132) and pysteps, Pulkkinen et al. 2019.
"""

from typing import ClassVar

import torch
from torch import Tensor

from ldcast.inputs.known import LatentGrid, Observed
from ldcast.motion import carry_mirrored

NUM_CARRIED = 2


class CarriedFrames:
    """For each frame, newest first: latents of the carried rain, and the share of each cell that is
    known.

    What comes from beyond the surroundings is encoded as a mirror there would show it, and counts
    as unknown; so does what comes from no data within them, which is encoded as dry.
    """

    beside = "future"
    fields: ClassVar = {}
    margin = 96  # pixels: rain that moves by 4.5 pixels a frame comes from as far in 105 minutes

    def num_channels(self, latent_channels: int) -> int:
        return NUM_CARRIED * (latent_channels + 1)

    def __call__(self, observed: Observed, grid: LatentGrid) -> Tensor:
        domains = [
            self._carry(past, positions)
            for past, positions in zip(observed.past, observed.upstream(grid.frames), strict=True)
        ]
        known, filled = (torch.stack(of) for of in zip(*domains, strict=True))
        parts = []
        for age in range(NUM_CARRIED):  # of (B, NUM_CARRIED, T, H, W)
            frame = slice(age, age + 1)
            parts += [grid.encode(filled[:, frame]), grid.known_share(known[:, frame])]
        return torch.cat(parts, dim=1)

    @staticmethod
    def _carry(past: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Known alone, and with what mirrors show, (NUM_CARRIED, T, H, W) mm/h, of one domain."""
        num_frames = len(positions) - NUM_CARRIED + 1
        with torch.autocast(past.device.type, enabled=False):
            pairs = [
                carry_mirrored(past[-1 - age], positions[age : age + num_frames])
                for age in range(NUM_CARRIED)
            ]
        known, filled = zip(*pairs, strict=True)
        return torch.stack(known), torch.stack(filled)
