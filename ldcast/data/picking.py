"""Pickers by name, and what one really shows a model."""

from collections.abc import Callable

import numpy as np

from ldcast.data.event import RainEvent
from ldcast.data.index_pickers import INDEX_PICKERS
from ldcast.data.pickers import (
    EqualFrequencyPicker,
    MixedPicker,
    Picker,
    UniformPicker,
    WetPicker,
    Window,
)
from ldcast.data.tile_index import tile_statistics
from ldcast.data.tiles import TILE
from ldcast.errors import InputError
from ldcast.frames import FrameConfig
from ldcast.seeds import STREAM_SHOWN, keyed_rng

# Of arrays in memory; draws stay those of earlier runs.
ARRAY_PICKERS: dict[str, Callable[..., Picker]] = {
    "uniform": UniformPicker,
    "wet": WetPicker,
    "equal_frequency": EqualFrequencyPicker,
    "mixed": MixedPicker,
}
PICKERS = tuple(INDEX_PICKERS)
SHOWN_QUANTILES = (0.5, 0.9, 0.99)
_NUM_DAYS, _NUM_RAIN = 1000, 100  # windows that days are counted in, and that rain is judged by


def build_picker(
    name: str,
    events: list[RainEvent],
    num_frames: int,
    crop_size: int,
    minutes: int = FrameConfig.minutes_per_frame,
    multiple: int = 1,
    num_judged_frames: int = 0,
) -> Picker:
    """The picker of that name, by an index where some of the events are stored.

    Raises InputError for an unknown name, more judged frames than a window has, and as the pickers
    do.
    """
    if num_judged_frames > num_frames:
        raise InputError(
            f"got {num_judged_frames} judged frames, expected up to {num_frames}, the frames of a "
            "window; 0: all"
        )
    if name not in PICKERS:
        raise InputError(f"crop picker '{name}': expected {' or '.join(PICKERS)}")
    is_stored = any(event.is_stored for event in events)
    pickers = ARRAY_PICKERS if name in ARRAY_PICKERS and not is_stored else INDEX_PICKERS
    return pickers[name](events, num_frames, crop_size, minutes, multiple, num_judged_frames)


def describe_draws(picker: Picker, events: list[RainEvent], num_frames: int, crop_size: int) -> str:
    """What a picker shows: wet share, intensity, and how many days it really draws from.

    That number is one over the chance that two draws are of the same day. Windows are the same
    each time.
    """
    windows = [picker(keyed_rng(1, STREAM_SHOWN, index)) for index in range(_NUM_DAYS)]
    times = [events[window.event].time[window.first_frame] for window in windows]
    _, counts = np.unique(np.array(times).astype("datetime64[D]"), return_counts=True)
    num_pairs = (counts * (counts - 1)).sum()
    num_days = _NUM_DAYS * (_NUM_DAYS - 1) / max(num_pairs, 1)
    found = [_rain_of(window, events, num_frames, crop_size) for window in windows[:_NUM_RAIN]]
    wet, valid, heavy = (np.concatenate(of) for of in zip(*found, strict=True))
    quantiles = np.nanquantile(heavy, SHOWN_QUANTILES) if np.isfinite(heavy).any() else [0.0] * 3
    shares = " / ".join(f"{share:.0%}" for share in SHOWN_QUANTILES)
    rates = " / ".join(f"{rate:.2g}" for rate in quantiles)
    return (
        f"crops as drawn: {wet.sum() / max(valid.sum(), 1e-9):.1%} wet; 99th percentile of their "
        f"{TILE}-px tiles {rates} mm/h ({shares} of tiles); as if from {num_days:.3g} days of "
        f"{_num_days(events)}"
    )


def _rain_of(
    window: Window, events: list[RainEvent], num_frames: int, crop_size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Wet share, valid share and 99th percentile of the tiles of a window, flat."""
    names = ("wet_share", "valid_share", "percentile_99")
    rain_rate = events[window.event].rain_rate
    frames = slice(window.first_frame, window.first_frame + num_frames)
    if events[window.event].is_stored:
        first = rain_rate.frames.start + window.first_frame
        rows, columns = (
            slice(start // TILE, -(-(start + crop_size) // TILE)) for start in (window.y, window.x)
        )
        tiles = rain_rate.store.tiles
        tables = [tiles.rows(name, first, first + num_frames) for name in names]
        wet, valid, heavy = (table[:, rows, columns].ravel() for table in tables)
        return wet, valid, heavy
    rows, columns = (slice(start, start + crop_size) for start in (window.y, window.x))
    crop = np.asarray(rain_rate[frames, rows, columns], np.float32)
    beyond = ((0, 0), (0, -crop_size % TILE), (0, 0))
    crop = np.pad(crop, beyond, constant_values=np.nan)
    found = tile_statistics(crop.reshape(-1, crop_size))  # frames one below another
    wet, valid, heavy = (found[name].ravel().astype(np.float32) for name in names)
    return wet, valid, heavy


def _num_days(events: list[RainEvent]) -> int:
    days = [np.unique(event.time.astype("datetime64[D]")) for event in events]
    return len(np.unique(np.concatenate(days)))
