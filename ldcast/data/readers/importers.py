"""Files as weather services publish them, read by pysteps's importers: one file, one frame.

The importers leave to their callers what is done here: rain rates in mm/h, no echo as exactly 0, no
data as NaN, the time, and the grid in metres. What is above 500 mm/h becomes no data, as it does in
training: clutter, or a code that does not mean rain.
"""

import contextlib
import gzip
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from ldcast.data.checks import amounts_note, checked_rain_rate
from ldcast.data.event import RainEvent
from ldcast.data.formats import kind_of, looks_like
from ldcast.data.grids import in_metres, is_in_degrees, metric_grid
from ldcast.data.reading import AS_STATED, Reading
from ldcast.errors import InputError
from ldcast.machine.quiet import contained, import_contained
from ldcast.rain import MAX_RAIN_RATE

if TYPE_CHECKING:  # an extra, imported where it is used
    import h5py

FMI_NO_ECHO = -32.0  # dBZ; the code 0, below anything measured

_MCH_NAME = re.compile(r"AQC(?P<time>\d{9})\D_00005\b")  # year, day of year, hour, minute
_KNMI_FORMULA = re.compile(r"GEO=(?P<gain>[\d.]+)\*PV\+(?P<offset>[\d.]+)")
_GZIP_MAGIC = b"\x1f\x8b"
_DIGITS = {"%Y": "YYYY", "%j": "DDD", "%d": "DD", "%H": "HH", "%S": "SS", "%y": "YY", "%m": "MM"}
_DIGITS["%M"] = "MM"  # minutes


def read_mch(path: Path, how: Reading = AS_STATED) -> RainEvent:
    """MeteoSwiss's AQC, as GIF: mm in 5 minutes. The time is in the name, AQCyyjjjhhmmV_00005.*."""
    with reading(path, "a GIF of MeteoSwiss's AQC"):
        importers = require_importers()
        refuse_relation(path, how, "amounts of rain")
        time = mch_time(path)
        amount, _, metadata = importers.import_mch_gif(
            str(path), product="AQC", unit="mm", accutime=5.0
        )
    start = time - np.timedelta64(5, "m")
    # The importer's docstring says mm/h; its table is in mm.
    return service_event(path, 12 * amount, time, metadata, "AQC in mm per 5 minutes x 12", start)


def read_fmi(path: Path, how: Reading = AS_STATED) -> RainEvent:
    """FMI's reflectivity composite, as PGM, gzipped or not; Z = 223 R^1.53 unless `how` has one."""
    with reading(path, "a PGM of FMI"):
        importers = require_importers()
        is_gzipped = _is_gzipped(path)
        time = _fmi_time(path, is_gzipped)
        dbz, _, metadata = importers.import_fmi_pgm(str(path), gzipped=is_gzipped)
    relation = how.zr or (metadata["zr_a"], metadata["zr_b"])
    rain_rate = rain_from_dbz(dbz, relation, has_echo=~(dbz <= FMI_NO_ECHO))
    return service_event(
        path, rain_rate, time, metadata, f"dBZ by {relation_text(relation)}, no echo as 0"
    )


def read_knmi(path: Path, how: Reading = AS_STATED) -> RainEvent:
    """KNMI's accumulated rain, as HDF5: 0.01 mm over the time that the file states.

    KNMI gives projection and corners in km; here they are in metres.
    """
    with reading(path, "KNMI's HDF5 of accumulated rain"):
        importers = require_importers()
        import h5py

        refuse_relation(path, how, "amounts of rain")
        with h5py.File(path) as file:
            _check_knmi_product(file, path)
            start, end = _knmi_span(file["overview"].attrs)
            is_missing = _knmi_missing(file)
        amount, _, metadata = importers.import_knmi_hdf5(str(path), qty="ACRR")
    minutes = minutes_between(start, end, path)
    amount[is_missing] = np.nan
    if metadata["cartesian_unit"] == "km":
        scale_lengths(metadata, 1000.0)
    source = f"0.01 mm per {minutes:g} minutes x {60 / minutes:g}"
    return service_event(path, amount * (60 / minutes), end, metadata, source, start)


# ---- times, of the little that it takes to know them ---------------------------------------------


def mch_time(path: Path) -> np.datetime64:
    """The end of the 5 minutes of a GIF of MeteoSwiss's AQC, by its name alone."""
    named = _MCH_NAME.search(path.name)
    if not named:
        raise InputError(
            f"{path}: expected a name such as AQC161932045V_00005.801.gif, with year, day of "
            "the year, hour and minute (UTC), and 5 minutes' rain; restore its original name"
        )
    return parse_digits(named["time"], "%y%j%H%M", path)


