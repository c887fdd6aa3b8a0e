"""What an archive of rain is: its grid, its cadence, how it is cut up and what is known of it."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ldcast.data.grids import CORNERS, is_in_degrees
from ldcast.data.readers.cf import LONGLAT
from ldcast.errors import InputError
from ldcast.products.coordinates import read_crs

SHARD_FRAMES = 24  # in one file, with all rows and columns; two hours
CROPS, FRAMES = (12, 128, 128), (1, 0, 0)  # frames, rows, columns of a chunk; 0: the whole side
LAYOUTS = {"crops": CROPS, "frames": FRAMES}
MAX_BITS = 10  # of the mantissa of float16
ABOUT = ("source", "licence", "processing")  # texts of events, for all of an archive
_MAX_TEXT = 1000  # characters of one of them


@dataclass(frozen=True)
class Archive:
    """A store that `ldcast.data.build` writes, or is about to.

    grid: as an event's: `pixel_size_m`, `projection`, `x1 y1 x2 y2`, ...
    shape: (H, W). minutes: the cadence. bits: of the mantissa that were kept.
    layout: of `LAYOUTS`.
    time: (T,) datetime64[s] UTC, of the frames that readers see, increasing.
    unreadable: (N,) datetime64[s], those of them that are blank because their file was damaged.
    about: texts on where the rain is from and how it was read.
    """

    path: Path
    grid: dict[str, Any]
    shape: tuple[int, int]
    minutes: int
    bits: int
    layout: str
    time: np.ndarray = field(default_factory=lambda: np.empty(0, "datetime64[s]"))
    unreadable: np.ndarray = field(default_factory=lambda: np.empty(0, "datetime64[s]"))
    about: dict[str, str] = field(default_factory=dict)

    @property
    def relative_error(self) -> float:
        """Of a stored rain rate, at most: half of the last bit that was kept."""
        return 2.0 ** -(self.bits + 1)

    def with_about(self, texts: dict[str, Any]) -> "Archive":
        """The archive with an event's texts added to its own, each once, up to a length."""
        about = dict(self.about)
        for name in ABOUT:
            new, old = str(texts.get(name, "")), about.get(name, "")
            if new and new not in old and len(old) + len(new) <= _MAX_TEXT:
                about[name] = f"{old}; {new}" if old else new
        return replace(self, about=about)


class Chunks(NamedTuple):
    """Frames, rows and columns of a chunk and of a shard."""

    chunk: tuple[int, int, int]
    shard: tuple[int, int, int]


def chunks_of(archive: Archive) -> Chunks:
    """How an archive's rain is cut up; a small domain has one chunk along a side."""
    frames, *sides = LAYOUTS[archive.layout]
    pixels = [min(side or whole, whole) for side, whole in zip(sides, archive.shape, strict=True)]
    shard = [-(-whole // side) * side for whole, side in zip(archive.shape, pixels, strict=True)]
    return Chunks((frames, *pixels), (SHARD_FRAMES, *shard))


def missing_times(time: np.ndarray, minutes: int) -> np.ndarray:
    """(N,) datetime64[s]: the times of the cadence between the first frame and the last that no
    frame is of."""
    if len(time) == 0:
        return time
    step = np.timedelta64(60 * minutes, "s")
    return np.setdiff1d(np.arange(time[0], time[-1], step), time, assume_unique=True)


def place_of(grid: dict[str, Any], shape: tuple[int, int], name: str) -> dict[str, Any]:
    """Of an event's `grid` what places an archive: pixel sizes, projection and corners.

    Without corners, or with a projection that pyproj does not know, places are metres from the
    south-west corner of the domain, and there is no projection.
    Raises InputError where the size of the pixels is not known then.
    """
    known = ("pixel_size_m", "pixel_size_y_m", "projection", *CORNERS)
    place = {key: plain(grid[key]) for key in known if key in grid}
    if is_in_degrees(str(place.get("projection", ""))) and crs_of(place) is None:
        place["projection"] = LONGLAT
    if place.keys() >= {*CORNERS} and ("projection" not in place or crs_of(place) is not None):
        return place
    if "pixel_size_m" not in place:
        raise InputError(
            f"{name} does not say where its pixels lie, by x1 y1 x2 y2 and a projection of metres "
            "or degrees, nor how large they are, expected one of them; add pixel_size_m to it"
        )
    width = float(place["pixel_size_m"])
    height = float(place.get("pixel_size_y_m", width))
    place.pop("projection", None)
    return {**place, "x1": 0.0, "y1": 0.0, "x2": width * shape[1], "y2": height * shape[0]}


def crs_of(grid: dict[str, Any]) -> Any:
    """The projection as pyproj has it; None without one, or where pyproj knows none."""
    if "projection" not in grid:
        return None
    try:
        return read_crs(grid)
    except ImportError as error:
        raise InputError(
            f"archives with a projection need pyproj ({error}); install it with: pip install pyproj"
        ) from error


def plain(value: Any) -> Any:
    """As JSON has it."""
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
