"""Radially averaged power spectra: does the forecast have as much detail as real rain?"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ldcast.data.statistics import DRY_DB
from ldcast.rain import WET_THRESHOLD, is_wet, valid_mask


@dataclass(frozen=True)
class SpectrumScore:
    """Power spectrum of rain in dB by wavelength, of the members and of the observation.

    A forecast that is too smooth lacks power at short wavelengths. The members' spectrum is the
    mean of their spectra, because their mean is smooth even if they are not. Pixels that are not
    scored count as dry in both, so that their edges show in both.
    """

    def statistics(
        self, members: Tensor, observation: Tensor, generator: torch.Generator
    ) -> Tensor:
        """The members' mean power (K,), the observed power (K,), and 1 for the case; dB^2."""
        has_data = valid_mask(observation).any().double()
        forecast = radial_spectrum(_db_above_dry(members))
        observed = radial_spectrum(_db_above_dry(observation[None]))
        return torch.cat([forecast, observed, has_data[None]])

    def values(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        """The two spectra, K values each in the order of `wavelengths_px`, and how they differ.

        power_spectrum_db, observed_power_spectrum_db: 10 log10 of the mean power per mode in dB^2,
            normalised so that white noise has its variance at every wavelength; NaN where there is
            no power, as in dry forecasts.
        spectral_distance_db: root mean square of their difference, in which every octave of
            wavelength has the same weight; 0 at best.
        """
        forecast, observed = np.split(sums[..., :-1], 2, axis=-1)  # (..., K) each
        num_cases = np.maximum(sums[..., -1:], 1)
        forecast_db, observed_db = (
            10 * np.log10(np.where(power > 0, power, np.nan) / num_cases)
            for power in (forecast, observed)
        )
        squared = (forecast_db - observed_db) ** 2
        return {
            "power_spectrum_db": forecast_db,
            "observed_power_spectrum_db": observed_db,
            "spectral_distance_db": np.sqrt(squared @ _octave_weights(squared.shape[-1])),
        }


def wavelengths_px(height: int, width: int) -> np.ndarray:
    """Wavelengths of the rings in pixels, longest first: (K,), K = (min(H, W) - 1) // 2.

    The shorter side sets them: its k-th wave is the k-th ring. Waves of the longer side that are
    longer than that belong to no ring or to the nearest one. The last is just above 2 pixels;
    shorter waves exist only along diagonals.
    """
    side = min(height, width)
    return side / np.arange(1, _num_rings(side) + 1)


def radial_spectrum(fields: Tensor) -> Tensor:
    """Mean power per mode in rings of wavenumbers, each one mode of the shorter side wide.

    The mean of a field is taken off and a Hann window laid over it. A crop is cut out of rain that
    goes on: without the window, the jump from its right edge to its left and from its bottom to
    its top adds power at short wavelengths, which hides just what a smooth forecast lacks.

    fields: (E, H, W), without NaN.
    Returns (K,) float64, the mean over the fields, in their squared units, at
        `wavelengths_px(H, W)`; white noise has its variance in each ring.
    Source: Ruzanski and Chandrasekar 2011 (IEEE TGRS 49), on the averaging over rings.
    """
    height, width = fields.shape[-2:]
    options = {"periodic": False, "dtype": fields.dtype, "device": fields.device}
    taper = torch.outer(torch.hann_window(height, **options), torch.hann_window(width, **options))
    deviation = fields - fields.mean(dim=(-2, -1), keepdim=True)
    modes = torch.view_as_real(torch.fft.rfft2(deviation.mul_(taper)))  # (E, H, W // 2 + 1, 2)
    power = modes.square().mean(dim=0).sum(dim=-1) / taper.square().sum()

    ring, weight = _modes(height, width, fields.device)  # (H, W // 2 + 1), as power
    power_sum, weight_sum = (
        torch.bincount(ring.flatten(), values.flatten()) for values in (power * weight, weight)
    )
    num_rings = _num_rings(min(height, width))
    return (power_sum / weight_sum)[1 : num_rings + 1]  # ring 0 is the mean


def _modes(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Of each mode of a real transform: its ring, int64, and how many modes it stands for."""
    options = {"dtype": torch.float64, "device": device}
    frequency_y = torch.fft.fftfreq(height, **options)[:, None]  # cycles per pixel
    frequency_x = torch.fft.rfftfreq(width, **options)
    ring = (torch.hypot(frequency_y, frequency_x) * min(height, width)).round().long()
    # A real field's modes come in pairs, of which the transform keeps one, but for these columns.
    is_whole = (frequency_x == 0) | (frequency_x == 0.5)
    return ring, torch.where(is_whole, 1.0, 2.0).double().expand_as(ring)


def _num_rings(side: int) -> int:
    """Rings below the shortest wavelength of 2 pixels, beyond which they are incomplete."""
    return (side - 1) // 2


def _octave_weights(num_rings: int) -> np.ndarray:
    """Weights that add up to 1, each in proportion to the octaves that its ring spans: (K,)."""
    ring = np.arange(1, num_rings + 1)
    octaves = np.log2((ring + 0.5) / (ring - 0.5))
    return octaves / octaves.sum()


def _db_above_dry(rain_rate: Tensor) -> Tensor:
    """Rain in dB, as `to_rain_db` has it, less its dry value: exactly 0 where dry or NaN."""
    is_rain = is_wet(rain_rate, WET_THRESHOLD)  # a product with it takes a tenth of a `where`
    rain_db = rain_rate.nan_to_num(nan=0.0).clamp_(min=WET_THRESHOLD).log10_().mul_(10)
    return rain_db.sub_(DRY_DB).mul_(is_rain)
