"""Noise that members start from, alike over some cells as a linear forecast's errors are.

Where rain goes otherwise than forecast it does so over many pixels, the more of them the further
ahead, and for a while. Noise that is new in every latent cell is unlike that: networks that turn it
into rain in one call have to smooth it first.
Sources: noise with the spectrum of rain, Bowler et al. 2006 (STEPS, QJRMS 132) and Seed 2003
(Journal of Applied Meteorology 42); members of one call that differ as a whole, Alet et al. 2025
(FGN, arXiv:2506.10772), who draw one noise for the field.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

BLURS = (0, 1, 2, 4, 8)  # latent cells, standard deviations of Gaussians; 0 is the noise itself
LAGS = (1, 2, 3, 4, 6, 8, 12, 16)  # latent cells between those whose errors are compared
MIN_KEPT = 0.2  # of the correlation of two frames, what unlike blurs leave at least
FIT_SIZE = 64  # cells of the field that the blurs are fitted on


class ErrorNoise(nn.Module):
    """Gaussian noise with the correlations that errors were found to have.

    Of each channel, between latent frames and, within each of them, between cells. Channels stay
    independent, and cells of deviation 1. The correlations are not trained but measured.
    """

    def __init__(self, latent_channels: int, num_latent_frames: int) -> None:
        super().__init__()
        channels, frames = latent_channels, num_latent_frames
        shares = torch.zeros(frames, channels, len(BLURS))  # of each blur, of one frame's channel
        shares[..., 0] = 1.0
        self.register_buffer("shares", shares)
        self.register_buffer("frame_mixing", torch.eye(frames, device="cpu").repeat(channels, 1, 1))
        self.register_buffer("num_measured", torch.zeros(()))  # examples

    @property
    def is_measured(self) -> bool:
        return bool(self.num_measured > 0)

    def forward(self, noise: Tensor) -> Tensor:
        """Correlated noise like `noise`, which is standard normal (B, C, L, h, w).

        The field's opposite ends are neighbours, so that all cells are alike; where it is less wide
        than the correlations reach, they reach all over it.
        """
        with torch.autocast(noise.device.type, enabled=False):
            noise = torch.einsum("clm,bcmhw->bclhw", self.frame_mixing, noise.float())
            height, width = noise.shape[-2:]
            gain = self._gain(height, width)[..., : width // 2 + 1]
            return torch.fft.irfft2(torch.fft.rfft2(noise) * gain, s=(height, width))

    def _gain(self, height: int, width: int) -> Tensor:
        """(C, L, h, w), of each mode; noise of deviation 1 keeps it."""
        blurs = _blurs(height, width, self.shares.device)
        gain = torch.einsum("lcs,shw->clhw", self.shares, blurs).abs()  # its square was fitted
        return gain / gain.square().mean((-2, -1), keepdim=True).sqrt()

    @torch.no_grad()
    def measure(self, error: Tensor, weight: Tensor) -> None:
        """Takes the correlations of errors (N, C, L, h, w) whose mean is 0, of any deviation.

        weight: (N, 1, L, h, w), how much each cell counts.
        """
        frames = range(error.shape[2])
        in_time = torch.stack([
            torch.stack([
                _correlation(*(of[:, :, frame] for of in (error, weight) for frame in pair))
                for pair in ((one, other) for other in frames)
            ], dim=-1)
            for one in frames
        ], dim=-2)  # fmt: skip
        lags = [lag for lag in LAGS if 2 * lag <= min(error.shape[3:])]
        if lags:
            of_frames = zip(error.unbind(2), weight.unbind(2), strict=True)
            in_space = [torch.stack([_at_lag(lag, *of) for lag in lags], -1) for of in of_frames]
            self.shares.copy_(_fit_shares(torch.stack(in_space), lags))
        gain = self._gain(FIT_SIZE, FIT_SIZE)
        kept = torch.einsum("clhw,cmhw->clm", gain, gain) / FIT_SIZE**2  # where both are blurred
        self.frame_mixing.copy_(_square_root((in_time / kept.clamp(min=MIN_KEPT)).clamp(-1, 1)))
        self.num_measured.fill_(len(error))


def _correlation(first: Tensor, second: Tensor, weight: Tensor, other_weight: Tensor) -> Tensor:
    """(C,) of two fields (N, C, h, w) whose means are 0; 0 where a channel does not vary.

    weight, other_weight: (N, 1, h, w).
    """

    def mean_product(one: Tensor, other: Tensor) -> Tensor:
        return (weight * other_weight * one * other).mean((0, 2, 3))

    square = mean_product(first, first) * mean_product(second, second)
    return mean_product(first, second) / square.sqrt().clamp(min=1e-12)


def _at_lag(lag: int, error: Tensor, weight: Tensor) -> Tensor:
    """(C,) correlation of cells so far apart, down and right, of (N, C, h, w)."""
    total = 0.0
    for axis in (2, 3):
        size = error.shape[axis] - lag
        pairs = (of.narrow(axis, start, size) for of in (error, weight) for start in (0, lag))
        total = total + _correlation(*pairs) / 2
    return total


def _square_root(correlation: Tensor) -> Tensor:
    """Of (C, L, L), so that what it mixes has deviation 1.

    Correlations of differently weighted pairs need not be those of any noise; then of ones near by.
    """
    values, vectors = torch.linalg.eigh(correlation.double())
    root = vectors * values.clamp(min=1e-6).sqrt()[:, None] @ vectors.mT
    return root / root.norm(dim=2, keepdim=True)


def _fit_shares(correlation: Tensor, lags: Sequence[int]) -> Tensor:
    """(L, C, S) shares of the blurs, with which noise has the correlations (L, C, lags).

    Blurs that are wider than the longest lag, of which nothing is known, have none.
    """
    wanted = correlation.double().cpu()
    num_blurs = sum(deviation <= max(lags) for deviation in BLURS)
    blurs = _blurs(FIT_SIZE, FIT_SIZE, wanted.device)[:num_blurs].double()
    shares = wanted.new_full((*wanted.shape[:2], num_blurs), 0.3, requires_grad=True)
    optimizer = torch.optim.LBFGS([shares], max_iter=300, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        spectrum = torch.einsum("lcs,shw->lchw", shares, blurs).square()
        covariance = torch.fft.ifft2(spectrum).real[:, :, 0]  # along a row
        value = (covariance[..., lags] / covariance[..., :1] - wanted).square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    return nn.functional.pad(shares.detach().float(), (0, len(BLURS) - num_blurs))


def _blurs(height: int, width: int, device: torch.device) -> Tensor:
    """(S, h, w): what each blur of `BLURS` leaves of each mode; white noise keeps its deviation."""
    down, right = (2 * math.pi * torch.fft.fftfreq(size, device=device) for size in (height, width))
    square = down[:, None].square() + right.square()
    blurs = torch.stack([torch.exp(-0.5 * deviation**2 * square) for deviation in BLURS])
    return blurs / blurs.square().mean((-2, -1), keepdim=True).sqrt()
