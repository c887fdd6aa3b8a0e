"""Files of weather services: the traps of each format, on files made here and on real ones."""

import gzip
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ldcast.data.cadence import check_cadence
from ldcast.data.event import RainEvent
from ldcast.data.event_files import write_event
from ldcast.data.readers.services import (
    READERS,
    join_events,
    read_frames,
    reader_name,
    require_reader,
)
from ldcast.data.reading import Reading
from ldcast.errors import InputError

h5py = pytest.importorskip("h5py", reason="KNMI and ODIM files are HDF5")
pyproj = pytest.importorskip("pyproj", reason="places ODIM and FMI images")
pytest.importorskip("pysteps", reason="its importers read all four formats")

DATA = Path(__file__).parents[3].parent / "shared" / "data"
NO_DATA = -9999000.0
NO_ECHO = -8888000.0
LAEA = "+proj=laea +lat_0=55.0 +lon_0=10.0 +x_0=0 +y_0=0 +units=m +ellps=WGS84"
CORNERS = ("x1", "y1", "x2", "y2")
KM_STEREO = "+proj=stere +lat_0=90 +lon_0=0.0 +lat_ts=60.0 +a=6378.137 +b=6356.752 +x_0=0 +y_0=0"
M_STEREO = "+proj=stere +lat_0=90 +lon_0=0.0 +lat_ts=60.0 +a=6378137 +b=6356752 +x_0=0 +y_0=0"


def at(text: str) -> np.datetime64:
    return np.datetime64(text, "s")


def marshall_palmer(dbz: float) -> float:
    return (10 ** (dbz / 10) / 200) ** (1 / 1.6)


def refuse(name: str, path: Path, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        READERS[name](path)
    assert str(path) in str(error.value)


# ---- MeteoSwiss ----------------------------------------------------------------------------------

MCH_SHAPE = (640, 710)


def write_gif(path: Path, codes: np.ndarray) -> Path:
    image = pytest.importorskip("PIL.Image").fromarray(codes, "P")
    image.putpalette(bytes(range(256)) * 3)
    image.save(path, format="GIF", optimize=False)
    return path


def mch_codes() -> np.ndarray:
    codes = np.zeros(MCH_SHAPE, np.uint8)
    codes[0, :6] = [255, 1, 251, 100, 72, 250]  # no data, two of no rain, rain, rain, absurd
    return codes


def test_mch_is_mm_in_5_minutes_and_time_is_in_its_name(tmp_path, capsys):
    event = READERS["mch"](write_gif(tmp_path / "AQC161932045V_00005.801.gif", mch_codes()))
    rain = event.rain_rate
    assert rain.shape == (1, *MCH_SHAPE) and rain.dtype == np.float32
    rates = [12 * (10 ** ((code - 71.5) / 20) / 316) ** (1 / 1.5) for code in (100, 72)]
    np.testing.assert_allclose(rain[0, 0, :5], [np.nan, 0, 0, *rates], rtol=1e-6)
    assert np.isnan(rain[0, 0, 5])  # the code's 230,000 mm/h
    assert (rain[0, 1:] == 0).all()
    assert event.time.tolist() == [at("2016-07-11T20:45").item()]
    assert event.time.dtype == np.dtype("datetime64[s]")
    corners = [event.grid[name] for name in ("x1", "y1", "x2", "y2")]
    assert corners == [255000, -160000, 965000, 480000]
    assert event.name == "AQC161932045V_00005.801"
    assert event.source == str(tmp_path / "AQC161932045V_00005.801.gif")
    assert capsys.readouterr().out == ""


def test_mch_masks_may_change_from_frame_to_frame(tmp_path):
    first, second = mch_codes(), mch_codes()
    second[300:, :] = 255
    late = write_gif(tmp_path / "AQC161932050V_00005.801.gif", second)
    early = write_gif(tmp_path / "AQC161932045V_00005.801.gif", first)
    event = read_frames([late, early], READERS["mch"], 5)
    assert event.time.tolist() == [at(f"2016-07-11T20:{m}").item() for m in (45, 50)]
    assert np.isnan(event.rain_rate).sum(axis=(1, 2)).tolist() == [2, 2 + 340 * 710]
    assert event.grid == READERS["mch"](early).grid


def test_mch_needs_its_name_its_size_and_its_end(tmp_path):
    path = write_gif(tmp_path / "AQC161932045V_00005.801.gif", mch_codes())
    for name in ("rain.gif", "AQC161932045V_00060.801.gif", "CPC161932045V_00005.801.gif"):
        other = tmp_path / name
        other.write_bytes(path.read_bytes())
        refuse("mch", other, "expected a name such as AQC161932045V_00005.801.gif")
    refuse(
        "mch",
        write_gif(tmp_path / "AQC169992045V_00005.gif", mch_codes()),
        "its time is '169992045', expected all digits of YYDDDHHMM and a time that there is",
    )
    small = write_gif(tmp_path / "AQC161932050V_00005.801.gif", mch_codes()[:100])
    refuse("mch", small, "100 x 710 pixels make them 6400 x 1000 m, expected 1000 x 1000 m")
    path.write_bytes(path.read_bytes()[:900])
    refuse("mch", path, "is not a GIF of MeteoSwiss's AQC, or it is damaged")


# ---- FMI -----------------------------------------------------------------------------------------

FMI_HEADER = """P5
# obstime 201609281445
# param CorrectedReflectivity
# metersperpixel_x 999.674053
# metersperpixel_y 999.62859
# projection radar {
# type stereographic
# centrallongitude 25
# centrallatitude 90
# truelatitude 60
# bottomleft 18.600000 57.930000
# topright 34.903000 69.005000
# }
760 1226
255
"""
FMI_SHAPE = (1226, 760)


def fmi_file(header: str = FMI_HEADER) -> bytes:
    codes = np.zeros(FMI_SHAPE, np.uint8)
    codes[0, :4] = [255, 0, 1, 140]  # no data, no echo, the weakest echo, 38 dBZ
    return header.encode() + codes.tobytes()


@pytest.mark.parametrize("is_gzipped", [True, False])
def test_fmi_is_reflectivity_and_no_echo_is_zero(tmp_path, is_gzipped):
    path = tmp_path / ("late.pgm.gz" if is_gzipped else "late.pgm")
    path.write_bytes(gzip.compress(fmi_file()) if is_gzipped else fmi_file())
    event = READERS["fmi"](path)
    rates = [(10 ** (dbz / 10) / 223) ** (1 / 1.53) for dbz in (-31.5, 38)]
    np.testing.assert_allclose(event.rain_rate[0, 0, :4], [np.nan, 0, *rates], rtol=1e-6)
    assert (event.rain_rate[0, 1:] == 0).all()
    assert event.time[0] == at("2016-09-28T14:45")  # from the file, not its name
    assert event.grid["pixel_size_m"] == 999.674053
    assert event.grid["pixel_size_y_m"] == 999.62859
    assert abs(event.grid["x2"] - 759752.285) < 0.01


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (fmi_file()[:5000], "is not a PGM of FMI, or it is damaged"),
        (b"P6" + fmi_file()[2:], "does not start with P5"),
        (fmi_file(FMI_HEADER.replace("obstime", "time")), "obstime"),
        (fmi_file(FMI_HEADER.replace("281445", "281")), "its time is '201609281', expected all"),
        (fmi_file(FMI_HEADER.replace("stereographic", "mercator")), "finds no projection, x1"),
        (gzip.compress(fmi_file())[:-20], "EOFError"),
        (b"", "is damaged"),
    ],
)
def test_fmi_that_cannot_be_read(tmp_path, contents, message):
    path = tmp_path / "fmi.pgm"
    path.write_bytes(contents)
    refuse("fmi", path, message)


