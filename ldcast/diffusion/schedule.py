"""The noise schedule: one frozen object that training and sampling share."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ldcast.errors import InputError

NUM_DIFFUSION_STEPS = 1000
# Spacing of a sampling grid -> the fewest sampling steps that are spaced as published. Fewer of
# those would start at a diffusion step that still has much signal (6.7 % of it for 10 steps, 4.3 %
# for 20), of which pure noise has none: members then drift towards the mean latent, which is
# drizzle. Lin et al. 2023 (arXiv:2305.08891) describe the fault.
SPACINGS = {"published": 10, "full_range": 20}
GRIDS = (*SPACINGS, "log_snr", "quadratic")  # of `NoiseSchedule.grid`
# log10 of SNR where an even grid begins and ends. The mean over a domain of 256 pixels shows
# through noise down to about -4; begun later, members have nearly one mean, and too little rain.
NOISIEST, CLEANEST = -5.0, 3.4
PUBLISHED_IS_FULL = 50  # sampling steps; from here on the published spacing, too, starts at 981


# What a network may be trained to answer. With s = signal, n = sigma: z_noisy = s z + n noise,
# v = s noise - n z (Salimans and Ho 2022, appendix D), flow = noise - z (Lipman et al. 2023;
# Liu et al. 2023, equation 1, with its sign turned: towards the noise).
PREDICTIONS = ("noise", "v", "flow")


class Prediction(NamedTuple):
    """What a denoiser says of noisy latents; each like z_noisy, (B, C, L, h, w) float32.

    z: the clean latent. noise: the noise that it implies. output: the network's own answer, which
    a training loss compares with its target.
    """

    z: Tensor
    noise: Tensor
    output: Tensor


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """How much of a clean latent is left at each diffusion step, and how much noise there is.

    z_noisy = signal[step] z + sigma[step] noise (Ho et al. 2020, equation 4).
    signal, sigma: (N,) float64, computed on the CPU; arithmetic on latents is float32.
    name: what config files call it; a "custom" one cannot be saved with a model.
    Build one with `sqrt_linear()`, `cosine()`, `straight()` or `from_beta(...)`.
    """

    signal: Tensor
    sigma: Tensor
    name: str = "custom"

    def __post_init__(self) -> None:
        tables = torch.stack([self.signal, self.sigma]).double()
        is_falling = bool((self.signal.diff() < 0).all() and (self.sigma.diff() > 0).all())
        if (
            self.signal.ndim != 1
            or not is_falling
            or not bool(((tables >= 0) & (tables <= 1)).all())
        ):
            raise ValueError(
                "signal must be a vector that falls, and sigma one that rises, both in 0..1"
            )

    @classmethod
    def from_beta(cls, beta: Tensor, name: str = "custom") -> "NoiseSchedule":
        """The variance-preserving schedule: signal^2 is the product of 1 - beta (N,)."""
        is_valid = beta.ndim == 1 and bool(((beta > 0) & (beta < 1)).all())
        if not is_valid:
            raise ValueError("beta must be a vector of numbers between 0 and 1")
        alpha_bar = torch.cumprod(1.0 - beta.double(), dim=0)
        return cls(alpha_bar.sqrt(), (1 - alpha_bar).sqrt(), name)

    @classmethod
    def sqrt_linear(
        cls, beta_start: float = 1e-4, beta_end: float = 2e-2, num: int = NUM_DIFFUSION_STEPS
    ) -> "NoiseSchedule":
        """The published schedule: the square root of beta is linear (there called "linear")."""
        root = torch.linspace(
            beta_start**0.5, beta_end**0.5, num, dtype=torch.float64, device="cpu"
        )
        is_published = (beta_start, beta_end, num) == (1e-4, 2e-2, NUM_DIFFUSION_STEPS)
        return cls.from_beta(root.square(), "sqrt_linear" if is_published else "custom")

    @classmethod
    def cosine(cls, offset: float = 8e-3, num: int = NUM_DIFFUSION_STEPS) -> "NoiseSchedule":
        """alpha_bar follows a squared cosine; Nichol and Dhariwal 2021, equation 17."""
        progress = torch.arange(num + 1, dtype=torch.float64, device="cpu") / num
        signal = torch.cos((progress + offset) / (1 + offset) * torch.pi / 2).square()
        is_published = (offset, num) == (8e-3, NUM_DIFFUSION_STEPS)
        beta = (1 - signal[1:] / signal[:-1]).clamp(max=0.999)
        return cls.from_beta(beta, "cosine" if is_published else "custom")

    @classmethod
    def straight(cls, num: int = NUM_DIFFUSION_STEPS) -> "NoiseSchedule":
        """Straight lines from data to noise, for flow matching; at the last step no signal is left.

        Source: Lipman et al. 2023 (Flow Matching), example II; Liu et al. 2023 (Rectified Flow).
        """
        sigma = torch.arange(1, num + 1, dtype=torch.float64, device="cpu") / num
        return cls(1 - sigma, sigma, "straight" if num == NUM_DIFFUSION_STEPS else "custom")

    @property
    def alpha_bar(self) -> Tensor:
        """(N,) float64, the square of the signal."""
        return self.signal.square()

    @property
    def log_snr(self) -> Tensor:
        """(N,) float64, log(signal^2 / sigma^2), falling; -inf where no signal is left."""
        return 2 * (self.signal.log() - self.sigma.log())

    @property
    def preserves_variance(self) -> bool:
        """Whether signal^2 + sigma^2 is 1 at each step."""
        return torch.allclose(self.signal.square() + self.sigma.square(), self.signal.new_ones(()))

    @property
    def num_diffusion_steps(self) -> int:
        return len(self.signal)

    def grid(self, num: int, spacing: str) -> list[int]:
        """Exactly `num` distinct diffusion steps, noisiest first, spaced as one of `GRIDS` says.

        "published", "full_range": as `sampling_grid`. "log_snr": even in the logarithm of SNR, from
        `NOISIEST` to `CLEANEST`. "quadratic": even in the square root of the step, so dense where
        little noise is left (Song et al. 2021, DDIM, appendix D.2).
        Raises InputError for less than 1 or more than N steps, ValueError for another spacing.
        """
        if spacing not in GRIDS:
            raise ValueError(f"got spacing {spacing!r}, expected one of {GRIDS}")
        if spacing == "log_snr":
            return self.log_snr_grid(num, NOISIEST, CLEANEST)
        if spacing == "quadratic":
            last = self.num_diffusion_steps - 1
            return self._distinct(num, [last * (1 - k / num) ** 2 for k in range(num)])
        return self.sampling_grid(num, spacing)

    def sampling_grid(self, num: int, spacing: str = "published") -> list[int]:
        """Exactly `num` distinct diffusion steps, noisiest first.

        From 10 steps on, floor(k * N / num) + 1, as published. Differs: there only where num
        divides N; other numbers took more steps than asked for or raised an index error. All N:
        N-1 ... 0. Fewer are spaced evenly from 981 (of 1000) down to 1; with spacing "full_range"
        also fewer than 20, and numbers below 50 that do not divide N.
        Raises InputError for less than 1 or more than N steps.
        """
        total = self.num_diffusion_steps
        if not 1 <= num <= total:
            raise InputError(f"got {num} sampling steps, expected 1 to {total}")
        if num == total:
            return list(range(total - 1, -1, -1))
        is_even = spacing == "full_range" and num < PUBLISHED_IS_FULL and total % num > 0
        if num >= SPACINGS[spacing] and not is_even:
            return [k * total // num + 1 for k in reversed(range(num))]
        noisiest = min(49 * total // 50 + 1, total - 1)
        return [noisiest - k * (noisiest - 1) // max(num - 1, 1) for k in range(num)]

    def log_snr_grid(self, num: int, noisiest: float, cleanest: float) -> list[int]:
        """Exactly `num` distinct diffusion steps, noisiest first, evenly spaced in log10 of SNR.

        noisiest, cleanest: log10(signal^2 / sigma^2) of the ends, as far as the schedule reaches:
        steps beyond would crowd at its end, and solvers that extrapolate from a short step to a
        long one run away.
        Raises InputError for less than 1 or more than N steps.
        """
        lowest, highest = (self.log_snr[[-1, 0]] / math.log(10)).tolist()
        first, last = (min(max(end, lowest), highest) for end in (noisiest, cleanest))
        wanted = torch.linspace(first, last, max(num, 1), dtype=torch.float64, device="cpu")
        return self._distinct(
            num, torch.searchsorted(-self.log_snr, -wanted * math.log(10)).tolist()
        )

    def _distinct(self, num: int, wanted: Sequence[float]) -> list[int]:
        """Steps next to those wanted, one below the other where the table is coarser than these."""
        total = self.num_diffusion_steps
        if not 1 <= num <= total:
            raise InputError(f"got {num} sampling steps, expected 1 to {total}")
        grid, below = [], total
        for k, step in enumerate(wanted):
            below = max(min(int(step), below - 1), num - 1 - k)
            grid.append(below)
        return grid

    def add_noise(self, z: Tensor, noise: Tensor, diffusion_step: Tensor) -> Tensor:
        """z_noisy, like z, at diffusion_step (B,)."""
        signal, sigma = self.coefficients(z, diffusion_step)
        return signal * z + sigma * noise

    def target(self, kind: str, z: Tensor, noise: Tensor, diffusion_step: Tensor) -> Tensor:
        """What a perfect network of that kind, one of `PREDICTIONS`, would answer; like z."""
        if kind == "noise":
            return noise
        if kind == "flow":
            return noise - z
        signal, sigma = self.coefficients(z, diffusion_step)
        return signal * noise - sigma * z

    def predict(
        self, kind: str, output: Tensor, z_noisy: Tensor, diffusion_step: Tensor
    ) -> Prediction:
        """The clean latent and the noise that a network's output of that kind implies.

        Of kind "noise" nothing is known of z where no signal is left; the other kinds are regular
        everywhere.
        """
        signal, sigma = self.coefficients(z_noisy, diffusion_step)
        if kind == "noise":
            return Prediction((z_noisy - sigma * output) / signal, output, output)
        # Two linear equations, z_noisy and the output, for z and noise.
        if kind == "flow":
            total = signal + sigma
            z, noise = z_noisy - sigma * output, z_noisy + signal * output
        else:
            # In float64, so that it is exactly 1 where variance is preserved.
            total = _at(self.signal.square() + self.sigma.square(), diffusion_step, z_noisy)
            z, noise = signal * z_noisy - sigma * output, sigma * z_noisy + signal * output
        return Prediction(z / total, noise / total, output)

    def z_from_noise(self, z_noisy: Tensor, noise: Tensor, diffusion_step: Tensor) -> Tensor:
        """The clean latent that `noise` implies, where some signal is left."""
        signal, sigma = self.coefficients(z_noisy, diffusion_step)
        return (z_noisy - sigma * noise) / signal

    def noise_from_z(self, z_noisy: Tensor, z: Tensor, diffusion_step: Tensor) -> Tensor:
        """The noise that the clean latent `z` implies."""
        signal, sigma = self.coefficients(z_noisy, diffusion_step)
        return (z_noisy - signal * z) / sigma

    def coefficients(self, like: Tensor, diffusion_step: Tensor) -> tuple[Tensor, Tensor]:
        """signal and sigma at diffusion_step (B,): float32 (B, 1, ...), on the device of `like`."""
        tables = self.signal, self.sigma
        return tuple(_at(table, diffusion_step, like) for table in tables)


def _at(table: Tensor, diffusion_step: Tensor, like: Tensor) -> Tensor:
    """A table's entries at diffusion_step (B,): float32 (B, 1, ...), on the device of `like`."""
    entries = table.to(diffusion_step.device)[diffusion_step]
    return entries.reshape(-1, *[1] * (like.ndim - 1)).float().to(like.device)


SCHEDULES: dict[str, Callable[[], NoiseSchedule]] = {
    "sqrt_linear": NoiseSchedule.sqrt_linear,
    "cosine": NoiseSchedule.cosine,
    "straight": NoiseSchedule.straight,
}
