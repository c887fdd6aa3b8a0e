"""Rain rates in mm/h to the networks' units and back: the only home of these constants."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ldcast.errors import InputError
from ldcast.settings import Settings, setting

ROUNDING = 1e-3  # mm/h; what a file's own rounding may put below zero
MAX_RAIN_RATE = 500.0  # mm/h; more is clutter or a wrong unit, and taken for no data


@dataclass(frozen=True)
class RainScale(Settings):
    """The transform and its constants; the defaults are the published ones.

    "log": standardised log10. "power": the rain to that of `exponent`, and zero where it is dry;
    "sqrt": its square root; `dry_value`, `log_mean` and `log_std` have no part in them. An error of
    a forecast is about as large in light as in heavy rain there, while in the logarithm light rain
    and its edges outweigh all else; and errors in mm/h are what a forecast is judged by.
    Source: Leinonen et al. 2023, section 3, and the published code ("log").
    """

    wet_threshold: float = setting(0.1, "mm/h; less counts as dry", low=1e-3)
    dry_value: float = setting(0.02, "mm/h; what dry pixels become", low=1e-6)
    log_mean: float = setting(-0.051, "mean of log10 mm/h")
    log_std: float = setting(0.528, "standard deviation of log10 mm/h", low=1e-3)
    smoothing_sigma: float = setting(0.5, "pixels; antialiasing Gaussian; 0 for none", low=0)
    max_rain_rate: float = setting(118.428, "mm/h; forecasts end here", low=1)
    transform: str = setting(
        "log",
        "log, sqrt, or power: that of rain.exponent",
        choices=("log", "sqrt", "power"),
    )
    exponent: float = setting(0.4, "of the rain with rain.transform power, up to 1", low=0.2)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.exponent > 1:
            raise InputError(f"exponent: got {self.exponent:g}, expected 0.2 to 1")
        if self.transform != "power" and self.exponent != RainScale.exponent:
            raise InputError(
                f"exponent: got {self.exponent:g}, which transform {self.transform} does not use, "
                "expected transform power with it, or exponent 0.4"
            )

    @property
    def unit(self) -> float:
        """How much a model unit is, in log10 of mm/h or in mm/h to the power."""
        return self.log_std if self.transform == "log" else 1.0

    @property
    def power(self) -> float:
        """That of the rain which the networks are given, where it is one."""
        return 0.5 if self.transform == "sqrt" else self.exponent


WET_THRESHOLD = RainScale().wet_threshold  # mm/h; of all that judges rain


def check_rain_rate(rain_rate: Tensor) -> None:
    """Raises ValueError unless rain_rate is floating point, not infinite and not negative.

    NaN stands for no data and passes; so does what rounding leaves below zero.
    """
    if not rain_rate.is_floating_point():
        raise InputError(
            f"got rain of type {rain_rate.dtype}, expected floating point mm/h: convert counts or "
            "reflectivity to rain rates first"
        )
    if torch.isinf(rain_rate).any():
        raise InputError("got infinite rain, expected finite mm/h: write NaN for no data")
    lowest = torch.nan_to_num(rain_rate, nan=0.0).min().item() if rain_rate.numel() else 0.0
    if lowest < -ROUNDING:
        raise InputError(
            f"got rain down to {lowest:.3g} mm/h, expected none below zero: convert reflectivity "
            "(dBZ) to mm/h, and write NaN for no data"
        )


def drop_impossible_rain(rain_rate: Tensor, max_rain_rate: float) -> tuple[Tensor, Tensor]:
    """The rain with NaN (no data) for what no radar can have seen, and the number of such pixels.

    rain_rate: any shape, mm/h, NaN = no data. max_rain_rate: mm/h, the most that is possible.
    Returns a new tensor, and a scalar float32 on the same device.
    """
    is_impossible = (rain_rate < -ROUNDING) | (rain_rate > max_rain_rate)
    return rain_rate.masked_fill(is_impossible, torch.nan), is_impossible.sum().float()


def is_wet(rain_rate: Tensor | np.ndarray, wet_threshold: float) -> Tensor | np.ndarray:
    """True where there is at least `wet_threshold` mm/h; same shape.

    Compared in the precision of rain_rate: the float16 nearest to 0.1 is 0.09998, and is wet.
    """
    if isinstance(rain_rate, np.ndarray):
        return rain_rate >= rain_rate.dtype.type(wet_threshold)
    return rain_rate >= torch.tensor(wet_threshold, dtype=rain_rate.dtype, device=rain_rate.device)


def as_float32(rain_rate: np.ndarray) -> np.ndarray:
    """A float32 copy in which what was 0.1 mm/h in float16 is 0.1 again, and so still wet."""
    copy = np.array(rain_rate, dtype=np.float32)
    if rain_rate.dtype == np.float16:
        copy[rain_rate == np.float16(0.1)] = 0.1
    return copy


def valid_mask(rain_rate: Tensor) -> Tensor:
    """True where there is data; same shape, bool."""
    return ~torch.isnan(rain_rate)


def pad_to_multiple(rain_rate: Tensor, multiple: int) -> Tensor:
    """rain_rate (..., H, W) with no data (NaN) added at the bottom and right, up to multiples."""
    bottom, right = (-size % multiple for size in rain_rate.shape[-2:])
    return nn.functional.pad(rain_rate, (0, right, 0, bottom), value=torch.nan)


def to_model_units(rain_rate: Tensor, scale: RainScale) -> Tensor:
    """Transformed and slightly smoothed rain for the networks.

    rain_rate: (..., H, W) mm/h. NaN and values below `scale.wet_threshold` become the dry value;
        0 with a power; `valid_mask` keeps where NaN was. float64 is computed in float64.
    Returns rain_norm, same shape, float32, unitless; a new tensor, the input is untouched.
    Raises ValueError if the input is not floating point, infinite or negative.
    Source: Leinonen et al. 2023, section 3.
    """
    check_rain_rate(rain_rate)
    is_dry = ~is_wet(rain_rate, scale.wet_threshold)
    if rain_rate.dtype != torch.float64:
        rain_rate = rain_rate.float()
    if scale.transform == "log":
        log_rain = rain_rate.masked_fill(is_dry, scale.dry_value).log10()
        rain_norm = (log_rain - scale.log_mean) / scale.log_std
    else:
        rain_norm = rain_rate.masked_fill(is_dry, 0.0).pow(scale.power)
    return smooth(rain_norm, scale.smoothing_sigma).float()


def from_model_units(rain_norm: Tensor, scale: RainScale) -> Tensor:
    """Rain in mm/h, float32, from model units of the same shape; smoothing is not undone.

    Below `scale.wet_threshold` becomes 0, above `scale.max_rain_rate` becomes that; NaN stays NaN.
    """
    rain_rate = undo_transform(rain_norm, scale)
    return torch.where(rain_rate < scale.wet_threshold, 0.0, rain_rate)


def undo_transform(rain_norm: Tensor, scale: RainScale) -> Tensor:
    """`from_model_units` before what is too little for rain becomes 0.

    Cut hardly above the highest rate before the power: an infinite rate has no gradient but NaN.
    """
    if scale.transform != "log":
        highest = scale.max_rain_rate**scale.power * (1 + 1e-6)
        rain_rate = rain_norm.float().clamp(0, highest).pow(1 / scale.power)  # NaN stays NaN
    else:
        log_rain = rain_norm.float() * scale.log_std + scale.log_mean
        rain_rate = torch.pow(10.0, log_rain.clamp(max=math.log10(scale.max_rain_rate) + 1e-6))
    return rain_rate.clamp(max=scale.max_rain_rate)


def smooth(field_2d: Tensor, sigma: float) -> Tensor:
    """Gaussian smoothing of the last two axes (..., H, W) with a kernel of 5 x 5 pixels.

    Parity: beyond the border counts nothing; the sum is divided by the kernel's weight inside.
    """
    if sigma == 0:
        return field_2d
    offset = torch.arange(-2, 3, dtype=torch.float64, device=field_2d.device)
    line = torch.exp(-0.5 * (offset / sigma).square())
    line = (line / line.sum()).to(field_2d.dtype)
    inside = torch.ones(field_2d.shape[-2:], dtype=field_2d.dtype, device=field_2d.device)
    return _blur(field_2d, line) / _blur(inside, line)


def _blur(field_2d: Tensor, line: Tensor) -> Tensor:
    """Rows, then columns: a Gaussian is a product of the two.

    Written as sums of shifted fields: convolutions lose digits on some devices and under autocast.
    """
    height, width = field_2d.shape[-2:]
    padded = torch.nn.functional.pad(field_2d, (2, 2, 2, 2))
    rows = sum(weight * padded[..., k : k + height, :] for k, weight in enumerate(line))
    return sum(weight * rows[..., k : k + width] for k, weight in enumerate(line))