# ---- KNMI ----------------------------------------------------------------------------------------


def write_knmi(
    path: Path,
    projection: str = KM_STEREO,
    start: str = "25-AUG-2010;23:55:00.000",
    formula: str = "GEO=0.01*PV+0.0",
    missing: int = 65534,
) -> Path:
    counts = np.zeros((765, 700), np.uint16)
    counts[0, :4] = [65535, 65534, 1, 250]
    counts[-10:] = 65534
    with h5py.File(path, "w") as file:
        file["image1/image_data"] = counts
        file["image1"].attrs["image_geo_parameter"] = np.bytes_("ACCUMULATED_PRECIPITATION_[MM]")
        calibration = file.create_group("image1/calibration").attrs
        calibration["calibration_formulas"] = np.bytes_(formula)
        calibration["calibration_missing_data"] = np.array([missing])
        calibration["calibration_out_of_image"] = np.array([65535])
        overview = file.create_group("overview").attrs
        overview["product_datetime_start"] = np.array([start.encode()])
        overview["product_datetime_end"] = np.array([b"26-AUG-2010;00:00:00.000"])
        geographic = file.create_group("geographic")
        geographic.create_group("map_projection").attrs["projection_proj4_params"] = np.bytes_(
            projection
        )
        geographic.attrs["geo_dim_pixel"] = np.bytes_("KM,KM")
        for name, value in {
            "geo_column_offset": 0.0,
            "geo_row_offset": 3650.0,
            "geo_number_columns": 700,
            "geo_number_rows": 765,
            "geo_pixel_size_x": 1.0,
            "geo_pixel_size_y": -1.0,
        }.items():
            geographic.attrs[name] = np.array([value])
    return path


# The second is what some of KNMI's files hold; pysteps mends it, in metres.
@pytest.mark.parametrize(
    "projection",
    [KM_STEREO, "+proj=stere +lat_0=90 +lon_0=0 +lat_ts=60 +a=6378.14 +b=6356.75 +x_0=0 y_0=0"],
)
def test_knmi_is_hundredths_of_mm_on_a_grid_in_km(tmp_path, projection):
    event = READERS["knmi"](write_knmi(tmp_path / "knmi.h5", projection))
    np.testing.assert_allclose(event.rain_rate[0, 0, :4], [np.nan, np.nan, 0.12, 30], rtol=1e-6)
    assert (event.rain_rate[0, 1:-10] == 0).all() and np.isnan(event.rain_rate[0, -10:]).all()
    assert event.time[0] == at("2010-08-26T00:00")
    processing = event.grid.pop("processing")
    assert processing == "0.01 mm per 5 minutes x 12; NaN for no data and above 500 mm/h"
    assert event.grid == {
        "pixel_size_m": 1000.0,
        "pixel_size_y_m": 1000.0,
        "projection": M_STEREO,
        "x1": 0.0,
        "y1": -4415000.0,
        "x2": 700000.0,
        "y2": -3650000.0,
    }


def test_knmi_states_its_interval(tmp_path):
    path = write_knmi(tmp_path / "knmi.h5", start="25-AUG-2010;23:00:00.000")
    assert READERS["knmi"](path).rain_rate[0, 0, 3] == np.float32(2.5)  # in an hour
    refuse("knmi", write_knmi(path, start="26-AUG-2010;00:00:00.000"), "the rain is of 0 minutes")


