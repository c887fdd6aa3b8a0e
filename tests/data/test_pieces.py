"""Pieces of a domain: which pixels, and where they lie."""

from pathlib import Path

import numpy as np
import pytest

from ldcast import calibrate, verify
from ldcast.data import build
from ldcast.data.event import RainEvent
from ldcast.data.event_files import write_event
from ldcast.data.pieces import cut
from ldcast.data.readers.reading_flags import reading_of
from ldcast.data.readers.services import READERS
from ldcast.data.readers.specs import read_event
from ldcast.data.reading import AS_STATED, Reading
from ldcast.errors import InputError
from ldcast.forecasting.arguments import parse_flags

LAEA = "+proj=laea +lat_0=55 +lon_0=10 +x_0=0 +y_0=0 +ellps=WGS84 +units=m"
LONGLAT = "+proj=longlat +datum=WGS84 +no_defs"
HEIGHT, WIDTH = 40, 60
METRIC = {"x1": -60e3, "y1": -20e3, "x2": 60e3, "y2": 60e3}
SIZES = {"pixel_size_m": 2000.0, "pixel_size_y_m": 2000.0}


def make_event(**grid) -> RainEvent:
    """Pixel (row, column) holds 100 row + column / 100, so that a piece says where it is from."""
    rain = np.arange(HEIGHT)[:, None] + np.arange(WIDTH) / 100
    time = np.datetime64("2024-07-11T12:00", "s") + np.arange(4) * np.timedelta64(300, "s")
    return RainEvent(np.float32(rain) * np.ones((4, 1, 1), np.float32), time, grid, "europe")


def pixels(event: RainEvent) -> tuple[int, int, int, int]:
    """Row, column, height and width of where a piece was cut out."""
    first = event.rain_rate[0, 0, 0]
    row = int(first + 1e-4)
    return row, round(100 * (float(first) - row)), *event.rain_rate.shape[1:]


def corners(event: RainEvent) -> list[float]:
    return [float(event.grid[name]) for name in ("x1", "y1", "x2", "y2")]


def test_without_a_piece_the_event_stays() -> None:
    event = make_event()
    assert cut(event, AS_STATED) is event


def test_a_crop_has_its_pixels_and_its_corners() -> None:
    event = make_event(**METRIC, **SIZES, projection=LAEA, source="radar")
    piece = cut(event, Reading(crop=(10, 20, 16, 32)))
    assert pixels(piece) == (10, 20, 16, 32)
    assert corners(piece) == [-20e3, 60e3 - 52e3, 44e3, 40e3]
    assert piece.grid["pixel_size_m"] == 2000 and piece.grid["source"] == "radar"
    assert piece.rain_rate.base is None  # a view would hold the whole
    assert piece.notes == ()
    assert pixels(cut(event, Reading(crop=(0, 0, HEIGHT, WIDTH)))) == (0, 0, HEIGHT, WIDTH)


@pytest.mark.parametrize("grid", [{}, {"x1": 1.0, "y1": 2.0}, {**METRIC, "x2": "far"}])
def test_a_crop_needs_no_corners_and_keeps_no_wrong_ones(grid) -> None:
    piece = cut(make_event(**grid, pixel_size_m=1.0), Reading(crop=(1, 2, 3, 4)))
    assert piece.grid == {"pixel_size_m": 1.0} and pixels(piece) == (1, 2, 3, 4)


@pytest.mark.parametrize("crop", [(30, 0, 11, 60), (0, 30, 40, 31), (40, 0, 1, 1)])
def test_a_crop_outside_names_the_size(crop) -> None:
    with pytest.raises(InputError, match="no more than its 40 x 60 pixels"):
        cut(make_event(), Reading(crop=crop))


# ---- boxes ---------------------------------------------------------------------------------------


@pytest.fixture
def pyproj():
    return pytest.importorskip("pyproj", reason="boxes need pyproj, an extra")


def centres(event: RainEvent, pyproj) -> tuple[np.ndarray, np.ndarray]:
    """Longitude and latitude of all pixels of the whole event."""
    x1, y1, x2, y2 = corners(event)
    x = x1 + (np.arange(WIDTH) + 0.5) * (x2 - x1) / WIDTH
    y = y2 - (np.arange(HEIGHT) + 0.5) * (y2 - y1) / HEIGHT
    x, y = np.broadcast_arrays(x, y[:, None])
    if "longlat" in event.grid["projection"]:
        return x, y
    to_degrees = pyproj.Transformer.from_crs(event.grid["projection"], "OGC:CRS84", always_xy=True)
    return to_degrees.transform(x, y)


