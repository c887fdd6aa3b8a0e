"""What a forecast holds, and its .npz file, written without ever being half there."""

import math
import zipfile
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ldcast.data.grids import CORNERS, PIXEL_SIZES
from ldcast.errors import InputError
from ldcast.frames import FrameConfig
from ldcast.machine.files import open_atomically
from ldcast.products.amounts import AMOUNT_ENTRIES, Amounts, amounts_of
from ldcast.products.areas import AREA_ENTRIES, AreaForecast, areas_of
from ldcast.products.statistics import STATISTICS_AXES, STATISTICS_ENTRIES, Statistics

REQUIRED_ENTRIES = (
    "rain_rate",
    "lead_minutes",
    "issue_time",
    "time",
    "seed",
    "model",
    "sampler",
    "num_sampling_steps",
)
PROVENANCE_ENTRIES = (
    *("code_version", "weights_sha256", "forecast_command", "past_time", "past_source"),
    "network_precision",
)
OPTIONAL_ENTRIES = (
    *("quality", "second_hand", "calibrated", "past_time_as_read"),
    *PROVENANCE_ENTRIES,
    *STATISTICS_ENTRIES,
    *AMOUNT_ENTRIES,
    *AREA_ENTRIES,
)
OWN_ENTRIES = (*REQUIRED_ENTRIES, *OPTIONAL_ENTRIES)
# Names of np.savez_compressed's own parameters, which no array can be called.
SAVEZ_PARAMETERS = ("file", "allow_pickle")


@dataclass(frozen=True)
class Provenance:
    """What a forecast was made of, to tell it from another; texts are empty where it is not known.

    code_version: as `ldcast.machine.code_version` says. weights_sha256: of the model's file of
    weights. command: that made it.
    past_time: (P,) datetime64[s] UTC, of the frames that it starts from. past_source: (P,) text,
        where each was read from.
    precision: of the networks' arithmetic, such as float32 or bfloat16.
    """

    code_version: str = ""
    weights_sha256: str = ""
    command: str = ""
    past_time: np.ndarray = field(default_factory=lambda: np.array([], "datetime64[s]"))
    past_source: tuple[str, ...] = ()
    precision: str = ""

    def __post_init__(self) -> None:
        assert len(self.past_time) == len(self.past_source), (self.past_time, self.past_source)

    def entries(self) -> dict[str, Any]:
        """What a forecast file holds, by `PROVENANCE_ENTRIES`."""
        return {
            "code_version": self.code_version,
            "weights_sha256": self.weights_sha256,
            "forecast_command": self.command,
            "past_time": self.past_time.astype("datetime64[s]"),
            "past_source": np.array(self.past_source, np.str_),
            "network_precision": self.precision,
        }


def provenance_of(entries: Mapping[str, Any]) -> Provenance:
    """That among the entries of a forecast file; empty in files from before there was."""
    if "past_source" not in entries:
        return Provenance()
    return Provenance(
        *(str(entries[name]) for name in PROVENANCE_ENTRIES[:3]),
        past_time=np.asarray(entries["past_time"], "datetime64[s]"),
        past_source=tuple(map(str, entries["past_source"])),
        precision=str(entries.get("network_precision", "")),
    )


