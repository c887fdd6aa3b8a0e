"""Statistics of rain events, to compare one with another."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ldcast.data.event import RainEvent
from ldcast.rain import WET_THRESHOLD, is_wet

DRY_DB = -15.0  # dB; 5 dB below the threshold, so that the edge of rain is a step (as in pySTEPS)
QUANTILES = (0.5, 0.9, 0.99, 0.999)
CORRELATION_MINUTES = (5, 15, 30, 60)
SLOPE_KM = (4.0, 64.0)  # wavelengths over which the spectrum's slope is fitted
_WINDOW_KM = 128  # spectra are taken on squares of this side: twice the longest wavelength
_MIN_VALID = 0.99  # a square with more no-data than 1 % is left out
_MIN_WET = 0.02  # and so is one with nearly no rain, whose spectrum is that of a few edges
_MAX_FRAMES = 24  # spectra are averaged over so many frames, evenly spread


@dataclass(frozen=True)
class EventStatistics:
    """Figures of one event; NaN where the event does not hold enough rain or frames for one.

    wet_fraction: share of the valid pixels with at least 0.1 mm/h.
    spectral_slope: b in P ~ wavenumber^-b, as `spectral_slope` defines it.
    quantiles: mm/h, of the wet pixels, at `QUANTILES`.
    maximum: mm/h.
    correlations: of `rain_db` at a fixed place, at those `CORRELATION_MINUTES` that the cadence
        holds.
    """

    wet_fraction: float
    spectral_slope: float
    quantiles: tuple[float, ...]
    maximum: float
    correlations: tuple[float, ...]

    def as_row(self) -> np.ndarray:
        """All figures in the order of the fields, float64."""
        figures = [self.wet_fraction, self.spectral_slope, *self.quantiles, self.maximum]
        return np.array([*figures, *self.correlations])


def event_statistics(event: RainEvent) -> EventStatistics:
    """The figures of one event; pixels without data count nowhere."""
    rain_rate = event.rain_rate
    valid = np.isfinite(rain_rate)
    wet = np.asarray(rain_rate[is_wet(rain_rate, WET_THRESHOLD)], dtype=np.float32)
    rain_db = to_rain_db(rain_rate)
    pixel_km = float(event.grid.get("pixel_size_m", 1000.0)) / 1000
    lags = np.array(CORRELATION_MINUTES) / _frame_minutes(event)  # frames
    return EventStatistics(
        wet_fraction=wet.size / max(valid.sum(), 1),
        spectral_slope=spectral_slope(rain_db, pixel_km),
        quantiles=tuple(np.quantile(wet, QUANTILES) if wet.size else [np.nan] * len(QUANTILES)),
        maximum=float(wet.max(initial=0.0)),
        correlations=tuple(
            lag_correlation(rain_db, int(lag)) if lag >= 1 and lag % 1 == 0 else np.nan
            for lag in lags
        ),
    )


def to_rain_db(rain_rate: np.ndarray) -> np.ndarray:
    """10 log10(mm/h), float32, same shape; dry pixels become `DRY_DB` and NaN stays NaN."""
    is_dry = ~is_wet(rain_rate, WET_THRESHOLD) & ~np.isnan(rain_rate)
    rain_rate = np.maximum(rain_rate, WET_THRESHOLD, dtype=np.float32)
    return np.where(is_dry, np.float32(DRY_DB), 10 * np.log10(rain_rate))


def spectral_slope(rain_db: np.ndarray, pixel_km: float = 1.0) -> float:
    """Slope b of the radially averaged power spectrum, P ~ wavenumber^-b, over 4 to 64 km.

    rain_db: (T, H, W) dB, NaN = no data. Spectra are taken on overlapping squares of 128 km, or of
        the domain's shorter side where that is less, each without its mean and tapered by a Hann
        window. A square counts where at most 1 % of it lacks data (set to dry there) and at least
        2 % is wet. Up to 24 frames are used, evenly spread.
    Returns NaN if no square counts. The spectrum is the mean power per mode in rings one mode
    wide (not the sum over a ring, which would give b - 1), and the line is fitted to logarithms,
    each third of an octave having one vote.
    """
    side = min(round(_WINDOW_KM / pixel_km), *rain_db.shape[-2:])
    frames = np.linspace(0, len(rain_db) - 1, min(len(rain_db), _MAX_FRAMES)).round().astype(int)
    taper = np.outer(np.hanning(side), np.hanning(side))
    power, num_squares = 0.0, 0
    for square in _squares(rain_db[frames], side):
        if np.isnan(square).mean() > 1 - _MIN_VALID or (square > DRY_DB).mean() < _MIN_WET:
            continue
        filled = np.where(np.isnan(square), DRY_DB, square)
        power = power + np.abs(np.fft.fft2((filled - filled.mean()) * taper)) ** 2
        num_squares += 1
    if not num_squares:
        return float("nan")

    frequency = np.fft.fftfreq(side, pixel_km)
    radius = np.hypot(frequency[:, None], frequency)  # cycles per km
    ring = np.rint(radius * side * pixel_km).astype(int).ravel()
    ring_power = np.bincount(ring, power.ravel()) / np.bincount(ring)
    ring_frequency = np.arange(len(ring_power)) / (side * pixel_km)
    return -_log_log_slope(ring_frequency, ring_power, 1 / SLOPE_KM[1], 1 / SLOPE_KM[0])


def lag_correlation(rain_db: np.ndarray, lag_frames: int) -> float:
    """Correlation of frames `lag_frames` apart at fixed places, as a mean over all such pairs.

    rain_db: (T, H, W) dB; pixels that are NaN in either frame of a pair are left out.
    Returns NaN if there is no pair, or none in which both frames vary.
    """
    assert lag_frames > 0, f"lag of {lag_frames} frames, expected at least 1"
    pairs = zip(rain_db[:-lag_frames], rain_db[lag_frames:], strict=True)
    values = np.array([_correlation(first, second) for first, second in pairs])
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else float("nan")


def markdown_table(groups: Sequence[tuple[str, Sequence[EventStatistics]]]) -> str:
    """A row per (name, statistics of one or more events): the median and, of several, the range."""
    header = ["event", "wet %", "slope", *(f"{q:.1%}".replace(".0%", "%") for q in QUANTILES)]
    header += ["max mm/h", *(f"r {minutes} min" for minutes in CORRELATION_MINUTES)]
    lines = [header, ["---"] + ["---:"] * (len(header) - 1)]
    for name, members in groups:
        rows = np.array([member.as_row() for member in members]) * _PRINTED_SCALE
        lines.append([name, *map(_cell, rows.T, _DECIMALS)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


_DECIMALS = [1, 2, *[1] * (len(QUANTILES) + 1), *[2] * len(CORRELATION_MINUTES)]
_PRINTED_SCALE = np.array([100.0] + [1.0] * (len(_DECIMALS) - 1))  # the wet fraction as per cent


def _cell(figures: np.ndarray, decimals: int) -> str:
    figures = figures[np.isfinite(figures)]
    if not figures.size:
        return "-"
    median = f"{np.median(figures):.{decimals}f}"
    if figures.size == 1:
        return median
    return f"{median} ({figures.min():.{decimals}f} to {figures.max():.{decimals}f})"


def _frame_minutes(event: RainEvent) -> float:
    if len(event.time) < 2:
        return float("nan")
    return float(np.median(np.diff(event.time) / np.timedelta64(1, "m")))


def _squares(frames: np.ndarray, side: int) -> Iterator[np.ndarray]:
    """Squares that overlap by about half and reach all four edges of every frame."""
    starts = [
        np.linspace(0, size - side, 1 + -(-2 * (size - side) // side)).round().astype(int)
        for size in frames.shape[-2:]
    ]
    for frame in frames:
        for y in starts[0]:
            for x in starts[1]:
                yield frame[y : y + side, x : x + side]


def _log_log_slope(frequency: np.ndarray, power: np.ndarray, low: float, high: float) -> float:
    """Slope of log power over log frequency, means of thirds of an octave weighted alike."""
    inside = (frequency >= low) & (frequency <= high) & (power > 0)
    log_frequency, log_power = np.log2(frequency[inside]), np.log2(power[inside])
    third = np.floor(3 * (log_frequency - np.log2(low)) + 1e-9).astype(int)
    if len(np.unique(third)) < 2:
        return float("nan")
    count = np.bincount(third)
    x, y = (np.bincount(third, v)[count > 0] / count[count > 0] for v in (log_frequency, log_power))
    return float(np.polyfit(x, y, 1)[0])


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    both = np.isfinite(first) & np.isfinite(second)
    first, second = first[both].astype(np.float64), second[both].astype(np.float64)
    if not first.size:
        return float("nan")
    first, second = first - first.mean(), second - second.mean()
    norm = np.sqrt(np.mean(first**2) * np.mean(second**2))
    return float(np.mean(first * second) / norm) if norm else float("nan")
