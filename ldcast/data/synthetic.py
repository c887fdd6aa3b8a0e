"""Synthetic radar rain: seeded events for tests, demonstrations and training beside real radar.

The recipe is that of the stochastic part of radar nowcasting: Gaussian noise is made octave by
octave, every octave lives in the moving air and forgets itself at its own pace, and their sum is
mapped to rain rates (Seed 2003, S-PROG; Bowler, Pierce and Seed 2006, STEPS).

`python -m ldcast.tools.compare_rain EVENT [EVENT ...]` sets the statistics of such events beside
those of real ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ldcast.data.event import RainEvent
from ldcast.errors import InputError
from ldcast.frames import FrameConfig
from ldcast.machine.threads import one_thread
from ldcast.rain import WET_THRESHOLD

PIXEL_SIZE_M = 1000.0
FIRST_TIME = np.datetime64("2000-01-01T00:00:00", "s")  # UTC; arbitrary
MAX_SYNTHETIC_RATE = 150.0  # mm/h, never passed; about what a radar product shows
MIN_SIZE = 16  # pixels

_STREAM = 0x7261_696E  # keeps these draws apart from others made from the same seed
_WAVELENGTHS_KM = (384, 192, 96, 48, 24, 12, 6, 3)  # octaves, coarse to fine
_PIXELS_PER_WAVELENGTH = 6  # so finely an octave is sampled, where the 1 km grid allows it
_MARGIN_KM = 64  # around the domain, so that rain moves in and is not seen to come round
_FORGETFUL_KM = 32  # the outer part of the margin, in which all rain is replaced by new rain
_SLOPE_BEYOND = 2.3  # of the spectrum at waves longer than `organised_km`
_TEXTURE_KM = 24  # the same two for the texture inside rain areas
_TEXTURE_SLOPE_BEYOND = 1.5
_LIFETIME_3KM = 11.0  # minutes, of features of 3 km
_LIFETIME_POWER = 0.75  # of wavelength, in the lifetime: 96 km live 2.5 h
_AR2_LIFETIME = 2.15  # x in (1 + x) exp(-x) = 1/e: lifetime over relaxation time of the AR(2)
_SYSTEM_KM = 48  # octaves from here on move as the rain system does, not as its cells
_EDDY_KM = 30  # the eddies' stream function is noise smoothed by this standard deviation
_EDDY_SPACING_KM = 8
_MAX_LOG_RATE = 20.0  # far above `MAX_SYNTHETIC_RATE`; keeps exponentials finite
_STEP_MINUTES = 5  # of the motion at most; frames further apart are some steps apart


def synthetic_event(
    seed: int,
    num_frames: int = 60,
    height: int = 256,
    width: int = 256,
    minutes: int = FrameConfig.minutes_per_frame,
) -> RainEvent:
    """An event that looks like radar rain; equal for equal arguments, different for every seed.

    The seed also draws the weather: stratiform to convective, 3 % to 60 % wet, moving at 0 to
    25 m/s. New rain moves in over the edges.

    num_frames, height, width: at least 1, 16 and 16; pixels of 1 km.
    minutes: from one frame to the next, at least 1; the weather is the same at any.
    Returns an event whose `rain_rate` (T, H, W) float32 mm/h is finite and at most 150; dry pixels
        are exactly 0, all others at least 0.1.
    Raises InputError if a size or `minutes` is too small, or the seed negative.
    """
    _check_arguments(seed, num_frames, height, width, minutes)
    rng = np.random.default_rng((seed, _STREAM))
    weather = _draw_weather(rng)
    with one_thread():
        wetness, texture = _make_fields(weather, rng, num_frames, minutes, (height, width))
    return RainEvent(
        rain_rate=_to_rain_rate(wetness, texture, weather),
        time=FIRST_TIME + np.arange(num_frames) * np.timedelta64(60 * minutes, "s"),
        grid={"pixel_size_m": PIXEL_SIZE_M, "source": "synthetic: ldcast.data.synthetic"},
        name=f"synthetic:{seed}",
    )


@dataclass(frozen=True)
class _Weather:
    """What is drawn once per event."""

    wet_fraction: float  # of all pixels and frames
    median_rate: float  # mm/h, of the wet pixels
    heavy_rate: float  # mm/h, passed by 1 % of the wet pixels
    ceiling: float  # mm/h, approached and never passed
    slope: float  # of the power spectrum of the Gaussian field, up to `organised_km`
    organised_km: float  # size of the largest rain areas; longer waves have a flatter spectrum
    clustering: float  # how much livelier small scales are where large ones are wet; 0 = not
    unevenness: float  # standard deviation of the logarithm of the texture's factor
    stretch: float  # length over width of features
    orientation: float  # rad, of the features' long side
    lifetime_scale: float  # 1 = typical
    velocity: complex  # m/s, eastward + i southward (row 0 is north), of small scales
    system_speed: float  # speed of the large scales over that of the small ones
    turning: float  # rad per 5 minutes
    eddy_speed: float  # m/s, root mean square of the motion's variation in space
    eddy_change: float  # rad per 5 minutes; the pattern of the variation is another after pi / 2
    trend: float  # standard deviations of the field per 5 minutes: wetter or drier with time


def _draw_weather(rng: np.random.Generator) -> _Weather:
    """Ranges chosen so that a set of seeds brackets four real events; see `compare_rain`."""
    convective = rng.uniform()  # 0 = wide and light rain, 1 = scattered showers and storms
    speed = 25 * rng.beta(2.0, 2.0)
    direction = rng.uniform(-np.pi, np.pi)
    median_rate = _between(0.45, 1.6, convective) * np.exp(rng.normal(0, 0.2))
    return _Weather(
        wet_fraction=np.clip(
            _between(0.55, 0.08, convective) * np.exp(rng.normal(0, 0.5)), 0.03, 0.6
        ),
        median_rate=median_rate,
        heavy_rate=median_rate * _between(8.0, 21.0, convective) * np.exp(rng.normal(0, 0.1)),
        ceiling=_between(50.0, MAX_SYNTHETIC_RATE, convective),
        slope=rng.uniform(3.1, 4.8),
        organised_km=_between(32.0, 192.0, rng.uniform()),
        clustering=rng.uniform(0.3, 0.6),
        unevenness=rng.uniform(0.3, 0.5) + 0.2 * convective,
        stretch=_between(1.3, 4.0, rng.uniform()),
        orientation=rng.uniform(0, np.pi),
        lifetime_scale=np.exp(rng.normal(0, 0.3)),
        velocity=speed * np.exp(1j * direction),
        system_speed=rng.uniform(0.4, 1.0),
        turning=np.deg2rad(rng.normal(0, 8)) / 12,
        eddy_speed=1.0 + 0.15 * speed,
        eddy_change=(np.pi / 2) / (12 * rng.uniform(2, 6)),
        trend=rng.normal(0, 0.1) / 12,
    )


def _between(low: float, high: float, position: float) -> float:
    """`low` at position 0, `high` at 1, evenly in logarithms."""
    return low ** (1 - position) * high**position


def _make_fields(
    weather: _Weather,
    rng: np.random.Generator,
    num_frames: int,
    minutes: int,
    size: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """Two unitless fields (T, H, W) float32: where it rains, and how unevenly.

    Rain falls where the first is highest; the second varies its rate inside the wet areas.
    Between frames the air moves in equal steps of 5 minutes or less, so that frames an hour apart
    do not move further than the margin at once.
    """
    coarsest = _WAVELENGTHS_KM[0] // _PIXELS_PER_WAVELENGTH  # km per pixel
    padded_size = tuple(-(-(length + 2 * _MARGIN_KM) // coarsest) * coarsest for length in size)
    steps_per_frame = -(-minutes // _STEP_MINUTES)
    step_minutes = minutes / steps_per_frame
    scales = _build_scales(weather, padded_size, rng, step_minutes)
    motion = _Motion(weather, padded_size, rng)
    inside = (..., *(slice(_MARGIN_KM, _MARGIN_KM + length) for length in size))
    fields = np.empty((2, num_frames, *size), dtype=np.float32)
    for step in range((num_frames - 1) * steps_per_frame + 1):
        if step:
            for scale in scales:
                scale.advance(motion.velocity(step_minutes * step, scale), rng)
        if step % steps_per_frame == 0:
            frame = step // steps_per_frame
            fields[:, frame] = _sum_of_scales(scales, weather.clustering)[inside]
            fields[0, frame] += weather.trend * (minutes * frame / 5)
    return fields[0], fields[1]


def _sum_of_scales(scales: Sequence["_Scale"], clustering: float) -> Tensor:
    """(2, h, w) on the finest grid, summed from coarse to fine.

    In the first field the larger scales set how lively the smaller ones are in each place, as
    in rain, whose dry surroundings are not full of specks. A Gaussian field cannot do this.
    """
    total = torch.zeros_like(scales[0].state)
    for scale in scales:
        total = _resampled(total, scale.state.shape[-2:])
        part = scale.amplitude * scale.state
        part[0] *= torch.exp(clustering * torch.tanh(total[0]))
        total = total + part
    return total


def _to_rain_rate(wetness: np.ndarray, texture: np.ndarray, weather: _Weather) -> np.ndarray:
    """Rain rates (T, H, W) float32 mm/h with the drawn wet fraction, median and heavy rate.

    Rain is what exceeds a threshold. Of the excess, scaled by the texture,
    log(rate / 0.1 mm/h) = a excess^b, with a and b such that the quantiles are as drawn.
    """
    every = max(1, wetness.size // 500_000)  # quantiles of a sample are good enough
    threshold = np.quantile(wetness.ravel()[::every], 1 - weather.wet_fraction)
    excess = np.maximum(wetness - np.float32(threshold), 0)
    excess *= np.exp(np.float32(weather.unevenness) * texture)
    sample = excess.ravel()[::every]
    median, heavy = np.quantile(sample[sample > 0], [0.5, 0.99])
    log_median, log_heavy = np.log(np.array([weather.median_rate, weather.heavy_rate]) / 0.1)
    power = np.log(log_heavy / log_median) / np.log(heavy / median)
    log_rate = np.float32(log_median) * (excess / np.float32(median)) ** np.float32(power)

    rain_rate = WET_THRESHOLD * np.exp(np.minimum(log_rate, _MAX_LOG_RATE))
    rain_rate /= 1 + rain_rate / np.float32(weather.ceiling)
    return np.where(excess > 0, np.maximum(rain_rate, WET_THRESHOLD), 0).astype(np.float32)


class _Scale:
    """One octave of noise on a periodic grid just fine enough for it, carried by the motion.

    state: (2, h, w), no unit, mean 0 and standard deviation 1; its sums over all octaves say
        where it rains and how unevenly.
    drive: (2, h, w), what the state follows. Two AR(1) in a row are an AR(2) with a double root:
        rain grows and decays smoothly, where a single AR(1) would make its edges flicker.
    """

    def __init__(
        self,
        wavelength_km: int,
        weather: _Weather,
        padded_size: tuple[int, int],
        rng: np.random.Generator,
        step_minutes: float = _STEP_MINUTES,
    ):
        self.wavelength_km, self.step_minutes = wavelength_km, step_minutes
        self.spacing_km = max(1, wavelength_km // _PIXELS_PER_WAVELENGTH)
        shape = tuple(size // self.spacing_km for size in padded_size)
        self.filter = _octave_filter(shape, self.spacing_km, wavelength_km, weather)
        self.amplitude = torch.tensor(
            [
                _amplitude(wavelength_km, weather.slope, weather.organised_km, _SLOPE_BEYOND),
                _amplitude(wavelength_km, weather.slope, _TEXTURE_KM, _TEXTURE_SLOPE_BEYOND),
            ],
            dtype=torch.float32,
        )[:, None, None]
        relaxation = _lifetime_minutes(wavelength_km) * weather.lifetime_scale / _AR2_LIFETIME
        memory = np.exp(-step_minutes / relaxation)
        self.memory = memory * _remembering(shape, self.spacing_km)
        self.state = self._noise(rng)
        shared = 1 / torch.sqrt(1 + self.memory**2)  # correlation of state and drive at all times
        self.drive = shared * self.state + torch.sqrt(1 - shared**2) * self._noise(rng)

    def advance(self, velocity: Tensor, rng: np.random.Generator) -> None:
        """One step: move, then forget a little and follow the drive.

        velocity: (2, h, w) m/s, eastward and southward.
        """
        displacement = velocity * (60 * self.step_minutes / 1000 / self.spacing_km)
        moved = _moved(torch.cat([self.state, self.drive]), displacement)
        state, drive = _standardised(moved).chunk(2)  # interpolation damps a little
        memory = self.memory
        self.drive = memory * drive + torch.sqrt(1 - memory**2) * self._noise(rng)
        gain = (1 - memory**2) / torch.sqrt(1 + memory**2)  # keeps the standard deviation at 1
        self.state = memory * state + gain * self.drive

    def _noise(self, rng: np.random.Generator) -> Tensor:
        return _filtered_noise(self.filter, (2, *self.memory.shape), rng)


def _build_scales(
    weather: _Weather,
    padded_size: tuple[int, int],
    rng: np.random.Generator,
    step_minutes: float = _STEP_MINUTES,
) -> list[_Scale]:
    """All octaves, coarse to fine, with amplitudes whose squares add up to 1."""
    scales = [
        _Scale(wavelength, weather, padded_size, rng, step_minutes)
        for wavelength in _WAVELENGTHS_KM
    ]
    norm = torch.sqrt(sum(scale.amplitude**2 for scale in scales))
    for scale in scales:
        scale.amplitude /= norm
    return scales


def _amplitude(wavelength_km: int, slope: float, break_km: float, slope_beyond: float) -> float:
    """Standard deviation of an octave, up to a factor, for P ~ wavenumber^-slope per mode.

    A ring of modes is as long as its wavenumber, an octave as wide, so an octave's variance goes as
    wavelength^(slope - 2). Waves beyond the break have a flatter spectrum (as in Seed 2003).
    """
    below, beyond = min(wavelength_km, break_km), max(wavelength_km / break_km, 1.0)
    return below ** (slope / 2 - 1) * beyond ** (slope_beyond / 2 - 1)


def _lifetime_minutes(wavelength_km: float) -> float:
    """Time in which an octave loses 1 - 1/e of its correlation in the moving air."""
    return _LIFETIME_3KM * (wavelength_km / 3) ** _LIFETIME_POWER


def _octave_filter(
    shape: tuple[int, int], spacing_km: float, wavelength_km: float, weather: _Weather
) -> Tensor:
    """Factors for rfft2 that leave one octave of white noise, with standard deviation 1.

    Features are `stretch` times as long as wide. The coarsest octave keeps all that is longer.
    """
    south = np.fft.fftfreq(shape[0], spacing_km)[:, None]  # cycles per km
    east = np.fft.fftfreq(shape[1], spacing_km)[None, :]
    cos, sin = np.cos(weather.orientation), np.sin(weather.orientation)
    along, across = east * cos + south * sin, south * cos - east * sin
    wavenumber = np.hypot(along * weather.stretch**0.5, across / weather.stretch**0.5)
    held_km = min(wavelength_km, *(spacing_km * size for size in shape))  # by a small domain
    octaves = np.log2(np.maximum(wavenumber * held_km, 1e-6))
    if wavelength_km >= _WAVELENGTHS_KM[0]:
        octaves = np.maximum(octaves, 0)
    gain = np.cos(np.pi / 2 * np.clip(octaves, -1, 1))  # squares of neighbours add up to 1
    gain[0, 0] = 0
    gain /= np.sqrt(np.mean(gain**2))
    return torch.from_numpy(gain[:, : shape[1] // 2 + 1].astype(np.float32))


def _filtered_noise(gain: Tensor, shape: tuple[int, int, int], rng: np.random.Generator) -> Tensor:
    white = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
    return torch.fft.irfft2(torch.fft.rfft2(white) * gain, s=shape[-2:])


def _remembering(shape: tuple[int, int], spacing_km: float) -> Tensor:
    """1 in and near the domain, down to 0 at the rim: what leaves is forgotten, not seen again."""
    rows, columns = (
        np.minimum(np.arange(size) + 0.5, size - np.arange(size) - 0.5) * spacing_km
        for size in shape
    )
    from_rim = np.minimum(rows[:, None], columns)
    return torch.from_numpy(np.clip(from_rim / _FORGETFUL_KM, 0, 1).astype(np.float32))


class _Motion:
    """Where the air goes: one mean that turns slowly, and eddies that change slowly.

    eddies: (2, 2, h, w) m/s, two patterns of (eastward, southward), free of divergence.
    """

    def __init__(self, weather: _Weather, padded_size: tuple[int, int], rng: np.random.Generator):
        self.weather = weather
        shape = tuple(size // _EDDY_SPACING_KM for size in padded_size)
        stream = _filtered_noise(_eddy_filter(shape), (2, *shape), rng)
        down = torch.roll(stream, -1, dims=1) - torch.roll(stream, 1, dims=1)
        right = torch.roll(stream, -1, dims=2) - torch.roll(stream, 1, dims=2)
        eddies = torch.stack([down, -right], dim=1)
        self.eddies = eddies * (weather.eddy_speed / (2 * eddies**2).mean().sqrt())

    def velocity(self, minutes: float, scale: _Scale) -> Tensor:
        """(2, h, w) m/s, eastward and southward, on the grid of one scale.

        minutes: since the first frame.
        """
        weather = self.weather
        mean = weather.velocity * np.exp(1j * weather.turning * (minutes / 5))
        if scale.wavelength_km >= _SYSTEM_KM:
            mean *= weather.system_speed
        phase = weather.eddy_change * (minutes / 5)
        eddies = np.cos(phase) * self.eddies[0] + np.sin(phase) * self.eddies[1]
        mean = torch.tensor([mean.real, mean.imag], dtype=torch.float32)
        return mean[:, None, None] + _resampled(eddies, scale.state.shape[-2:])


def _eddy_filter(shape: tuple[int, int]) -> Tensor:
    """A low pass for the stream function of eddies of about 100 km and more."""
    south = np.fft.fftfreq(shape[0], _EDDY_SPACING_KM)[:, None]
    east = np.fft.rfftfreq(shape[1], _EDDY_SPACING_KM)
    gain = np.exp(-((2 * np.pi * _EDDY_KM) ** 2) * (south**2 + east**2) / 2)
    gain[0, 0] = 0
    return torch.from_numpy(gain.astype(np.float32))


def _moved(state: Tensor, displacement: Tensor) -> Tensor:
    """Semi-Lagrangian step on a periodic grid: each pixel takes the value it came from.

    state: (N, h, w); displacement: (2, h, w) pixels, (x, y).
    """
    height, width = state.shape[-2:]
    halo = 2  # pixels that bicubic interpolation looks beyond a pixel
    padded = functional.pad(state[None], (halo,) * 4, mode="circular")
    x = torch.remainder(torch.arange(width) - displacement[0], width) + halo
    y = torch.remainder(torch.arange(height)[:, None] - displacement[1], height) + halo
    grid = torch.stack(
        [(2 * x + 1) / (width + 2 * halo) - 1, (2 * y + 1) / (height + 2 * halo) - 1], dim=-1
    )
    return functional.grid_sample(padded, grid[None], mode="bicubic", align_corners=False)[0]


def _resampled(field: Tensor, shape: tuple[int, int] | torch.Size) -> Tensor:
    """The same (..., h, w) field on another grid of the same domain, by cubic interpolation."""
    if field.shape[-2:] == tuple(shape):
        return field
    stack = field.reshape(1, -1, *field.shape[-2:])
    stack = functional.interpolate(stack, size=tuple(shape), mode="bicubic", align_corners=False)
    return stack.reshape(*field.shape[:-2], *shape)


def _standardised(field: Tensor) -> Tensor:
    mean, std = field.mean((-2, -1), keepdim=True), field.std((-2, -1), keepdim=True)
    return (field - mean) / std


def _check_arguments(seed: int, num_frames: int, height: int, width: int, minutes: int) -> None:
    if seed < 0:
        raise InputError(f"seed {seed}: expected 0 or more; choose another seed")
    if num_frames < 1 or min(height, width) < MIN_SIZE:
        raise InputError(
            f"synthetic rain of {num_frames} frames, {height} x {width} pixels: expected at least "
            f"1 frame and {MIN_SIZE} x {MIN_SIZE} pixels; ask for more"
        )
    if minutes < 1:
        raise InputError(f"synthetic rain of frames {minutes} minutes apart: expected 1 or more")