def fmi_time(path: Path) -> np.datetime64:
    """The time of a PGM of FMI, by its comments."""
    with reading(path, "a PGM of FMI"):
        return _fmi_time(path, _is_gzipped(path))


def knmi_time(path: Path) -> np.datetime64:
    """The end of the accumulation of KNMI's HDF5, by its attributes."""
    with reading(path, "KNMI's HDF5 of accumulated rain"):
        require_hdf5()
        import h5py

        with h5py.File(path) as file:
            return _knmi_span(file["overview"].attrs)[1]


# ---- shared by all -------------------------------------------------------------------------------


@contextlib.contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Contains pysteps; whatever goes wrong in the block becomes one line that names the file."""
    if not path.is_file():
        raise InputError(f"{path} is {'no file' if path.exists() else 'missing'}, expected {what}")
    with contained("pysteps"):
        try:
            yield
        except InputError:
            raise
        except Exception as why:  # of a dozen kinds, from h5py, Pillow, gzip and the importers
            raise InputError(
                f"{path} is not {what}, or it is damaged ({type(why).__name__}: {why}); "
                f"{_next_step(path)}"
            ) from why


def _next_step(path: Path) -> str:
    known = kind_of(path)
    if known and not known.readers:
        return looks_like(path)
    return "; ".join(filter(None, (looks_like(path), "name another --reader or fetch it again")))


def require_importers() -> ModuleType:
    """pysteps's importers. Raises InputError where they, or what they need, are missing."""
    # pysteps does without the others, until it reads.
    return _extras("h5py", "PIL", "pyproj", "pysteps.io.importers")[-1]


def require_hdf5() -> None:
    """Raises InputError where what reads HDF5 and places it without pysteps is missing."""
    _extras("h5py", "pyproj")


def _extras(*names: str) -> list[ModuleType]:
    try:
        return [import_contained(name) for name in names]
    except Exception as error:  # also ValueError, where compiled for another NumPy
        raise InputError(
            f"files of weather services need pysteps, h5py and pyproj ({error}); install them "
            "with: pip install pysteps h5py pyproj"
        ) from error


def refuse_relation(path: Path, how: Reading, what: str) -> None:
    """Raises InputError where a Z-R relation is asked for, and the file is not of reflectivity."""
    if how.zr:
        raise InputError(
            f"{path} holds no reflectivity, expected it for {relation_text(how.zr)}: it holds "
            f"{what}; leave out the Z-R relation"
        )


def service_event(
    path: Path,
    rain_rate: np.ndarray,
    time: np.datetime64,
    metadata: dict[str, Any],
    how: str,
    start: np.datetime64 | None = None,
) -> RainEvent:
    """The event of one frame.

    rain_rate: (H, W) mm/h. metadata: the importer's, lengths in metres or degrees. how: it was
    read. start: of the interval in which the amount fell that the rate was made from.
    """
    if rain_rate.ndim != 2:
        raise InputError(f"{path} has an image of shape {rain_rate.shape}, expected (y, x)")
    missing = [name for name in ("projection", "x1", "y1", "x2", "y2") if name not in metadata]
    if missing:
        raise InputError(
            f"{path}: pysteps finds no {', '.join(missing)} in it, expected a projection that its "
            "importer knows; write the data as NetCDF with coordinates"
        )
    if metadata["yorigin"] == "lower":
        rain_rate = rain_rate[::-1]
    rain_rate = checked_rain_rate(rain_rate[None].astype(np.float32), path)
    corners = tuple(float(metadata[name]) for name in ("x1", "y1", "x2", "y2"))
    sides = metadata["xpixelsize"], metadata["ypixelsize"]
    grid = metric_grid(
        shape=rain_rate.shape[1:],
        corners=corners,
        pixel_size=None if None in sides else tuple(map(float, sides)),
        projection=in_metres(metadata["projection"]),
        path=path,
        in_degrees=is_in_degrees(metadata["projection"]),
    )
    interval_start = None if start is None else np.array([start])
    return RainEvent(
        rain_rate=rain_rate,
        time=np.array([time]),
        grid={
            **grid,
            "processing": f"{how}; NaN for no data and above {MAX_RAIN_RATE:g} mm/h",
        },
        name=path.stem,
        source=str(path.resolve()),
        interval_start=interval_start,
        notes=() if start is None else (amounts_note(interval_start, np.array([time])),),
    )


