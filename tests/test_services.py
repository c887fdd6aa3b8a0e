"""Files of weather services: the traps of each format, on files made here and on real ones."""

import gzip
import sys
from pathlib import Path

import numpy as np
import pytest

from ldcast.data.archive import RainEvent, write_event
from ldcast.data.services import (
    READERS,
    join_events,
    read_frames,
    reader_name,
    require_reader,
)
from ldcast.errors import InputError

h5py = pytest.importorskip("h5py", reason="KNMI and ODIM files are HDF5")
pyproj = pytest.importorskip("pyproj", reason="places ODIM and FMI images")
pytest.importorskip("pysteps", reason="its importers read all four formats")

DATA = Path(__file__).parents[1].parent / "shared" / "data"
NO_DATA = -9999000.0
NO_ECHO = -8888000.0
LAEA = "+proj=laea +lat_0=55.0 +lon_0=10.0 +x_0=0 +y_0=0 +units=m +ellps=WGS84"
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
    event = read_frames([late, early], READERS["mch"])
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
        "mch", write_gif(tmp_path / "AQC169992045V_00005.gif", mch_codes()), r"damaged \(ValueError"
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
) -> Path:
    """Fields by quantity, a dataset of one data group each, the first with a quality field."""
    height, width = next(iter(fields.values())).shape
    with h5py.File(path, "w") as file:
        what = {"object": kind, "date": "20241126", "time": "010000"}
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


@pytest.mark.parametrize("name", ["gain", "offset", "undetect"])
def test_odim_that_pysteps_would_scale_wrongly_is_refused(tmp_path, name):
    path = write_odim(tmp_path / "odim.h5", {"RATE": dbz_codes().clip(0)}, gain=0.1)
    with h5py.File(path, "a") as file:
        own = file["dataset1/data1/what"].attrs
        file["dataset1/what"].attrs[name] = own[name]
        READERS["odim"](path)  # the group's own hide it
        del own[name]
    refuse("odim", path, f"{name} of /dataset1/data1 stand in /dataset1/what, expected in")


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
    event = read_frames(iter(paths), READERS["npz"])
    assert event.rain_rate[:, 0, 0].tolist() == [0, 5, 10] and event.rain_rate.shape == (3, 3, 4)
    assert (np.diff(event.time) == np.timedelta64(300, "s")).all()
    assert event.grid == {"x1": 0.0, "units": "mm/h"}  # sources differ
    assert event.name == "0..10" and event.source.count("npz") == 3
    assert read_frames(paths[:1], READERS["npz"]).grid["source"] == "radar 10"


@pytest.mark.parametrize(
    ("minute", "changed", "message"),
    [
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
        read_frames(paths, READERS["npz"])


def test_files_may_interleave_and_differ_in_what_is_no_place(tmp_path):
    first = read_frames([write_npz(tmp_path / f"{m}.npz", m) for m in (0, 10)], READERS["npz"])
    second = read_frames([write_npz(tmp_path / f"{m}.npz", m) for m in (5, 15)], READERS["npz"])
    for event, created in ((first, "today"), (second, "yesterday")):
        event.grid.update(created=created, x1=np.nan, y1=2.0)
    event = join_events([first, second])
    assert event.rain_rate[:, 0, 0].tolist() == [0, 5, 10, 15]
    assert (np.diff(event.time) == np.timedelta64(300, "s")).all()
    assert event.grid["y1"] == 2.0 and np.isnan(event.grid["x1"]) and len(event.grid) == 2


def test_no_files_are_no_event():
    with pytest.raises(InputError, match="got no files"):
        read_frames([], READERS["npz"])


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
    event = read_frames(paths[::-1], READERS[name])
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
