"""Border lines: every kind of file, at the right pixels, and one line for each thing to fix."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ldcast.errors import InputError
from ldcast.products.borders import read_borders

SHARED = Path(__file__).parents[2].parent / "shared"
# The Swiss grid LV03, of 10 km pixels; its origin, the old observatory of Bern, is (600, 200) km.
SWISS = {
    "projection": "+proj=somerc +lon_0=7.43958333333333 +lat_0=46.9524055555556 +k_0=1 "
    "+x_0=600000 +y_0=200000 +ellps=bessel +towgs84=674.374,15.056,405.346,0,0,0,0 +units=m",
    **{"x1": 255000.0, "y1": -160000.0, "x2": 965000.0, "y2": 480000.0},
}
SHAPE = (64, 71)
BERN, ZURICH, GENEVA = (7.438637, 46.951083), (8.541694, 47.376887), (6.143158, 46.204391)
# On a sphere of 6371 km, so that a few lines of a test can project, too; 1 km pixels. Its corners
# are in metres all the same.
POLAR = {
    "projection": "+proj=stere +lat_0=90 +lat_ts=60 +lon_0=-97 +R=6371000 +units=km",
    **{"x1": -1e6, "y1": -5e6, "x2": 1e6, "y2": -4e6},
}
POLAR_SHAPE = (1000, 2000)


@pytest.fixture
def _pyproj() -> None:
    pytest.importorskip("pyproj", reason="border lines need pyproj, an extra")


needs_pyproj = pytest.mark.usefixtures("_pyproj")


def write(path: Path, geojson: Any) -> Path:
    path.write_text(json.dumps(geojson), encoding="utf-8")
    return path


def line(*positions: tuple[float, ...]) -> dict[str, Any]:
    return {"type": "LineString", "coordinates": positions}


def polar_pixels(longitude: np.ndarray, latitude: np.ndarray) -> np.ndarray:
    """Columns and rows in `POLAR`: Snyder 1987 (USGS PP 1395), equations 21-5, 21-6 and 21-4."""
    angle, north = np.radians(longitude + 97), np.radians(latitude)
    distance = 6371 * (1 + np.sin(np.radians(60))) * np.tan(np.pi / 4 - north / 2)
    return np.stack([distance * np.sin(angle) + 1000, -4000 + distance * np.cos(angle)], axis=-1)


@needs_pyproj
def test_known_places_lie_at_their_pixels(tmp_path: Path) -> None:
    """swisstopo gives the old observatory of Bern in LV03 and on WGS84."""
    path = write(tmp_path / "cities.geojson", line(BERN, ZURICH, GENEVA))
    (placed,) = read_borders([path], SWISS, SHAPE)
    np.testing.assert_allclose(placed[0], [34.5, 28.0], atol=0.001)  # 10 m
    assert np.abs(placed - [42.8, 23.2]).sum(axis=1).min() < 0.1  # Zurich: 683, 248 km
    np.testing.assert_allclose(placed[-1], [24.5, 36.2], atol=0.1)  # Geneva: 500, 118 km


@needs_pyproj
def test_a_projection_can_be_wkt(tmp_path: Path) -> None:
    """LV95: the same places as in LV03, 2000 and 1000 km further, to 2 m."""
    from pyproj import CRS

    wkt = CRS("EPSG:2056").to_wkt()
    grid = {"projection": wkt, "x1": 2255000.0, "y1": 840000.0, "x2": 2965000.0, "y2": 1480000.0}
    path = write(tmp_path / "cities.geojson", line(BERN, ZURICH))
    (placed,) = read_borders([path], grid, SHAPE)
    np.testing.assert_allclose(placed[0], [34.5, 28.0], atol=0.001)


@needs_pyproj
@pytest.mark.parametrize(
    ("in_m", "in_km"),
    [
        ("+a=6378137 +b=6356752.3", "+a=6378.137 +b=6356.7523"),  # as KNMI gives it
        ("+a=6378137 +b=6356752.3", "+a=6378137 +b=6356752.3 +units=km"),
    ],
)
def test_corners_are_in_metres_where_the_projection_counts_in_km(
    tmp_path: Path, in_m: str, in_km: str
) -> None:
    polar = "+proj=stere +lat_0=90 +lat_ts=60"
    path = write(tmp_path / "b.json", line((5.2, 52.1), (5.9, 52.0)))
    corners = {"x1": 0.0, "y1": -4415000.0, "x2": 700000.0, "y2": -3650000.0}
    placed = [
        read_borders([path], {"projection": f"{polar} {lengths}", **corners}, (765, 700))[0]
        for lengths in (in_m, in_km)
    ]
    np.testing.assert_allclose(placed[1], placed[0], atol=1e-6)
    assert ((placed[0] > 0) & (placed[0] < 700)).all()


@needs_pyproj
def test_lines_are_straight_in_degrees(tmp_path: Path) -> None:
    """The 49th parallel, two points in the file, is an arc on a polar map."""
    path = write(tmp_path / "parallel.json", line((-104, 49), (-90, 49)))
    (placed,) = read_borders([path], POLAR, POLAR_SHAPE)
    expected = polar_pixels(np.linspace(-104, -90, 141), np.full(141, 49.0))
    np.testing.assert_allclose(placed, expected, atol=0.01)
    assert np.ptp(placed[:, 1]) > 30  # pixels between its middle and its ends


@needs_pyproj
def test_every_geometry_with_lines_is_read(tmp_path: Path) -> None:
    def shifted(east: float) -> list[list[float]]:
        return [[BERN[0] + east, BERN[1]], [BERN[0] + east, BERN[1] + 0.05, 540.0]]  # with height

    geometries = [
        {"type": "LineString", "coordinates": shifted(0)},
        {"type": "MultiLineString", "coordinates": [shifted(0.1), shifted(0.2)]},
        {"type": "Polygon", "coordinates": [shifted(0.3), shifted(0.4)]},
        {"type": "MultiPolygon", "coordinates": [[shifted(0.5)], [shifted(0.6), shifted(0.7)]]},
        {"type": "Point", "coordinates": BERN},
        {"type": "MultiPoint", "coordinates": [BERN, ZURICH]},
    ]
    features: list[dict[str, Any]] = [
        {"type": "Feature", "geometry": {"type": "GeometryCollection", "geometries": geometries}},
        {"type": "Feature", "geometry": None},
    ]
    path = write(tmp_path / "all.geojson", {"type": "FeatureCollection", "features": features})
    placed = read_borders([path, path], SWISS, SHAPE)
    assert len(placed) == 2 * 8
    columns = [run[0, 0] for run in placed[:8]]
    assert (np.diff(columns) > 0.7).all()  # a tenth of a degree is 7.6 km


@needs_pyproj
def test_only_what_crosses_the_grid_is_kept(tmp_path: Path) -> None:
    far = [line((20, 40), (21, 41)), line((-170, -46), (-171, -47)), line((7, 60), (8, 60))]
    lines = [*far, line((0, 47), (20, 47))]  # both ends outside
    path = write(tmp_path / "b.json", {"type": "GeometryCollection", "geometries": lines})
    (placed,) = read_borders([path], SWISS, SHAPE)
    assert placed[:, 0].min() < 0 < 71 < placed[:, 0].max()
    assert ((placed > -30) & (placed < 101)).all()  # cut soon after the corners


@needs_pyproj
def test_a_grid_inside_an_area_has_no_lines(tmp_path: Path) -> None:
    ring = [(0, 40), (20, 40), (20, 55), (0, 55), (0, 40)]
    path = write(tmp_path / "area.json", {"type": "Polygon", "coordinates": [ring]})
    assert read_borders([path], SWISS, SHAPE) == []


@needs_pyproj
def test_the_seams_of_world_maps_are_not_crossed(tmp_path: Path) -> None:
    """An Australian map is torn in the Atlantic; a line there must not cross Australia."""
    australia = {
        "projection": "+proj=eqc +lon_0=135 +ellps=WGS84",
        **{"x1": -2e6, "y1": -4.5e6, "x2": 2e6, "y2": -1e6},
    }
    lines = [
        line((-46, -23), (-44, -23)),
        line((179.95, -25), (-179.95, -25)),  # not cut at 180 degrees, as it should be
        line((133, -20), (134, -20)),
    ]
    path = write(tmp_path / "b.json", {"type": "GeometryCollection", "geometries": lines})
    (placed,) = read_borders([path], australia, (350, 400))
    assert np.ptp(placed[:, 0]) == pytest.approx(11.1, abs=0.1)


@needs_pyproj
@pytest.mark.parametrize(
    ("projection", "corners"),
    [
        ("+proj=longlat +datum=WGS84", (5.0, 45.0, 11.0, 48.0)),
        ("EPSG:3857", (5e5, 5e6, 1.2e6, 6e6)),
    ],
)
def test_other_projections(tmp_path: Path, projection: str, corners: tuple[float, ...]) -> None:
    x1, y1, x2, y2 = corners
    grid = {"projection": projection, "x1": x1, "y1": y1, "x2": x2, "y2": y2}
    path = write(tmp_path / "b.json", line(BERN, ZURICH))
    (placed,) = read_borders([path], grid, (100, 200))
    x, y = BERN
    if projection == "EPSG:3857":  # the sphere's Mercator
        x, y = np.radians(x) * 6378137, np.arctanh(np.sin(np.radians(y))) * 6378137
    expected = [(x - x1) / (x2 - x1) * 200, (y2 - y) / (y2 - y1) * 100]
    np.testing.assert_allclose(placed[0], expected, atol=0.001)


# ---- shapefiles ----------------------------------------------------------------------------------


@needs_pyproj
@pytest.mark.parametrize("crs", [None, "EPSG:4326", "EPSG:2056"])
def test_shapefiles_by_their_own_projection(tmp_path: Path, crs: str | None) -> None:
    shapefile = pytest.importorskip("shapefile", reason="shapefiles need pyshp, an extra")
    import pyproj

    parts = [[BERN, ZURICH], [ZURICH, GENEVA]]
    expected = read_borders(
        [write(tmp_path / "b.json", {"type": "MultiLineString", "coordinates": parts})],
        SWISS,
        SHAPE,
    )
    if crs == "EPSG:2056":  # LV95, as swisstopo gives its borders
        transform = pyproj.Transformer.from_crs("OGC:CRS84", crs, always_xy=True).transform
        parts = [[transform(*position) for position in part] for part in parts]
    path = tmp_path / "borders.shp"
    with shapefile.Writer(path) as writer:
        writer.field("name", "C")
        writer.line(parts)
        writer.null()
        writer.record("border")
        writer.record("nothing")
    if crs:
        path.with_suffix(".prj").write_text(pyproj.CRS(crs).to_wkt("WKT1_ESRI"))
    for needless in (".shx", ".dbf"):
        path.with_suffix(needless).unlink()
    placed = read_borders([path], SWISS, SHAPE)
    assert len(placed) == len(expected) == 2
    for got, wanted in zip(placed, expected, strict=True):
        np.testing.assert_allclose(got[[0, -1]], wanted[[0, -1]], atol=0.01)  # 100 m


@needs_pyproj
def test_shapefiles_of_points_and_damaged_ones(tmp_path: Path) -> None:
    shapefile = pytest.importorskip("shapefile", reason="shapefiles need pyshp, an extra")
    import pyproj

    path = tmp_path / "cities.shp"
    with shapefile.Writer(path) as writer:
        writer.field("name", "C")
        writer.multipoint([BERN, ZURICH])
        writer.record("cities")
    with pytest.raises(InputError, match="has no lines"):
        read_borders([path], SWISS, SHAPE)
    moon = pyproj.CRS("+proj=longlat +R=1737400").to_wkt("WKT1_ESRI")
    for text in ("no WKT", moon):
        path.with_suffix(".prj").write_text(text)
        with pytest.raises(InputError, match="expected WKT of a place on Earth"):
            read_borders([path], SWISS, SHAPE)
    path.write_bytes(path.read_bytes()[:110])
    with pytest.raises(InputError, match="damaged or no shapefile"):
        read_borders([path], SWISS, SHAPE)


# ---- what a user can fix -------------------------------------------------------------------------


def refused(paths: list[Path], grid: dict[str, Any]) -> str:
    with pytest.raises(InputError) as caught:
        read_borders(paths, grid, SHAPE)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@needs_pyproj
@pytest.mark.parametrize(
    ("geojson", "reason"),
    [
        ({"type": "Topology", "objects": {}}, "has the type 'Topology'"),
        ({"objects": {}}, "damaged or no GeoJSON"),
        ([1, 2], "damaged or no GeoJSON"),
        ({"type": "LineString", "coordinates": [["a", "b"], ["c", "d"]]}, "damaged or no GeoJSON"),
        ({"type": "LineString", "coordinates": [[1, 2], [3]]}, "damaged or no GeoJSON"),
        ({"type": "MultiPoint", "coordinates": [BERN, ZURICH]}, "has no lines"),
        (line((600000, 200000), (610000, 200000)), "expected longitude and latitude in degrees"),
        (line((float("nan"), 47), (8, 47)), "expected longitude and latitude in degrees"),
        (line((47.0, 7.0), (47.4, 8.5)), "expected some at the data's grid, around 7.6, 46.6"),
    ],
)
def test_files_without_usable_lines(tmp_path: Path, geojson: Any, reason: str) -> None:
    assert reason in refused([write(tmp_path / "b.geojson", geojson)], SWISS)


@needs_pyproj
def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "there is no file" in refused([tmp_path / "absent.json"], SWISS)
    assert "expected .geojson, .json" in refused([tmp_path / "borders.kml"], SWISS)
    for content in (b"", b'{"type": "LineStr', b"\xff\xfe\x00", b"[" * 100_000):
        (tmp_path / "broken.json").write_bytes(content)
        assert "is no GeoJSON" in refused([tmp_path / "broken.json"], SWISS)


@needs_pyproj
def test_grids_that_cannot_place_lines(tmp_path: Path) -> None:
    paths = [write(tmp_path / "b.json", line(BERN, ZURICH))]
    assert "lacks projection, x1, y1, x2, y2" in refused(paths, {"pixel_size_m": 1000.0})
    assert "lacks y2" in refused(paths, {k: SWISS[k] for k in ("projection", "x1", "y1", "x2")})
    for projection in ("flat", "+proj=longlat +R=1737400", 'LOCAL_CS["roof",UNIT["metre",1]]'):
        message = f"the projection '{projection}', which pyproj cannot place on Earth"
        assert message in refused(paths, SWISS | {"projection": projection})  # the second: the Moon
    assert "expected x1 < x2" in refused(paths, SWISS | {"x1": 965000.0, "x2": 255000.0})
    assert "y1 < y2" in refused(paths, SWISS | {"y1": np.nan})
    far = {"projection": "+proj=ortho +lat_0=47", "x1": 1e8, "x2": 2e8}
    assert "nowhere on Earth" in refused(paths, SWISS | far)


def test_missing_pyproj_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyproj", None)
    assert "pip install pyproj" in refused([Path("borders.json")], SWISS)


@needs_pyproj
def test_missing_pyshp_names_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "shapefile", None)
    (tmp_path / "borders.shp").touch()
    assert "pip install pyshp" in refused([tmp_path / "borders.shp"], SWISS)


# ---- real radar data -----------------------------------------------------------------------------


@needs_pyproj
def test_the_radar_of_de_bilt_is_in_the_middle_of_its_circle(tmp_path: Path) -> None:
    """So corners and projection of the file, in metres, agree with each other and with us."""
    event = SHARED / "data/train/knmi_20100826.npz"
    if not event.exists():
        pytest.skip("needs the real radar data beside the repository")
    with np.load(event, allow_pickle=False) as file:
        has_data = np.isfinite(file["rain_rate"][0].astype(np.float32))
        grid = {name: file[name][()] for name in ("projection", "x1", "y1", "x2", "y2")}
    rows, columns = np.nonzero(has_data)
    middle = [(columns.min() + columns.max() + 1) / 2, (rows.min() + rows.max() + 1) / 2]
    path = write(tmp_path / "radar.json", line((5.17834, 52.10168), (5.2, 52.1)))
    (placed,) = read_borders([path], grid, has_data.shape)
    np.testing.assert_allclose(placed[0], middle, atol=1)