def test_knmi_where_no_rain_is_called_missing(tmp_path):
    path = write_knmi(tmp_path / "knmi.h5", missing=0)
    with h5py.File(path, "a") as file:
        file["image1/image_data"][-10:] = 0
    event = READERS["knmi"](path)
    assert (event.rain_rate[0, 1:] == 0).all() and np.isnan(event.rain_rate).sum() == 2


def test_knmi_of_other_products_and_damaged(tmp_path):
    path = write_knmi(tmp_path / "knmi.h5", formula="GEO=0.5*PV+-32.0")
    refuse("knmi", path, r"expected ACCUMULATED_PRECIPITATION_\[MM\] by GEO=0\.01\*PV\+0\.0")
    contents = write_knmi(path).read_bytes()
    path.write_bytes(contents[: len(contents) // 2])
    refuse("knmi", path, "is not KNMI's HDF5 of accumulated rain, or it is damaged .*truncated")


# ---- ODIM ----------------------------------------------------------------------------------------


def write_odim(
    path: Path,
    fields: dict[str, np.ndarray],
    gain: float = 1.0,
    offset: float = 0.0,
    projection: str = LAEA,
    side: float = 2000.0,
    kind: str = "COMP",
    minute: int = 0,
) -> Path:
    """Fields by quantity, a dataset of one data group each, the first with a quality field."""
    height, width = next(iter(fields.values())).shape
    with h5py.File(path, "w") as file:
        what = {
            "object": kind,
            "date": "20241126",
            "time": f"{1 + minute // 60:02}{minute % 60:02}00",
        }
        file.create_group("what").attrs.update({k: np.bytes_(v) for k, v in what.items()})
        for number, (quantity, codes) in enumerate(fields.items(), start=1):
            dataset = file.create_group(f"dataset{number}")
            times = {
                **{"startdate": "20241126", "starttime": "005501"},
                **{"enddate": "20241126", "endtime": "010501"},
            }
            dataset.create_group("what").attrs.update({k: np.bytes_(v) for k, v in times.items()})
            dataset["data1/data"] = codes
            dataset.create_group("data1/what").attrs.update(
                {
                    "quantity": np.bytes_(quantity.rstrip("+")),
                    **{"gain": gain, "offset": offset, "nodata": NO_DATA, "undetect": NO_ECHO},
                }
            )
        file["dataset1/data1/quality1/data"] = np.ones((height, width))
        quality = file.create_group("dataset1/data1/quality1/what").attrs
        quality.update({"gain": 1.0, "offset": 0.0, "nodata": NO_DATA})
        _write_odim_corners(file, projection, side, height, width)
    return path


def set_attributes(path: Path, group: str, **attributes: object) -> None:
    """Texts become bytes of fixed length, as ODIM has them."""
    with h5py.File(path, "a") as file:
        for name, value in attributes.items():
            is_ascii = isinstance(value, str) and value.isascii() and value
            file[group].attrs[name] = np.bytes_(value) if is_ascii else value


def place_in_degrees(path: Path, projection: str, west: float, south: float, side: float) -> None:
    with h5py.File(path) as file:
        height, width = file["dataset1/data1/data"].shape
    east, north = west + width * side, south + height * side
    corners = {"LL": (west, south), "UL": (west, north), "LR": (east, south), "UR": (east, north)}
    degrees = {
        f"{name}_{axis}": value
        for name, corner in corners.items()
        for axis, value in zip(("lon", "lat"), corner, strict=True)
    }
    set_attributes(path, "where", projdef=projection, xscale=side, yscale=side, **degrees)


def _write_odim_corners(file, projection: str, side: float, height: int, width: int) -> None:
    unit = 1000 if "+a=6378.137" in projection else 1
    corners = {"LL": (0, 0), "UL": (0, height), "LR": (width, 0), "UR": (width, height)}
    where = file.create_group("where").attrs
    for name, (column, row) in corners.items():
        x, y = (-40_000 + column * side) / unit, (-30_000 + row * side) / unit
        if unit == 1000:
            y -= 3650
        where[f"{name}_lon"], where[f"{name}_lat"] = pyproj.Proj(projection)(x, y, inverse=True)
    where["projdef"] = np.bytes_(projection)
    where["xscale"] = where["yscale"] = side
    where["xsize"], where["ysize"] = width, height


def dbz_codes() -> np.ndarray:
    """Most are undetect; not square."""
    codes = np.full((30, 40), NO_ECHO)
    codes[0, :6] = [NO_DATA, -33.5, -30, 0, 20, 78]
    return codes


def test_odim_reflectivity_keeps_weak_echoes_and_no_echo_is_zero(tmp_path):
    event = READERS["odim"](write_odim(tmp_path / "odim.h5", {"DBZH": dbz_codes()}))
    rates = [marshall_palmer(dbz) for dbz in (-33.5, -30, 0, 20)]
    np.testing.assert_allclose(event.rain_rate[0, 0, :5], [np.nan, *rates], rtol=1e-6)
    assert np.isnan(event.rain_rate[0, 0, 5])  # clutter of 78 dBZ, 2704 mm/h
    assert (event.rain_rate[0, 1:] == 0).all() and (event.rain_rate[0, 0, 6:] == 0).all()
    assert event.time[0] == at("2024-11-26T01:00")
    processing = event.grid.pop("processing")
    assert processing.startswith("DBZH by Z = 200 R^1.6, undetect as 0")
    assert event.grid.pop("projection") == LAEA
    expected = {"x1": -40000, "y1": -30000, "x2": 40000, "y2": 30000}
    expected |= {"pixel_size_m": 2000, "pixel_size_y_m": 2000}
    assert event.grid == pytest.approx(expected, abs=1e-3)


def test_odim_rates_and_amounts(tmp_path):
    codes = np.full((30, 40), NO_ECHO)
    codes[0, :3] = [NO_DATA, 0, 6]
    fields = {"ACRR": codes, "DBZH": dbz_codes()}
    path = write_odim(tmp_path / "odim.h5", fields, gain=0.5, offset=0.25)
    event = READERS["odim"](path)  # 0.25 and 3.25 mm in ten minutes; undetect is not the offset
    np.testing.assert_allclose(event.rain_rate[0, 0, :4], [np.nan, 1.5, 19.5, 0], rtol=1e-6)
    assert event.time[0] == at("2024-11-26T01:05:01")
    assert event.grid["processing"].startswith("ACRR in mm per 10 minutes, undetect as 0")
    path = write_odim(path, {"DBZH": dbz_codes(), "RATE": codes}, gain=0.5, offset=0.25)
    event = READERS["odim"](path)
    np.testing.assert_allclose(event.rain_rate[0, 0, :4], [np.nan, 0.25, 3.25, 0], rtol=1e-6)
    assert event.time[0] == at("2024-11-26T01:00")
    assert event.grid["processing"].startswith("RATE, undetect as 0")


@pytest.mark.parametrize("above", ["dataset1/what", "what"])
@pytest.mark.parametrize("name", ["gain", "offset", "undetect", "nodata", "quantity"])
def test_odim_attributes_are_inherited_each_on_its_own(tmp_path, name, above):
    path = write_odim(tmp_path / "odim.h5", {"RATE": dbz_codes()}, gain=0.1, offset=5.0)
    expected = READERS["odim"](path).rain_rate
    with h5py.File(path, "a") as file:
        own, higher = file["dataset1/data1/what"].attrs, file[above].attrs
        value = own[name]
        higher[name] = np.bytes_("VRAD") if name == "quantity" else 17.0
    np.testing.assert_array_equal(READERS["odim"](path).rain_rate, expected)  # the own hides it
    set_attributes(path, above, **{name: value})
    with h5py.File(path, "a") as file:
        del file["dataset1/data1/what"].attrs[name]
    np.testing.assert_array_equal(READERS["odim"](path).rain_rate, expected)


def test_odim_times_and_scales_may_stand_in_other_groups(tmp_path):
    path = write_odim(tmp_path / "odim.h5", {"ACRR": dbz_codes().clip(0)})
    expected = READERS["odim"](path)
    with h5py.File(path, "a") as file:
        for name in ("startdate", "starttime", "enddate", "endtime"):
            file["dataset1/data1/what"].attrs[name] = file["dataset1/what"].attrs[name]
        del file["dataset1/what"]
        scales = file.create_group("dataset1/where").attrs
        for name in ("xscale", "yscale"):
            scales[name] = file["where"].attrs[name]
            del file["where"].attrs[name]
    event = READERS["odim"](path)
    np.testing.assert_array_equal(event.rain_rate, expected.rain_rate)
    assert event.time == expected.time and event.grid == expected.grid


# Type of the data, nodata and undetect as attributes, and the same as they are stored.
LEVELS = [
    ("f4", -9999.9, -8888.8, -9999.9, -8888.8),
    ("f4", np.float32(-9999.9), np.float32(-8888.8), -9999.9, -8888.8),
    ("f8", np.float32(-9999.9), np.float32(-8888.8), -9999.9, -8888.8),
    ("f8", np.float32(-9999.9), np.float32(-8888.8), np.float32(-9999.9), np.float32(-8888.8)),
    ("f4", -1, -2, -1, -2),
    ("f4", -1.0, np.nan, -1, np.nan),
    ("f4", np.nan, -1.0, np.nan, -1),
    ("f2", -9999.9, -8888.8, -9999.9, -8888.8),
    ("u1", 255.0, 0.0, 255, 0),
    ("u1", np.bytes_("255"), np.bytes_("0"), 255, 0),
    ("u2", np.array([65535]), np.array([0.0]), 65535, 0),
    ("i2", -1.0, -2.0, -1, -2),
    ("i4", -9999000.0, -8888000.0, -9999000, -8888000),
]


@pytest.mark.parametrize(("dtype", "nodata", "undetect", "missing", "dry"), LEVELS)
def test_odim_levels_are_compared_in_the_type_of_the_data(
    tmp_path, dtype, nodata, undetect, missing, dry
):
    codes = np.full((30, 40), dry).astype(dtype)
    codes[0, :3] = np.array([missing, 3, 7]).astype(dtype)
    path = write_odim(tmp_path / "odim.h5", {"RATE": codes}, gain=0.5, offset=0.25)
    set_attributes(path, "dataset1/data1/what", nodata=nodata, undetect=undetect)
    rain = READERS["odim"](path).rain_rate[0]
    np.testing.assert_array_equal(rain[0, :4], [np.nan, 1.75, 3.75, 0])
    assert (rain[1:] == 0).all()


def test_odim_levels_that_are_not_there(tmp_path):
    codes = np.full((30, 40), 255, np.uint8)
    path = write_odim(tmp_path / "odim.h5", {"RATE": codes})
    for nodata, undetect in ((-1.0, np.nan), (np.nan, -1), (511, 511)):
        set_attributes(path, "dataset1/data1/what", nodata=nodata, undetect=undetect)
        assert (READERS["odim"](path).rain_rate == 255).all()
    path = write_odim(path, {"RATE": np.full((30, 40), np.nan)})
    set_attributes(path, "dataset1/data1/what", nodata=np.nan, undetect=np.nan)
    assert np.isnan(READERS["odim"](path).rain_rate).all()  # what is both is no data
    with h5py.File(path, "a") as file:
        del file["dataset1/data1/what"].attrs["nodata"]
    assert (READERS["odim"](path).rain_rate == 0).all()


@pytest.mark.parametrize(
    ("date", "time"),
    [
        ("20240711", "1230"),
        ("20240711", "93000"),
        ("20240711", "1230000"),
        ("20240711", "123060"),
        ("20240711", "243000"),
        ("20240711", "12:30:00"),
        ("20240711", "١٢٣٠٠٠"),
        ("20240711", ""),
        ("20240711", np.int32(1230)),  # 00:12:30, or half past twelve
        ("20240711", 123000.0),
        ("240711", "123000"),
        ("2024711", "123000"),
        ("20240231", "123000"),
        ("2024-07-11", "123000"),
    ],
)
def test_odim_times_need_all_their_digits(tmp_path, date, time):
    path = write_odim(tmp_path / "odim.h5", {"RATE": dbz_codes()})
    set_attributes(path, "what", date=date, time=time)
    refuse("odim", path, "its time is '.*', expected all digits of YYYYMMDD HHMMSS")
    path = write_odim(path, {"ACRR": dbz_codes()})
    set_attributes(path, "dataset1/what", enddate=date, endtime=time)
    refuse("odim", path, "its time is '.*', expected all digits of YYYYMMDD HHMMSS")


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("123000", "12:30:00"),
        (np.bytes_("123000"), "12:30:00"),
        (np.array([b"123000\0\0 "]), "12:30:00"),
        (" 000005 ", "00:00:05"),
        (np.int64(123000), "12:30:00"),
        (np.int32(93000), "09:30:00"),
        (np.int32(10500), "01:05:00"),
    ],
)
def test_odim_times_as_texts_and_numbers(tmp_path, time, expected):
    path = write_odim(tmp_path / "odim.h5", {"DBZH": dbz_codes()})
    set_attributes(path, "what", date=np.int32(20240711), time=time)
    assert READERS["odim"](path).time[0] == at(f"2024-07-11T{expected}")