@pytest.mark.parametrize(
    ("grid", "box"),
    [
        (METRIC, (9.6, 55.1, 10.4, 55.3)),
        ({**METRIC, "x1": -1060e3, "x2": -940e3}, (-6.5, 54.0, -5.4, 54.4)),  # turned by 13 degrees
        ({"x1": 5.0, "y1": 40.0, "x2": 11.0, "y2": 44.0, "projection": LONGLAT}, (6, 41, 8, 43.05)),
    ],
)
def test_a_box_is_the_smallest_rectangle_that_holds_it(pyproj, grid, box) -> None:
    event = make_event(**{"projection": LAEA, **grid})
    piece = cut(event, Reading(box=box))
    row, column, height, width = pixels(piece)
    longitude, latitude = centres(event, pyproj)
    west, south, east, north = box
    inside = (longitude >= west) & (longitude <= east) & (latitude >= south) & (latitude <= north)
    rows, columns = inside.any(1).nonzero()[0], inside.any(0).nonzero()[0]
    # A corner of the box may lie in the last row or column where no centre of a pixel does.
    for first, last, start, size in (
        (*rows[[0, -1]], row, height),
        (*columns[[0, -1]], column, width),
    ):
        assert first - 1 <= start <= first and last <= start + size - 1 <= last + 1
    assert (row, column, height, width) != (0, 0, HEIGHT, WIDTH)
    (note,) = piece.notes
    assert f"as --crop {row} {column} {height} {width} does" in note
    crop = cut(event, Reading(crop=(row, column, height, width)))
    assert corners(crop) == corners(piece)
    assert (crop.rain_rate == piece.rain_rate).all()


def test_an_upright_box_is_exact(pyproj) -> None:
    event = make_event(x1=5.0, y1=40.0, x2=11.0, y2=44.0, projection=LONGLAT, **SIZES)
    piece = cut(event, Reading(box=(6.0, 41.0, 8.0, 43.0)))
    assert pixels(piece) == (10, 10, 20, 20)
    np.testing.assert_allclose(corners(piece), [6, 41, 8, 43])
    assert piece.grid["pixel_size_y_m"] == pytest.approx(11108, rel=1e-3)  # at 42 degrees north
    assert piece.grid["pixel_size_m"] == pytest.approx(8284, rel=1e-3)


@pytest.mark.parametrize("turns", [-360, 0, 360])
def test_degrees_may_count_from_elsewhere(pyproj, turns) -> None:
    event = make_event(x1=175.0, y1=40.0, x2=181.0, y2=44.0, projection=LONGLAT)
    west, south, east, north = 179, 41, 180.5, 43
    piece = cut(event, Reading(box=(west + turns, south, east + turns, north)))
    assert pixels(piece) == (10, 40, 20, 15)


def test_a_box_on_a_grid_of_a_rotated_pole_is_in_true_degrees(pyproj) -> None:
    grid = {"x1": -3.0, "y1": -2.0, "x2": 3.0, "y2": 2.0}
    rotated = "+proj=ob_tran +o_proj=longlat +o_lat_p=39.25 +o_lon_p=0 +lon_0=18 +datum=WGS84"
    wkt = pyproj.CRS.from_cf(
        {
            "grid_mapping_name": "rotated_latitude_longitude",
            "grid_north_pole_latitude": 39.25,
            "grid_north_pole_longitude": -162.0,
        }
    ).to_wkt()
    for projection in (rotated, wkt):
        event = make_event(**grid, projection=projection)
        piece = cut(event, Reading(box=(17, 50, 19, 51.5)))  # the middle is 18 east, 50.75 north
        row, column, height, width = pixels(piece)
        assert 6 <= row <= 14 and 15 <= column <= 25
        assert abs(2 * row + height - HEIGHT) <= 2 and abs(2 * column + width - WIDTH) <= 2
        with pytest.raises(InputError, match=r"from 13\.\d+ to 22\.\d+ degrees east and from 48"):
            cut(event, Reading(box=(-1, -1, 1, 1)))


def test_a_box_that_goes_on_outside_is_said(pyproj) -> None:
    event = make_event(x1=5.0, y1=40.0, x2=11.0, y2=44.0, projection=LONGLAT)
    piece = cut(event, Reading(box=(0, 41, 8, 43)))
    assert pixels(piece) == (10, 0, 20, 30)
    assert "the rest of it lies outside" in piece.notes[0]


def test_a_box_outside_names_the_domain_in_degrees(pyproj) -> None:
    message = "from 9.05 to 10.95 degrees east and from 54.82 to 55.54 north"
    for box in ((30, 40, 31, 41), (-170, -56, -169, -55)):
        with pytest.raises(InputError, match=f"europe: --box .* holds no pixel, .*{message}"):
            cut(make_event(**METRIC, projection=LAEA), Reading(box=box))


@pytest.mark.parametrize("grid", [{}, METRIC, {"projection": LAEA}])
def test_a_box_needs_to_know_the_place(grid) -> None:
    with pytest.raises(InputError, match="no projection with x1, y1, x2 and y2; give --crop"):
        cut(make_event(**grid), Reading(box=(9, 55, 10, 56)))


def test_a_projection_that_is_none_is_said(pyproj) -> None:
    with pytest.raises(InputError, match="a projection that pyproj knows, got 'my map'"):
        cut(make_event(**METRIC, projection="my map"), Reading(box=(9, 55, 10, 56)))


# ---- files and flags -----------------------------------------------------------------------------

