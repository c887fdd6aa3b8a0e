"""Event files, the format of rain that this package reads and writes: .npz with rates and times."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from ldcast.data.checks import FROM_DBZ, checked_rain_rate, checked_time, mm_per_hour
from ldcast.data.event import RainEvent
from ldcast.data.fields import arrays_of_fields, fields_of_arrays
from ldcast.data.formats import next_step
from ldcast.data.grids import with_metres
from ldcast.data.reading import AS_STATED, Reading
from ldcast.errors import InputError
from ldcast.machine.files import open_atomically

_WRITE_AGAIN = "fetch it again or write plain arrays with numpy.savez_compressed"
_FORMS = (
    "PATH.npz, PATH.nc or PATH.zarr, each with @START/END if wanted, of ISO times (END not "
    "included), or synthetic:SEED"
)
_CONVERT = "files of weather services: python -m ldcast.data.build SOURCE --reader NAME"


def read_event_file(path: Path, how: Reading = AS_STATED) -> RainEvent:
    """The event in an event file; InputError if it is none."""
    arrays = _load_arrays(path)
    missing = [key for key in ("rain_rate", "time") if key not in arrays]
    if missing:
        raise InputError(
            f"{path} has no {' and no '.join(missing)}: it has {', '.join(arrays) or 'nothing'}; "
            "expected rain_rate (time, y, x) in mm/h and time (datetime64, UTC)"
        )
    rain_rate, time = arrays.pop("rain_rate"), arrays.pop("time")
    as_read = arrays.pop("time_as_read", None)
    grid = {key: _scalar(value) for key, value in arrays.items() if value.ndim == 0}
    _check_units(grid.get("units", "mm/h"), path)
    rain_rate = checked_rain_rate(rain_rate, path)
    time = checked_time(time, len(rain_rate), path)
    arrays = {key: value for key, value in arrays.items() if key not in grid}
    fields = fields_of_arrays(arrays, time, rain_rate.shape[1:], path)
    return RainEvent(
        rain_rate=rain_rate,
        time=time,
        grid=with_metres(grid, rain_rate.shape[1:]),
        name=path.stem,
        source=str(path.resolve()),
        time_as_read=None if as_read is None else checked_time(as_read, len(rain_rate), path),
        notes=(f"its arrays {', '.join(arrays)} are not used",) if arrays else (),
        fields=fields,
    )


def read_event_times(path: Path) -> np.ndarray:
    """(T,) datetime64[s], the times in an event file; InputError if there are none."""
    arrays = _load_arrays(path, only="time")
    if "time" not in arrays:
        raise InputError(
            f"{path} has no time: expected rain_rate (time, y, x) in mm/h and time (datetime64, "
            "UTC)"
        )
    return checked_time(arrays["time"], arrays["time"].size, path)


def write_event(event: RainEvent, path: str | Path) -> None:
    """Write an event file that `read_event_file` reads; `path` appears complete or not at all.

    Raises InputError if the name does not end in .npz, OSError if it cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".npz":
        raise InputError(f"cannot write an event to '{path}': expected a name that ends in .npz")
    as_read = {} if event.time_as_read is None else {"time_as_read": event.time_as_read}
    with open_atomically(path) as file:
        np.savez_compressed(
            file,
            rain_rate=event.rain_rate,
            time=event.time,
            **as_read,
            **event.grid,
            **arrays_of_fields(event.fields),
        )


def _load_arrays(path: Path, only: str = "") -> dict[str, np.ndarray]:
    """All arrays, or one of them if it is there."""
    if path.is_dir():
        raise InputError(f"{path} is a folder, expected a file; {next_step(path)}")
    if not path.exists():
        raise InputError(f"no event file {path}: expected {_FORMS}")
    with open(path, "rb") as stream:
        if not zipfile.is_zipfile(stream):
            if step := next_step(path):
                raise InputError(f"{path} is not an .npz file; {step}")
            raise InputError(
                f"{path} is not an .npz file, or its end is missing; {_WRITE_AGAIN}; {_CONVERT}"
            )
        stream.seek(0)
        try:
            with np.load(stream, allow_pickle=False) as file:
                return {key: file[key] for key in file.files if only in ("", key)}
        except Exception as why:  # of a dozen kinds from zipfile, zlib and NumPy: it is damaged
            raise InputError(f"{path} cannot be read: {why}; {_WRITE_AGAIN}") from why


def _scalar(value: np.ndarray) -> Any:
    # .item() would make a datetime or a bare number of a time, according to its unit.
    return value[()] if value.dtype.kind == "M" else value.item()


def _check_units(units: Any, path: Path) -> None:
    if mm_per_hour(str(units)) == 1:
        return
    fix = FROM_DBZ if "dbz" in str(units).lower() else "convert it (mm in 5 min times 12)"
    raise InputError(f"{path}: units '{units}', expected rain_rate in mm/h; {fix}")