@pytest.mark.parametrize(
    ("longlat", "in_metres"),
    [
        ("+proj=longlat +datum=WGS84 +no_defs", None),
        ("+proj=latlong +a=6378.137 +b=6356.752", "+proj=latlong +a=6378137 +b=6356752"),
        ("EPSG:4326", None),
    ],
)
def test_odim_in_degrees_has_pixels_in_metres(tmp_path, longlat, in_metres):
    paths = [
        write_odim(tmp_path / f"{minute}.h5", {"DBZH": dbz_codes()}, minute=minute)
        for minute in (0, 5)
    ]
    for path, shift in zip(paths, (0, 9e-6), strict=True):
        place_in_degrees(path, longlat, west=5.0 + shift, south=51.0, side=0.01)
    grid = read_frames(paths, READERS["odim"], 5).grid
    assert grid["projection"] == (in_metres or longlat)
    assert [grid[name] for name in CORNERS] == pytest.approx([5, 51, 5.4, 51.3], abs=1e-9)
    geod = pyproj.Geod(ellps="WGS84")
    for name, ends in (
        ("pixel_size_m", (5.195, 51.15, 5.205, 51.15)),
        ("pixel_size_y_m", (5.2, 51.145, 5.2, 51.155)),
    ):
        assert grid[name] == pytest.approx(geod.inv(*ends)[2], rel=1e-6)
    place_in_degrees(paths[1], longlat, west=5.00002, south=51.0, side=0.01)
    with pytest.raises(InputError, match="differs in x1"):
        read_frames(paths, READERS["odim"], 5)
    place_in_degrees(paths[1], longlat, west=5.0, south=51.0, side=0.01)
    set_attributes(paths[1], "where", xscale=0.02)
    refuse("odim", paths[1], r"make them 0\.01 x 0\.01 degrees, expected 0\.01 x 0\.02 degrees")