@dataclass(frozen=True)
class Forecast:
    """An ensemble of rain, and what is needed to place it and to make it again.

    rain_rate: (E, T, H, W) float32 mm/h, row 0 = north, NaN = no forecast possible there.
    issue_time: UTC, the time of the newest past frame.
    lead_minutes: (T,) int, minutes after `issue_time`: 5, 10, ... where frames are 5 apart.
    grid: what the input said of its grid, each entry a number, a text or an array of them.
    seed, model, sampler, num_sampling_steps: how the forecast was made.
    quality: (T, H, W) uint8, an index of `ldcast.motion.QUALITY_MEANINGS`; None in files from
        before there was.
    statistics: of the members; probabilities of a calibrated forecast are the calibration's.
    is_calibrated: whether rain rates and probabilities were corrected by the model's calibration.
    past_time_as_read: (past_frames,) datetime64[s], the past frames' times before they were
        rounded; None where they were not.
    amounts: what falls in windows of time; None where no sums were asked for.
    provenance: the code, the weights, the command and the frames that it was made of.
    areas: what falls on areas; None where none were given.
    is_second_hand: (T,) bool, frames beyond the model's reach, made by forecasting from forecast
        frames; None: of none.

    Raises InputError if a grid entry has a name that the file needs, a value that it cannot hold,
    or as a corner or pixel size one that makes no sense.
    """

    rain_rate: np.ndarray
    issue_time: np.datetime64
    lead_minutes: np.ndarray
    grid: dict[str, Any]
    seed: int
    model: str
    sampler: str
    num_sampling_steps: int
    quality: np.ndarray | None = None
    statistics: Statistics = field(default_factory=Statistics)
    is_calibrated: bool = False
    past_time_as_read: np.ndarray | None = None
    is_second_hand: np.ndarray | None = None
    amounts: Amounts | None = None
    areas: AreaForecast | None = None
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        num_frames = len(self.lead_minutes)
        assert self.rain_rate.ndim == 4, f"rain_rate has {self.rain_rate.ndim} axes, not 4"
        assert self.rain_rate.shape[1] == num_frames, (self.rain_rate.shape, num_frames)
        maps = self.statistics.maps()
        if self.quality is not None:
            maps["quality"] = self.quality
        for name, values in maps.items():
            got, expected = values.shape[-3:], self.rain_rate.shape[1:]
            assert got == expected, f"{name} is {got}, not {expected}"
        if self.amounts is not None:
            got, expected = self.amounts.rain_amount.shape, self.rain_rate.shape
            assert (got[0], *got[2:]) == (expected[0], *expected[2:]), (got, expected)
        if self.is_second_hand is None:
            object.__setattr__(self, "is_second_hand", np.zeros(num_frames, bool))
        assert self.is_second_hand.shape == (num_frames,), (self.is_second_hand.shape, num_frames)
        check_grid(self.grid)

    @property
    def time(self) -> np.ndarray:
        """(T,) datetime64[s] UTC, the time that each frame is valid at."""
        minutes = np.asarray(self.lead_minutes).astype("timedelta64[m]")
        return np.datetime64(self.issue_time, "s") + minutes

    @property
    def calibrated_chances(self) -> dict[float, np.ndarray] | None:
        """Threshold in mm/h -> (T, H, W) in 0..1; None where chances are shares of the members."""
        if not self.is_calibrated:
            return None
        thresholds = self.statistics.exceedance_threshold.tolist()
        return dict(zip(thresholds, self.statistics.exceedance_probability, strict=True))


def check_grid(grid: dict[str, Any]) -> None:
    """Raises InputError for an entry that no forecast can have; to be called before the work.

    That is: one that a forecast file cannot hold, a corner or pixel size that is no finite number,
    a pixel size that is not above 0, and corners that are not x1 < x2 and y1 < y2.
    """
    for name, value in grid.items():
        if name in (*OWN_ENTRIES, *SAVEZ_PARAMETERS):
            raise InputError(
                f"the input has an entry '{name}', a name that the forecast file uses itself; "
                "rename that entry in the input"
            )
        if np.asarray(value).dtype.hasobject:
            raise InputError(
                f"the input's entry '{name}' is {value!r}; a forecast file holds numbers, "
                "texts and arrays of them: change or remove that entry in the input"
            )
    _check_place(grid)


def _check_place(grid: dict[str, Any]) -> None:
    sides = {name: _number(grid, name) for name in PIXEL_SIZES if name in grid}
    for name, side in sides.items():
        if side <= 0:
            raise InputError(
                f"the input's entry '{name}' is {side:g}, expected metres above 0; fix or remove "
                "that entry in the input"
            )
    corners = {name: _number(grid, name) for name in CORNERS if name in grid}
    for low, high in (("x1", "x2"), ("y1", "y2")):
        if {low, high} <= corners.keys() and not corners[low] < corners[high]:
            raise InputError(
                f"the input has {low} {corners[low]:.12g} and {high} {corners[high]:.12g}, "
                "expected x1 < x2 (west to east) and y1 < y2 (south to north); fix or remove "
                "these entries in the input"
            )


