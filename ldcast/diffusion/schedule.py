"""The noise schedule: one frozen object that training and sampling share."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ldcast.errors import InputError

NUM_DIFFUSION_STEPS = 1000
# Spacing of a sampling grid -> the fewest sampling steps that are spaced as published. Fewer of
# those would start at a diffusion step that still has much signal (6.7 % of it for 10 steps, 4.3 %
# for 20), of which pure noise has none: members then drift towards the mean latent, which is
# drizzle. Lin et al. 2023 (arXiv:2305.08891) describe the fault.
SPACINGS = {"published": 10, "full_range": 20}
PUBLISHED_IS_FULL = 50  # sampling steps; from here on the published spacing, too, starts at 981


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """How much of a clean latent is left at each diffusion step.

    With a = alpha_bar[step]: z_noisy = sqrt(a) z + sqrt(1 - a) noise (Ho et al. 2020, equation 4).
    beta, alpha_bar: (N,) float64, computed on the CPU; arithmetic on latents is float32.
    name: what config files call it; a "custom" one cannot be saved with a model.
    Build one with `NoiseSchedule.sqrt_linear()` or `NoiseSchedule.cosine()`.
    """

    beta: Tensor
    name: str = "custom"
    alpha_bar: Tensor = field(init=False)

    def __post_init__(self) -> None:
        is_valid = self.beta.ndim == 1 and bool(((self.beta > 0) & (self.beta < 1)).all())
        if not is_valid:
            raise ValueError("beta must be a vector of numbers between 0 and 1")
        object.__setattr__(self, "alpha_bar", torch.cumprod(1.0 - self.beta.double(), dim=0))

    @classmethod
    def sqrt_linear(
        cls, beta_start: float = 1e-4, beta_end: float = 2e-2, num: int = NUM_DIFFUSION_STEPS
    ) -> "NoiseSchedule":
        """The published schedule: the square root of beta is linear (there called "linear")."""
        root = torch.linspace(
            beta_start**0.5, beta_end**0.5, num, dtype=torch.float64, device="cpu"
        )
        is_published = (beta_start, beta_end, num) == (1e-4, 2e-2, NUM_DIFFUSION_STEPS)
        return cls(root.square(), "sqrt_linear" if is_published else "custom")

    @classmethod
    def cosine(cls, offset: float = 8e-3, num: int = NUM_DIFFUSION_STEPS) -> "NoiseSchedule":
        """alpha_bar follows a squared cosine; Nichol and Dhariwal 2021, equation 17."""
        progress = torch.arange(num + 1, dtype=torch.float64, device="cpu") / num
        signal = torch.cos((progress + offset) / (1 + offset) * torch.pi / 2).square()
        is_published = (offset, num) == (8e-3, NUM_DIFFUSION_STEPS)
        beta = (1 - signal[1:] / signal[:-1]).clamp(max=0.999)
        return cls(beta, "cosine" if is_published else "custom")

    @property
    def num_diffusion_steps(self) -> int:
        return len(self.beta)

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

    def add_noise(self, z: Tensor, noise: Tensor, diffusion_step: Tensor) -> Tensor:
        """z_noisy, like z, at diffusion_step (B,)."""
        signal, sigma = self._coefficients(z, diffusion_step)
        return signal * z + sigma * noise

    # The three things a network may predict are linear in one another, given z_noisy.
    # With s = sqrt(alpha_bar) and n = sqrt(1 - alpha_bar):
    #   z_noisy = s z + n noise,    v = s noise - n z    (Salimans and Ho 2022, appendix D)

    def z_from_noise(self, z_noisy: Tensor, noise: Tensor, diffusion_step: Tensor) -> Tensor:
        """The clean latent that `noise` implies."""
        signal, sigma = self._coefficients(z_noisy, diffusion_step)
        return (z_noisy - sigma * noise) / signal

    def noise_from_z(self, z_noisy: Tensor, z: Tensor, diffusion_step: Tensor) -> Tensor:
        """The noise that the clean latent `z` implies."""
        signal, sigma = self._coefficients(z_noisy, diffusion_step)
        return (z_noisy - signal * z) / sigma

    def noise_from_v(self, z_noisy: Tensor, v: Tensor, diffusion_step: Tensor) -> Tensor:
        """The noise that the velocity `v` implies."""
        signal, sigma = self._coefficients(z_noisy, diffusion_step)
        return signal * v + sigma * z_noisy

    def v_from_noise(self, z_noisy: Tensor, noise: Tensor, diffusion_step: Tensor) -> Tensor:
        """The velocity that `noise` implies."""
        signal, sigma = self._coefficients(z_noisy, diffusion_step)
        return (noise - sigma * z_noisy) / signal

    def _coefficients(self, like: Tensor, diffusion_step: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(alpha_bar) and sqrt(1 - alpha_bar), float32 (B, 1, ...), on the device of `like`."""
        alpha_bar = self.alpha_bar.to(diffusion_step.device)[diffusion_step]
        alpha_bar = alpha_bar.reshape(-1, *[1] * (like.ndim - 1))
        signal, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        return signal.float().to(like.device), sigma.float().to(like.device)


SCHEDULES: dict[str, Callable[[], NoiseSchedule]] = {
    "sqrt_linear": NoiseSchedule.sqrt_linear,
    "cosine": NoiseSchedule.cosine,
}