# ---- Z-R relations of the user -------------------------------------------------------------------


def test_reflectivity_by_the_relation_that_the_user_names(tmp_path):
    fields = {"DBZH": dbz_codes(), "RATE": dbz_codes().clip(0)}
    path = write_odim(tmp_path / "odim.h5", fields)
    event = READERS["odim"](path, Reading(zr=(300.0, 1.4)))
    expected = [(10 ** (dbz / 10) / 300) ** (1 / 1.4) for dbz in (-33.5, -30, 0, 20)]
    np.testing.assert_allclose(event.rain_rate[0, 0, 1:5], expected, rtol=1e-6)
    assert event.grid["processing"].startswith("DBZH by Z = 300 R^1.4, undetect as 0")
    path = tmp_path / "fmi.pgm"
    path.write_bytes(fmi_file())
    event = READERS["fmi"](path, Reading(zr=(300.0, 1.4)))
    expected = [(10 ** (dbz / 10) / 300) ** (1 / 1.4) for dbz in (-31.5, 38)]
    np.testing.assert_allclose(event.rain_rate[0, 0, 2:4], expected, rtol=1e-6)
    assert event.grid["processing"].startswith("dBZ by Z = 300 R^1.4, no echo as 0")


def test_a_relation_is_refused_where_there_is_no_reflectivity(tmp_path):
    path = write_odim(tmp_path / "odim.h5", {"RATE": dbz_codes(), "ACRR": dbz_codes()})
    knmi = write_knmi(tmp_path / "knmi.h5")
    mch = write_gif(tmp_path / "AQC161932045V_00005.801.gif", mch_codes())
    for name, file, held in (
        ("odim", path, "it holds RATE, ACRR"),
        ("knmi", knmi, "amounts"),
        ("mch", mch, "amounts"),
    ):
        with pytest.raises(InputError, match=rf"holds no reflectivity.*Z = 300 R\^1\.4.*{held}"):
            READERS[name](file, Reading(zr=(300.0, 1.4)))