def rain_from_dbz(
    dbz: np.ndarray, relation: tuple[float, float], has_echo: np.ndarray
) -> np.ndarray:
    """mm/h by Z = a R^b; exactly 0 where there is no echo, NaN where there is no data."""
    a, b = relation
    return np.where(has_echo, (10 ** (dbz / 10) / a) ** (1 / b), 0.0)


def relation_text(relation: tuple[float, float]) -> str:
    return f"Z = {relation[0]:g} R^{relation[1]:g}"


def scale_lengths(metadata: dict[str, Any], factor: float) -> None:
    for name in ("x1", "y1", "x2", "y2", "xpixelsize", "ypixelsize"):
        if metadata[name] is not None:
            metadata[name] = factor * metadata[name]


def minutes_between(start: np.datetime64, end: np.datetime64, path: Path) -> float:
    minutes = (end - start) / np.timedelta64(1, "m")
    if minutes <= 0:
        raise InputError(
            f"{path}: the rain is of {minutes:g} minutes, from {start} to {end}, expected more "
            "than 0; fix its times"
        )
    return minutes


def parse_digits(text: str, form: str, path: Path) -> np.datetime64:
    """A time whose fields stand side by side, UTC.

    form: as of strptime, which alone would read '1230' by %H%M%S as 12:03:00.
    Raises InputError unless each field has all its digits, and for times that there are not.
    """
    digits = re.sub("%.", lambda field: _DIGITS[field[0]], form)
    if re.fullmatch(re.sub("[A-Z]", "[0-9]", digits), text):
        with contextlib.suppress(ValueError):  # the right form, but no such time
            return parse_utc(text, form)
    raise InputError(
        f"{path}: its time is {text!r}, expected all digits of {digits} and a time that there is, "
        f"such as {datetime(2024, 7, 11, 12, 30).strftime(form)!r}; fix it"
    )


def parse_utc(text: str, form: str) -> np.datetime64:
    return np.datetime64(datetime.strptime(text, form), "s")


def attribute_text(value: Any) -> str:
    """An HDF5 attribute, which may be bytes, padded, a text or an array of one of them."""
    value = np.asarray(value).ravel()[0]
    text = value.decode() if isinstance(value, bytes) else str(value)
    return text.strip(" \0")


# ---- FMI -----------------------------------------------------------------------------------------


def _is_gzipped(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == _GZIP_MAGIC


def _fmi_time(path: Path, is_gzipped: bool) -> np.datetime64:
    return parse_digits(_pgm_comments(path, is_gzipped)["obstime"], "%Y%m%d%H%M", path)


def _pgm_comments(path: Path, is_gzipped: bool) -> dict[str, str]:
    """The `# name value` lines between the first line and the size."""
    comments: dict[str, str] = {}
    with (gzip.open if is_gzipped else open)(path, "rb") as file:
        if file.readline().strip() != b"P5":
            raise ValueError("it does not start with P5")
        while (line := file.readline()).startswith(b"#"):
            name, _, value = line[1:].decode("ascii").strip().partition(" ")
            comments[name] = value
    return comments


# ---- KNMI ----------------------------------------------------------------------------------------


def _check_knmi_product(file: "h5py.File", path: Path) -> None:
    """The importer takes any first image for rain in steps of 0.01 mm."""
    quantity = attribute_text(file["image1"].attrs["image_geo_parameter"])
    formula = attribute_text(file["image1/calibration"].attrs["calibration_formulas"])
    found = _KNMI_FORMULA.fullmatch(formula.replace(" ", ""))
    is_hundredths = found and float(found["gain"]) == 0.01 and float(found["offset"]) == 0
    if "PRECIPITATION" not in quantity.upper() or not is_hundredths:
        raise InputError(
            f"{path}: image1 is {quantity} by {formula}, expected ACCUMULATED_PRECIPITATION_[MM] "
            "by GEO=0.01*PV+0.0; choose KNMI's product of accumulated rain"
        )


def _knmi_span(overview: Any) -> tuple[np.datetime64, np.datetime64]:
    form = "%d-%b-%Y;%H:%M:%S.%f"
    ends = (attribute_text(overview[f"product_datetime_{which}"]) for which in ("start", "end"))
    start, end = (parse_utc(text, form) for text in ends)
    return start, end


def _knmi_missing(file: "h5py.File") -> np.ndarray:
    """(H, W) bool, by both codes of the file; the importer knows 65535 alone. 0 is no rain."""
    calibration = file["image1/calibration"].attrs
    codes = [
        int(np.ravel(calibration[name])[0])
        for name in ("calibration_missing_data", "calibration_out_of_image")
        if name in calibration
    ]
    return np.isin(file["image1/image_data"][...], [code for code in codes if code != 0])