def _number(grid: dict[str, Any], name: str) -> float:
    """A grid entry; raises InputError if it is no finite number."""
    value = grid[name]
    try:
        number = float(value) if np.ndim(value) == 0 else math.nan
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(
            f"the input's entry '{name}' is '{' '.join(str(value).split())}', expected a finite "
            "number; fix or remove that entry in the input"
        )
    return number


def write_npz(forecast: Forecast, path: Path) -> None:
    """Write `forecast` to `path`; the file is there whole or not at all.

    Raises OSError if the folder cannot be written or the disk is full.
    """
    entries = {
        "rain_rate": np.asarray(forecast.rain_rate, dtype=np.float32),
        "lead_minutes": np.asarray(forecast.lead_minutes),
        "issue_time": np.datetime64(forecast.issue_time, "s"),
        "time": forecast.time,
        "second_hand": forecast.is_second_hand,
        "seed": forecast.seed,
        "model": forecast.model,
        "sampler": forecast.sampler,
        "num_sampling_steps": forecast.num_sampling_steps,
        "calibrated": forecast.is_calibrated,
        **forecast.provenance.entries(),
        **forecast.statistics.entries(),
        **(forecast.amounts.entries() if forecast.amounts else {}),
        **(forecast.areas.entries() if forecast.areas else {}),
    }
    if forecast.quality is not None:
        entries["quality"] = np.asarray(forecast.quality, dtype=np.uint8)
    if forecast.past_time_as_read is not None:
        entries["past_time_as_read"] = forecast.past_time_as_read.astype("datetime64[s]")
    # Compressed: with 8 x 20 x 256 x 256 values, 28 % of them wet, 0.34 s and 11 MB against 0.03 s
    # and 40 MB plain (0.08 s against 0.02 s to read). Beside sampling that time is nothing, and
    # dry areas, the rule in an archive of forecasts, shrink to almost nothing.
    with open_atomically(path) as file:
        np.savez_compressed(file, **entries, **forecast.grid)


def read_npz(path: Path) -> Forecast:
    """The forecast in `path`; grid entries come back as NumPy scalars (a str stays a str).

    Raises FileNotFoundError, or InputError if the file is damaged or is no forecast file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            entries = {name: file[name] for name in file.files}
    except (ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error):
        # AttributeError and TypeError: a .npy file, which np.load answers with a bare array.
        raise InputError(f"{path} is damaged or no .npz file; make the forecast again") from None
    check_entries(entries, path)
    return Forecast(
        rain_rate=entries["rain_rate"],
        issue_time=entries["issue_time"][()],
        lead_minutes=entries["lead_minutes"],
        grid={name: value[()] for name, value in entries.items() if name not in OWN_ENTRIES},
        seed=int(entries["seed"]),
        model=str(entries["model"]),
        sampler=str(entries["sampler"]),
        num_sampling_steps=int(entries["num_sampling_steps"]),
        quality=entries.get("quality"),
        statistics=Statistics(**{name: entries.get(name) for name in STATISTICS_ENTRIES}),
        is_calibrated=bool(entries.get("calibrated", False)),
        past_time_as_read=entries.get("past_time_as_read"),
        is_second_hand=entries.get("second_hand", continued_before(entries["lead_minutes"])),
        amounts=amounts_of(entries),
        areas=areas_of(entries),
        provenance=provenance_of(entries),
    )


def continued_before(lead_minutes: np.ndarray) -> np.ndarray:
    """(T,) bool: `is_second_hand` where it is not said, as of the published model.

    So it was in files from before they said it, which no other models made.
    """
    return np.asarray(lead_minutes) > FrameConfig().lead_minutes[-1]


def check_entries(names: Collection[str], path: Path) -> None:
    """Raises InputError unless a file with entries of these names is a whole forecast file."""
    missing = [name for name in REQUIRED_ENTRIES if name not in names]
    if missing:
        raise InputError(
            f"{path} is no forecast file: it lacks {', '.join(missing)}; "
            "give a file that infer.py wrote"
        )
    for pair in STATISTICS_AXES.items():
        present = [name for name in pair if name in names]
        if len(present) == 1:
            raise InputError(
                f"{path} has {present[0]}, expected both or neither of {' and '.join(pair)}; "
                "make the forecast again"
            )