def test_odim_where_one_code_says_no_echo_and_no_data(tmp_path):
    path = write_odim(tmp_path / "odim.h5", {"DBZH": dbz_codes()})
    with h5py.File(path, "a") as file:
        file["dataset1/data1/what"].attrs["undetect"] = NO_DATA
        file["dataset1/data1/data"][0, 1:] = 20.0
        file["dataset1/data1/data"][1:] = NO_DATA
    rain = READERS["odim"](path).rain_rate
    assert np.isnan(rain[0, 1:]).all() and np.isnan(rain[0, 0, 0]) and (rain[0, 0, 1:] > 0).all()


def test_odim_in_km_becomes_metres(tmp_path):
    path = write_odim(tmp_path / "odim.h5", {"DBZH": dbz_codes()}, projection=KM_STEREO)
    grid = READERS["odim"](path).grid
    assert grid["projection"] == M_STEREO
    got = [grid[name] for name in ("x1", "y1", "x2", "y2", "pixel_size_m", "pixel_size_y_m")]
    assert got == pytest.approx([-40e3, -3680e3, 40e3, -3620e3, 2000, 2000], abs=1e-3)


def test_odim_that_is_not_one_composite_of_rain(tmp_path):
    path = tmp_path / "odim.h5"
    refuse("odim", write_odim(path, {"DBZH": dbz_codes()}, kind="PVOL"), "is a PVOL, expected a CO")
    refuse("odim", write_odim(path, {"VRAD": dbz_codes()}), "has VRAD, expected RATE, ACRR, DBZH")
    twice = {"DBZH": dbz_codes(), "DBZH+": dbz_codes()}
    refuse("odim", write_odim(path, twice), "has DBZH 2 times, expected one composite")
    refuse("odim", write_knmi(path), "is not ODIM HDF5 with a composite, or it is damaged")
    path.write_bytes(b"no HDF5")
    refuse("odim", path, "is not ODIM HDF5 with a composite, or it is damaged")
    refuse("odim", tmp_path / "none.h5", "is missing, expected ODIM HDF5")
    refuse("odim", tmp_path, "is no file, expected ODIM HDF5")


# ---- amounts -------------------------------------------------------------------------------------


def write_amounts(
    folder: Path, starts: list[int], ends: list[int], quantity: str = "ACRR"
) -> list[Path]:
    """ODIM files of amounts from and to these minutes after 01:00."""
    paths = []
    for start, end in zip(starts, ends, strict=True):
        path = folder / f"{end}.h5"
        write_odim(path, {quantity: dbz_codes().clip(0, 1)}, minute=end)
        times = [at("2024-11-26T01:00") + np.timedelta64(minute, "m") for minute in (start, end)]
        dates, clocks = zip(*(str(time).split("T") for time in times), strict=True)
        texts = [*(date.replace("-", "") for date in dates), *(c.replace(":", "") for c in clocks)]
        names = ("startdate", "enddate", "starttime", "endtime")
        set_attributes(path, "dataset1/what", **dict(zip(names, texts, strict=True)))
        paths.append(path)
    return paths


OVERLAPPING = [
    ([-60, -55, -50, -45], [0, 5, 10, 15]),  # running hours
    ([0, 0, 0, 0], [5, 10, 15, 20]),  # sums since a start
    ([-300, 0, 0, 0], [0, 5, 10, 15]),  # and set back
    ([-5, 0, 4, 10], [0, 5, 10, 15]),  # once, by a minute
    ([-10, -5, 0, 5], [0, 5, 10, 15]),  # of two frames each
]


@pytest.mark.parametrize(("starts", "ends"), OVERLAPPING)
def test_amounts_that_overlap_are_refused_and_rates_are_not(tmp_path, starts, ends):
    paths = write_amounts(tmp_path, starts, ends)
    events = [READERS["odim"](path) for path in paths]
    with pytest.raises(InputError, match="intervals of its frames overlap: the rain up to 2024-11"):
        read_frames(paths[::-1], READERS["odim"], 5)
    with pytest.raises(InputError, match="overlap"):
        join_events([replace(events[0], interval_start=None), *events[1:]], 5)
    rates = write_amounts(tmp_path, starts, ends, "RATE")  # scanning may take what it takes
    event = read_frames(rates, READERS["odim"], 5)
    assert event.interval_start is None and event.notes == ()


def test_amounts_side_by_side_are_rates_and_it_is_said(tmp_path):
    event = read_frames(write_amounts(tmp_path, [-5, 0, 5], [0, 5, 10]), READERS["odim"], 5)
    assert event.notes == ("rain rates are made from amounts of 5 minutes",)
    np.testing.assert_array_equal(event.time - event.interval_start, np.timedelta64(5, "m"))
    # With gaps between, and a whole hour each hour: not what a forecast needs, but no overlap.
    event = read_frames(write_amounts(tmp_path, [-1, 4, 9], [0, 5, 10]), READERS["odim"], 5)
    assert event.notes == ("rain rates are made from amounts of 1 minutes",)
    hours = read_frames(write_amounts(tmp_path, [0, 60, 120], [60, 120, 180]), READERS["odim"], 5)
    with pytest.raises(InputError, match="are 60 minutes apart"):
        check_cadence(hours, 5)


