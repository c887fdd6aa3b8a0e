"""The first frames at full resolution: what latents cannot hold, from rain that is only carried.

A latent cell is the mean of some frames and pixels and the lowest of their waves. In the first
minutes the radar's own pixels, carried, know more than that: there STEPS (Bowler et al. 2006, QJRMS
132) has nothing else. The network sees both and adds what is missing in a member.
Sources: dilated convolutions, Yu and Koltun 2016 (ICLR); the carried frame beside what a decoder
made, after NowcastNet (Zhang et al. 2023, Nature 619), which conditions its second network so.
"""

import torch
from torch import Tensor, nn

CHANNELS = 32
DILATIONS = (1, 2, 4, 2, 1)  # of the convolutions of 3 x 3 pixels, one after the other
REACH = sum(DILATIONS)  # pixels that a corrected one sees on each side
STRIP_PIXELS = 2**19  # rows of larger fields are taken a few at a time


class Refiner(nn.Module):
    """Rain of the first frames, corrected by what is known of them at full resolution.

    num_frames: of the rain that is corrected. num_inputs: channels that are known of each of them.
    With fresh weights it changes nothing.
    """

    def __init__(self, num_frames: int, num_inputs: int) -> None:
        super().__init__()
        self.num_frames = num_frames
        before = num_frames * (1 + num_inputs)
        layers: list[nn.Module] = []
        for dilation in DILATIONS[:-1]:
            layers += [nn.Conv2d(before, CHANNELS, 3, padding=dilation, dilation=dilation)]
            layers += [nn.SiLU()]
            before = CHANNELS
        last = nn.Conv2d(CHANNELS, num_frames, 3, padding=DILATIONS[-1], dilation=DILATIONS[-1])
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(*layers, last)

    def forward(self, rain_norm: Tensor, known: Tensor) -> Tensor:
        """Rain (B, 1, T, H, W) in model units, its first frames corrected.

        rain_norm: (B, 1, T, H, W), as decoded, T at least num_frames.
        known: (B, c, F, H, W), F = num_frames; or B = 1 for all.
        """
        first, later = rain_norm.tensor_split([self.num_frames], dim=2)
        given = torch.cat([first, known.expand(len(first), -1, -1, -1, -1)], dim=1).flatten(1, 2)
        return torch.cat([first + self._correction(given)[:, None], later], dim=2)

    def _correction(self, given: Tensor) -> Tensor:
        """(B, F, H, W) of (B, c, H, W); the same to rounding in strips as in one piece."""
        height, width = given.shape[2:]
        if torch.is_grad_enabled() or height * width <= STRIP_PIXELS:
            return self.layers(given).float()
        num_rows = max(STRIP_PIXELS // width, 1)
        strips = []
        for top in range(0, height, num_rows):
            low, high = max(top - REACH, 0), min(top + num_rows + REACH, height)
            strip = self.layers(given[:, :, low:high]).float()
            strips.append(strip[:, :, top - low : top - low + num_rows])
        return torch.cat(strips, dim=2)
