"""Small archives of rain, as several test modules read them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ldcast.data.archive.building import build_index
from ldcast.data.archive.sidecar import index_address
from ldcast.data.reading import AS_STATED

xarray = pytest.importorskip("xarray", reason="reads archives")
zarr = pytest.importorskip("zarr", minversion="3", reason="reads archives")

START = np.datetime64("2020-06-01", "s")
HEIGHT, WIDTH = 48, 80


def days_of_rain(num_days: int, per_day: int, height: int = HEIGHT, width: int = WIDTH):
    """Times and rain (T, H, W) of the first frames of some days: a shower that moves, and a corner
    without data."""
    y, x = np.mgrid[:height, :width]
    times, frames = [], []
    for day in range(num_days):
        for frame in range(per_day):
            times.append(START + np.timedelta64(86400 * day + 300 * frame, "s"))
            distance = (x - 10 - frame % width - 7 * day) ** 2 + (y - height / 2) ** 2
            frames.append(np.maximum(0, (4 + day) * np.exp(-distance / (40.0 + 40 * day)) - 0.2))
    rain_rate = np.float32(frames)
    rain_rate[:, :8, :8] = np.nan
    return np.array(times), rain_rate


def write_archive(
    path: Path,
    times: np.ndarray,
    rain_rate: np.ndarray,
    version: int = 3,
    chunks: tuple[int, ...] | None = None,
    is_consolidated: bool = True,
    more: dict[str, Any] | None = None,
    **encoding: Any,
) -> Path:
    """A store of rain, of chunks of one frame where none are named. more: variables beside it."""
    _, height, width = rain_rate.shape
    metres = {"units": "m"}
    rain = xarray.DataArray(
        rain_rate,
        dims=("time", "y", "x"),
        coords={
            "time": times.astype("M8[ns]"),
            "y": ("y", 1000.0 * np.arange(height)[::-1], metres),
            "x": ("x", 1000.0 * np.arange(width), metres),
        },
        attrs={"standard_name": "rainfall_rate", "units": "mm h-1"},
    )
    encoding = {"chunks": chunks or (1, height, width), **encoding}
    dataset = xarray.Dataset({"rain": rain, **(more or {})})
    dataset.to_zarr(
        path, zarr_format=version, encoding={"rain": encoding}, consolidated=is_consolidated
    )
    return path


def make_archive(path: Path, num_days: int = 4, per_day: int = 40, **more: Any) -> Path:
    """An archive with its index beside it."""
    write_archive(path, *days_of_rain(num_days, per_day), **more)
    build_index(path, index_address(path), AS_STATED, 1, lambda num: None)
    return path