@pytest.mark.parametrize(("seconds", "is_refused"), [(30, False), (31, True)])
def test_ends_of_intervals_may_jitter(tmp_path, seconds, is_refused):
    paths = write_amounts(tmp_path, [-5, 0], [0, 5])
    start = at("2024-11-26T01:00") - np.timedelta64(seconds, "s")
    clock = str(start)[11:].replace(":", "")
    set_attributes(paths[1], "dataset1/what", starttime=clock)
    if is_refused:
        with pytest.raises(InputError, match="overlap"):
            read_frames(paths, READERS["odim"], 5)
    else:
        assert len(read_frames(paths, READERS["odim"], 5).time) == 2
        set_attributes(paths[1], "dataset1/what", starttime="010001")
        event = read_frames(paths, READERS["odim"], 5)
        assert event.notes == ("rain rates are made from amounts of 5 minutes",)


def test_amounts_of_other_services_have_intervals(tmp_path):
    event = READERS["knmi"](write_knmi(tmp_path / "k.h5", start="25-AUG-2010;00:00:00.000"))
    assert event.interval_start[0] == at("2010-08-25T00:00")
    assert event.notes == ("rain rates are made from amounts of 1440 minutes",)
    before = replace(event, time=event.time - 300, interval_start=event.interval_start - 300)
    with pytest.raises(InputError, match="overlap"):
        join_events([before, event], 5)
    event = READERS["mch"](write_gif(tmp_path / "AQC161932045V_00005.801.gif", mch_codes()))
    assert event.interval_start[0] == at("2016-07-11T20:40")
    assert event.notes == ("rain rates are made from amounts of 5 minutes",)


def test_rain_that_is_impossible_throughout_is_refused(tmp_path):
    codes = np.full((30, 40), 75.0)
    refuse("odim", write_odim(tmp_path / "odim.h5", {"DBZH": codes}), "100.0% of the pixels .* 500")


def test_missing_packages_are_named(tmp_path, monkeypatch):
    path = write_odim(tmp_path / "odim.h5", {"DBZH": dbz_codes()})
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InputError, match="pip install pysteps h5py pyproj"):
        READERS["odim"](path)


@pytest.mark.parametrize("name", READERS)
def test_missing_packages_are_named_before_files_are_read(name, monkeypatch):
    require_reader(name)
    for package in ("h5py", "xarray"):
        monkeypatch.setitem(sys.modules, package, None)
    if name == "npz":
        require_reader(name)
    else:
        with pytest.raises(InputError, match=r"pip install (pysteps h5py|xarray netCDF4)"):
            require_reader(name)


INFER = Path(__file__).parents[3] / "infer.py"


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        [str(INFER), "--reader", "fmi", "--data", "fmi.pgm"],
        [str(INFER), "--reader", "odim", "--data", "none.h5"],
        ["-m", "ldcast.data.build", "--reader", "fmi", "fmi.pgm", "--out", "event.npz"],
        ["-c", "from ldcast import pysteps_plugin as plugin; plugin.register()"],
    ],
)
def test_pysteps_says_nothing(tmp_path, command):
    (tmp_path / "fmi.pgm").write_bytes(fmi_file())
    environment = {**os.environ, "PYTHONPATH": str(INFER.parent)}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == ("event.npz" in command) and "ysteps" not in done.stdout + done.stderr
    assert done.returncode == 2 * (str(INFER) in command), done.stderr


# ---- many files ----------------------------------------------------------------------------------


def write_npz(path: Path, minute: int, shape: tuple[int, int] = (3, 4), **grid) -> Path:
    time = np.array([at("2020-06-01T00:00") + np.timedelta64(minute, "m")])
    write_event(RainEvent(np.full((1, *shape), minute, np.float32), time, grid), path)
    return path


def test_frames_are_joined_in_order_of_time(tmp_path):
    paths = [
        write_npz(
            tmp_path / f"{minute}.npz", minute, x1=0.0, source=f"radar {minute}", units="mm/h"
        )
        for minute in (10, 0, 5)
    ]
    event = read_frames(iter(paths), READERS["npz"], 5)
    assert event.rain_rate[:, 0, 0].tolist() == [0, 5, 10] and event.rain_rate.shape == (3, 3, 4)
    assert (np.diff(event.time) == np.timedelta64(300, "s")).all()
    assert event.grid == {"x1": 0.0, "units": "mm/h"}  # sources differ
    assert event.name == "0..10" and event.source.count("npz") == 3
    assert read_frames(paths[:1], READERS["npz"], 5).grid["source"] == "radar 10"


@pytest.mark.parametrize(
    ("minute", "changed", "message"),
    [
        (5, {"x1": 1.1}, r"b\.npz differs in x1 from .*a\.npz: got 1\.1, expected 0\.0"),
        (0, {}, r"a\.npz and .*b\.npz both have the frame of 2020-06-01T00:00.*leave one out"),
        (5, {"shape": (4, 4)}, r"differs in pixels from .*: got \(4, 4\), expected \(3, 4\)"),
        (5, {"x1": 1.0}, r"b\.npz differs in x1 from .*a\.npz: got 1\.0, expected 0\.0"),
        (5, {"projection": "+proj=stere"}, "differs in projection .* expected None"),
    ],
)
def test_frames_that_cannot_be_joined(tmp_path, minute, changed, message):
    paths = [
        write_npz(tmp_path / "a.npz", 0, x1=0.0),
        write_npz(tmp_path / "b.npz", minute, **{"x1": 0.0, **changed}),
    ]
    with pytest.raises(InputError, match=message):
        read_frames(paths, READERS["npz"], 5)