CROP = Reading(crop=(10, 20, 16, 32))


def test_event_files_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "europe.npz"
    write_event(make_event(**METRIC), path)
    for event in (read_event(path, CROP), READERS["npz"](path, CROP)):
        assert pixels(event) == (10, 20, 16, 32)
    span = f"{path}@2024-07-11T12:05/2024-07-11T12:15"
    assert read_event(span, CROP).rain_rate.shape == (2, 16, 32)
    assert read_event("synthetic:3", CROP).rain_rate.shape[1:] == (16, 32)


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
@pytest.mark.parametrize("is_flipped", [False, True])
def test_of_netcdf_and_zarr_no_more_than_the_piece_is_loaded(
    tmp_path, monkeypatch, pyproj, suffix, is_flipped
) -> None:
    xarray = pytest.importorskip("xarray", reason="xarray is an extra")
    pytest.importorskip({".nc": "netCDF4", ".zarr": "zarr"}[suffix], reason="an extra")
    whole = make_event(**METRIC, projection=LAEA)
    metres = {"units": "m"}
    rain = xarray.DataArray(
        whole.rain_rate,
        dims=("time", "y", "x"),
        coords={
            "time": whole.time.astype("datetime64[ns]"),
            "y": ("y", 59e3 - 2000 * np.arange(HEIGHT), metres),
            "x": ("x", -59e3 + 2000 * np.arange(WIDTH), metres),
            "crs": ((), 0, pyproj.CRS(LAEA).to_cf()),
        },
        attrs={"units": "mm/h", "standard_name": "rainfall_rate", "grid_mapping": "crs"},
    ).rename("rain")
    rain = rain.isel(y=slice(None, None, -1)) if is_flipped else rain
    path = tmp_path / f"europe{suffix}"
    getattr(rain.to_dataset(), {".nc": "to_netcdf", ".zarr": "to_zarr"}[suffix])(path)
    loaded = []
    to_numpy = xarray.DataArray.to_numpy

    def counting(self):
        loaded.append(self.size)
        return to_numpy(self)

    monkeypatch.setattr(xarray.DataArray, "to_numpy", counting)
    expected = cut(whole, CROP)
    for event in (read_event(path, CROP), READERS["xarray"](path, CROP)):
        np.testing.assert_array_equal(event.rain_rate, expected.rain_rate)
        np.testing.assert_allclose(corners(event), corners(expected))
    assert max(loaded) == 4 * 16 * 32
    box = Reading(box=(9.6, 55.1, 10.4, 55.3))
    assert pixels(read_event(path, box)) == pixels(cut(whole, box))


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ("--crop 0 0 16 16 --box 1 2 3 4", "leave one out"),
        ("--crop -1 0 16 16", "0 or more"),
        ("--crop 0 0 0 16", "1 or more"),
        ("--box 3 40 2 50", "WEST below EAST"),
        ("--box 3 50 4 40", "SOUTH below NORTH"),
        ("--box 3 -91 4 40", "SOUTH below NORTH"),
        ("--box 3 nan 4 40", "in degrees"),
        ("--box inf 0 4 40", "in degrees"),
    ],
)
def test_flags_that_make_no_piece_are_refused(arguments, word) -> None:
    with pytest.raises(InputError, match=word):
        reading_of(parse_flags("", arguments.split()), 5)


def test_flags_become_a_reading() -> None:
    assert reading_of(parse_flags("", []), 5) == AS_STATED
    flags = parse_flags("", ["--crop", "1", "2", "3", "4"])
    assert reading_of(flags, 5) == Reading(crop=(1, 2, 3, 4))
    flags = parse_flags("", ["--box", "-10.5", "40", "5", "55"])
    assert reading_of(flags, 5) == Reading(box=(-10.5, 40, 5, 55))
    flags = parse_flags("", ["--box", "170", "-40", "-170", "-30"])  # across 180 degrees
    assert reading_of(flags, 5).box == (170, -40, 190, -30)


@pytest.mark.parametrize("tool", [verify, calibrate])
def test_verify_and_calibrate_read_the_piece(tool, tmp_path, monkeypatch, model_folder) -> None:
    asked = []

    def read(specs: list[str], how: Reading, num_frames: int, split: None) -> list[RainEvent]:
        asked.append(how)
        raise InputError("enough")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tool, "read_events", read)
    arguments = [
        "--model",
        str(model_folder),
        "--data",
        "europe.npz",
        "--crop",
        "10",
        "20",
        "16",
        "32",
    ]
    arguments += ["--out", "scores"] if tool is verify else []
    with pytest.raises(InputError, match="enough"):
        tool.main(arguments)
    assert asked == [CROP]


def test_build_writes_the_piece(tmp_path) -> None:
    write_event(make_event(**METRIC), tmp_path / "europe.npz")
    arguments = [str(tmp_path / "europe.npz"), "--out", str(tmp_path / "piece.npz")]
    build.main([*arguments, "--crop", "10", "20", "16", "32"])
    assert pixels(read_event(tmp_path / "piece.npz")) == (10, 20, 16, 32)