def test_corners_and_spellings_may_differ_by_what_moves_nothing(tmp_path):
    place = {
        **{"x1": 0.0, "x2": 4000.0, "y1": 0.0, "y2": 3000.0},
        **{"pixel_size_m": 1000.0, "projection": "+proj=laea +lat_0=55.0 +x_0=1e6 +no_defs"},
    }
    near = {
        **{"x1": 0.99, "x2": 3999.1, "y1": -0.9, "y2": 3000.9},
        **{"pixel_size_m": 1000.9, "projection": "+lat_0=55  +proj=laea +no_defs +x_0=1000000"},
    }
    first = write_npz(tmp_path / "a.npz", 0, **place)
    second = write_npz(tmp_path / "b.npz", 5, **near)
    assert read_frames([second, first], READERS["npz"], 5).grid == place  # the first in time
    for changed in (
        *({"x1": 1.01}, {"x2": 3998.9}, {"y1": -1.01}, {"y2": 3001.1}, {"pixel_size_m": 1001.1}),
        {"projection": "+proj=laea +lat_0=55.0001 +x_0=1e6 +no_defs"},
        {"projection": "+proj=laea +lat_0=55.0 +x_0=1e6"},
        {"projection": "unknown"},
    ):
        with pytest.raises(InputError, match=f"differs in {next(iter(changed))} from"):
            read_frames([first, write_npz(second, 5, **place | changed)], READERS["npz"], 5)


def test_times_as_read_and_intervals_of_some_files_stay():
    time = [np.array([at(f"2020-06-01T00:{minute}")]) for minute in ("00", "05", "10")]
    events = [RainEvent(np.zeros((1, 2, 2), np.float32), one) for one in time]
    assert join_events(events, 5).time_as_read is None
    events[1] = replace(events[1], time_as_read=time[1] + 7, interval_start=time[0] + 60)
    joined = join_events(events, 5)
    np.testing.assert_array_equal(joined.time_as_read - joined.time, [0, 7, 0])
    assert np.isnat(joined.interval_start).tolist() == [True, False, True]


def test_files_may_interleave_and_differ_in_what_is_no_place(tmp_path):
    first = read_frames([write_npz(tmp_path / f"{m}.npz", m) for m in (0, 10)], READERS["npz"], 5)
    second = read_frames([write_npz(tmp_path / f"{m}.npz", m) for m in (5, 15)], READERS["npz"], 5)
    for event, created in ((first, "today"), (second, "yesterday")):
        event.grid.update(created=created, x1=np.nan, y1=2.0)
    event = join_events([first, second], 5)
    assert event.rain_rate[:, 0, 0].tolist() == [0, 5, 10, 15]
    assert (np.diff(event.time) == np.timedelta64(300, "s")).all()
    assert event.grid["y1"] == 2.0 and np.isnan(event.grid["x1"]) and len(event.grid) == 2


def test_no_files_are_no_event():
    with pytest.raises(InputError, match="got no files"):
        read_frames([], READERS["npz"], 5)


def test_readers_by_suffix():
    assert reader_name(Path("a.NC")) == reader_name(Path("a.zarr")) == "xarray"
    assert reader_name(Path("a.npz")) == "npz"
    assert reader_name(Path("a.h5")) is None and reader_name(Path("a.gif")) is None


# ---- real files ----------------------------------------------------------------------------------

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"needs real files in {DATA}")
GRID = ("pixel_size_m", "pixel_size_y_m", "projection", "x1", "y1", "x2", "y2")


@needs_data
@pytest.mark.parametrize(
    ("name", "folder", "event_file"),
    [
        ("mch", "mch_gif", "mch_20160711"),
        ("fmi", "fmi_pgm", "fmi_20160928"),
        ("knmi", "knmi_h5", "knmi_20100826"),
    ],
)
def test_real_files_equal_the_event_files(name, folder, event_file):
    paths = sorted((DATA / "raw" / folder).iterdir())
    event = read_frames(paths[::-1], READERS[name], 5)
    assert len(event.time) == 6
    with np.load(DATA / "train" / f"{event_file}.npz") as known:
        np.testing.assert_array_equal(event.rain_rate.astype(np.float16), known["rain_rate"][:6])
        np.testing.assert_array_equal(event.time, known["time"][:6])
        for entry in GRID:
            if entry == "projection":
                assert event.grid[entry] == known[entry].item()
            else:  # corners pass through pyproj, whose versions differ in the last digits
                assert event.grid[entry] == pytest.approx(known[entry].item(), abs=1e-4)


@needs_data
def test_real_odim_equals_a_reading_by_hand():
    path = DATA / "raw" / "opera_cirrus_odim" / "T_PABV21_C_EUOC_20241126010500.hdf"
    event = READERS["odim"](path)
    with h5py.File(path) as file:
        what, where = (dict(file[name].attrs) for name in ("dataset1/data1/what", "where"))
        codes = file["dataset1/data1/data"][...]
    dbz = codes * what["gain"] + what["offset"]
    rain = (10 ** (dbz / 10) / 200) ** (1 / 1.6)
    rain[codes == what["undetect"]] = 0
    rain[(codes == what["nodata"]) | (rain > 500)] = np.nan
    np.testing.assert_allclose(event.rain_rate[0], rain, rtol=1e-6)
    assert (
        0 < np.count_nonzero(event.rain_rate[0] == 0) == np.count_nonzero(codes == what["undetect"])
    )
    assert event.time[0] == at("2024-11-26T01:05")
    to_map = pyproj.Transformer.from_crs("EPSG:4326", where["projdef"].decode(), always_xy=True)
    for corner, x, y in (("LL", "x1", "y1"), ("UR", "x2", "y2"), ("UL", "x1", "y2")):
        expected = to_map.transform(where[f"{corner}_lon"], where[f"{corner}_lat"])
        assert (event.grid[x], event.grid[y]) == pytest.approx(expected, abs=0.01)
    assert event.grid["pixel_size_m"] == where["xscale"]
