"""Areas: files of them, the pixels that they have, what falls on them, and the table."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ldcast.data.readers.specs import read_event
from ldcast.errors import InputError
from ldcast.products.accumulate import accumulate
from ldcast.products.area_files import read_areas
from ldcast.products.area_table import table_path, write_area_table
from ldcast.products.areas import (
    AreasOnGrid,
    area_forecast,
    check_some_inside,
    find_pixels,
    notes_of_areas,
)
from ldcast.products.files import read_forecast, write_forecast
from ldcast.products.forecast import Forecast

shapely = pytest.importorskip("shapely", reason="areas need shapely, an extra")
pyproj = pytest.importorskip("pyproj", reason="areas need pyproj, an extra")

# The Swiss grid LV03, EPSG:21781, of 1 km pixels.
X1, Y1, HEIGHT, WIDTH = 600_000.0, 200_000.0, 30, 40
GRID = {
    "projection": "EPSG:21781",
    **{"x1": X1, "y1": Y1, "x2": X1 + 1000 * WIDTH, "y2": Y1 + 1000 * HEIGHT},
}
SHAPE = HEIGHT, WIDTH


def box(column: float, row: float, width: float, height: float) -> list[list[float]]:
    """The ring of a box in LV03, given in pixels from the north-west corner of the grid."""
    west, north = X1 + 1000 * column, Y1 + 1000 * (HEIGHT - row)
    east, south = west + 1000 * width, north - 1000 * height
    return [[west, south], [east, south], [east, north], [west, north], [west, south]]


def polygon(*rings: list[list[float]]) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": list(rings)}


def write(path: Path, crs: str | None = "urn:ogc:def:crs:EPSG::21781", **areas: Any) -> Path:
    """GeoJSON of areas by name; without a crs in degrees."""
    features = [
        {"type": "Feature", "properties": {"id": 1, "NAME": name}, "geometry": geometry}
        for name, geometry in areas.items()
    ]
    document: dict[str, Any] = {"type": "FeatureCollection", "features": features}
    if crs:
        document["crs"] = {"type": "name", "properties": {"name": crs}}
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def ramp() -> np.ndarray:
    """(H, W) mm/h: the number of the column."""
    return np.tile(np.arange(WIDTH, dtype=np.float32), (HEIGHT, 1))


@pytest.mark.core
def test_means_weigh_pixels_by_what_of_them_lies_in_the_area(tmp_path: Path) -> None:
    path = write(
        tmp_path / "areas.geojson",
        whole=polygon(box(4, 5, 3, 2)),  # columns 4, 5, 6
        halves=polygon(box(4.5, 5, 2, 2)),  # half of 4, 5, half of 6
        ring=polygon(box(10, 10, 3, 3), box(11, 11, 1, 1)),  # without the middle of column 11
        beyond=polygon(box(-2, 8, 4, 4)),  # half of it outside: columns 0 and 1
        parts={
            "type": "MultiPolygon",
            "coordinates": [[box(20, 3, 1, 1)], [box(30, 3, 3, 1)]],
        },
    )
    pixels = find_pixels(read_areas(path), GRID, SHAPE)
    assert pixels.names == ("whole", "halves", "ring", "beyond", "parts")
    mean, highest, share = pixels.over(ramp())
    np.testing.assert_allclose(mean, [5, 5, 11, 0.5, (20 + 30 + 31 + 32) / 4], atol=1e-3)
    assert highest.tolist() == [6, 6, 12, 1, 32]
    np.testing.assert_allclose(share, [1, 1, 1, 0.5, 1], atol=1e-3)
    sizes = np.add.reduceat(pixels.share, pixels.first)
    np.testing.assert_allclose(sizes, [6, 4, 8, 8, 4], atol=1e-3)


@pytest.mark.core
def test_no_data_do_not_count_and_are_said(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", half=polygon(box(4, 5, 4, 2)), none=polygon(box(8, 5, 2, 2)))
    pixels = find_pixels(read_areas(path), GRID, SHAPE)
    rain = ramp()
    rain[:, 6:] = np.nan
    mean, highest, share = pixels.over(np.stack([rain, ramp()]))
    np.testing.assert_allclose(mean[0, 0], 4.5, atol=1e-3)
    assert highest[0, 0] == 5 and np.isnan(mean[0, 1]) and np.isnan(highest[0, 1])
    np.testing.assert_allclose(share, [[0.5, 0], [1, 1]], atol=1e-3)
    np.testing.assert_allclose(mean[1], [5.5, 8.5], atol=1e-3)


def test_small_areas_and_thin_ones(tmp_path: Path) -> None:
    """A tower has its pixel; a river of little size all the pixels that it runs through."""
    path = write(
        tmp_path / "a.json",
        tower=polygon(box(7.2, 3.1, 0.01, 0.01)),
        between=polygon(box(8.8, 3.1, 0.5, 0.5)),  # 2 parts of it in column 8, 3 in column 9
        river=polygon(box(2, 6.4, 30, 0.004)),
        edge=polygon(box(-0.3, 9, 0.5, 0.5)),  # 2 parts of 5 inside
    )
    pixels = find_pixels(read_areas(path), GRID, SHAPE)
    assert pixels.names == ("tower", "between", "river", "edge")
    mean, highest, share = pixels.over(ramp())
    np.testing.assert_allclose(mean, [7, 8.6, 16.5, 0], atol=0.01)
    assert highest.tolist() == [7, 9, 31, 0]
    np.testing.assert_allclose(share, [1, 1, 1, 0.4], atol=0.01)


def test_longitudes_are_the_same_a_turn_further(tmp_path: Path) -> None:
    """On grids of degrees across 180, and of 0 to 360; an area split at 180 is one."""
    across = {"projection": "EPSG:4326", "x1": 170.0, "y1": -10.0, "x2": 190.0, "y2": 0.0}

    def square(west: float, east: float) -> list[list[float]]:
        return [[west, -5], [east, -5], [east, -3], [west, -3], [west, -5]]

    halves = {"type": "MultiPolygon", "coordinates": [[square(178, 180)], [square(-180, -178)]]}
    path = write(tmp_path / "a.json", None, Fiji=halves, east=polygon(square(-179, -178)))
    pixels = find_pixels(read_areas(path), across, (10, 20))
    mean, _, share = pixels.over(np.tile(np.arange(20.0), (10, 1)))
    np.testing.assert_allclose(mean, [9.5, 11], atol=1e-6)
    np.testing.assert_allclose(share, [1, 1], atol=1e-6)
    of_360 = across | {"x1": 260.0, "x2": 270.0}
    west = write(tmp_path / "b.json", None, Texas=polygon(square(-99, -98)))
    assert find_pixels(read_areas(west), of_360, (10, 10)).over(np.ones((10, 10)))[2] == 1


def test_areas_outside_are_left_out_and_named(tmp_path: Path) -> None:
    far = polygon([[10.0, 60.0], [11.0, 60.0], [11.0, 61.0], [10.0, 60.0]])
    here = polygon([[7.5, 46.96], [7.7, 46.96], [7.7, 47.1], [7.5, 46.96]])
    path = write(tmp_path / "a.json", None, Oslo=far, Bern=here, Sidney=polygon(
        [[151.0, -34.0], [152.0, -34.0], [152.0, -33.0], [151.0, -34.0]]
    ))  # fmt: skip
    areas = read_areas(path)
    pixels = find_pixels(areas, GRID, SHAPE)
    assert (pixels.names, pixels.outside) == (("Bern",), ("Oslo", "Sidney"))
    assert notes_of_areas(pixels) == ["areas outside the domain, left out: Oslo, Sidney"]
    nowhere = find_pixels(areas[:1], GRID, SHAPE)
    assert [of.shape for of in nowhere.over(np.zeros((2, 3, *SHAPE)))] == 3 * [(2, 3, 0)]
    with pytest.raises(InputError, match="none of the 1 areas lies in the data's domain, such as"):
        check_some_inside(nowhere)
    with pytest.raises(
        InputError, match="areas cannot be placed: the data's grid lacks projection"
    ):
        find_pixels(areas, {}, SHAPE)


def test_a_country_far_larger_than_the_domain_is_partly_inside(tmp_path: Path) -> None:
    """Its size is that on the Earth, where the domain's projection does not reach."""
    lap = [[-170, -60], [0, -60], [170, -60], [170, 70], [0, 70], [-170, 70], [-170, -60]]
    path = write(tmp_path / "a.json", None, world=polygon(lap))
    pixels = find_pixels(read_areas(path), GRID, SHAPE)
    mean, highest, share = pixels.over(ramp())
    assert (mean[0], highest[0]) == (pytest.approx((WIDTH - 1) / 2), WIDTH - 1)
    zone = 2 * np.pi * 6371.0**2 * (np.sin(np.radians(70)) + np.sin(np.radians(60)))
    assert share[0] == pytest.approx(HEIGHT * WIDTH / (zone * 340 / 360), rel=0.02)


def test_areas_lie_on_the_sample_that_comes_with_the_package(tmp_path: Path) -> None:
    event = read_event("sample")
    square = [[3.0, 45.0], [3.1, 45.0], [3.1, 45.1], [3.0, 45.1], [3.0, 45.0]]
    path = write(tmp_path / "a.json", None, Auvergne=polygon(square))
    pixels = find_pixels(read_areas(path), event.grid, event.rain_rate.shape[1:])
    assert pixels.names == ("Auvergne",)
    assert pixels.share.sum() == pytest.approx(100)  # pixels of a hundredth of a degree


def test_shapefiles_of_any_projection(tmp_path: Path) -> None:
    shapefile = pytest.importorskip("shapefile", reason="pyshp is an extra")
    to_lv95 = pyproj.Transformer.from_crs(21781, 2056, always_xy=True)
    ring = [list(to_lv95.transform(*point)) for point in box(4, 5, 3, 2)]
    with shapefile.Writer(str(tmp_path / "areas.shp")) as writer:
        writer.field("Name", "C")
        writer.poly([ring[::-1]])
        writer.record("Emme")
    path = tmp_path / "areas.shp"
    with pytest.raises(
        InputError, match=r"areas.shp lacks areas.prj beside it, which holds the co"
    ):
        read_areas(path)
    path.with_suffix(".prj").write_text(pyproj.CRS(2056).to_wkt("WKT1_ESRI"))
    (area,) = read_areas(path)
    assert area.name == "Emme"
    mean, highest, _ = find_pixels([area], GRID, SHAPE).over(ramp())
    assert (mean[0], highest[0]) == (pytest.approx(5, abs=0.01), 6)


def test_names_of_a_shapefile_are_in_the_encoding_that_it_names(tmp_path: Path) -> None:
    shapefile = pytest.importorskip("shapefile", reason="pyshp is an extra")
    path = tmp_path / "areas.shp"
    with shapefile.Writer(str(path), encoding="iso-8859-1") as writer:
        writer.field("NAME", "C")
        writer.poly([box(4, 5, 3, 2)[::-1]])
        writer.record("Zürich")
    path.with_suffix(".prj").write_text(pyproj.CRS(21781).to_wkt("WKT1_ESRI"))
    path.with_suffix(".cpg").unlink(missing_ok=True)
    with pytest.raises(InputError, match=r"or its encoding another, which areas\.cpg beside it"):
        read_areas(path)
    path.with_suffix(".cpg").write_text("ISO-8859-1")
    assert [area.name for area in read_areas(path)] == ["Zürich"]


def test_a_shape_without_a_place_is_refused_and_named(tmp_path: Path) -> None:
    shapefile = pytest.importorskip("shapefile", reason="pyshp is an extra")
    path = tmp_path / "areas.shp"
    with shapefile.Writer(str(path)) as writer:
        writer.field("name", "C")
        writer.poly([box(4, 5, 3, 2)[::-1]])
        writer.record("Emme")
        writer.null()
        writer.record("Aare")
    path.with_suffix(".prj").write_text(pyproj.CRS(21781).to_wkt("WKT1_ESRI"))
    with pytest.raises(InputError, match=r"feature 2 \(Aare\) has no place, expected polygons"):
        read_areas(path)


@pytest.mark.parametrize("deleted", [0, 1, 2])
def test_shapes_do_not_get_the_name_of_another_where_a_row_was_deleted(
    deleted: int, tmp_path: Path
) -> None:
    shapefile = pytest.importorskip("shapefile", reason="pyshp is an extra")
    path = tmp_path / "areas.shp"
    with shapefile.Writer(str(path)) as writer:
        writer.field("name", "C")
        for column, name in enumerate(["Aare", "Emme", "Reuss"]):
            writer.poly([box(4, 3 * column, 3, 2)[::-1]])
            writer.record(name)
    path.with_suffix(".prj").write_text(pyproj.CRS(21781).to_wkt("WKT1_ESRI"))
    table = bytearray(path.with_suffix(".dbf").read_bytes())
    start, length = (int.from_bytes(table[at : at + 2], "little") for at in (8, 10))
    table[start + deleted * length] = ord("*")  # how dBase marks a row as deleted
    path.with_suffix(".dbf").write_bytes(table)
    with pytest.raises(InputError, match=r"has 3 shapes and 2 rows in areas\.dbf, expected one"):
        read_areas(path)


BOW_TIE = [[0.0, 50.0], [1.0, 51.0], [1.0, 50.0], [0.0, 51.0], [0.0, 50.0]]
TRIANGLE = [[0.0, 50.0], [1.0, 50.0], [1.0, 51.0], [0.0, 50.0]]


@pytest.mark.parametrize(
    ("document", "line"),
    [
        ("[1, 2", "is damaged or no GeoJSON"),
        ({"type": "FeatureCollection", "features": []}, "has no areas, expected polygons"),
        ({"type": "Feature", "properties": {"id": 7}, "geometry": polygon(TRIANGLE)},
         "feature 1 has no property 'name'"),
        ({"features": [{"properties": {"name": "Aare"}, "geometry": polygon(TRIANGLE)},
                       {"properties": {"name": "Emme"}, "geometry": None}]},
         "feature 2 (Emme) has no place, expected polygons: take it out"),
        ({"type": "Feature", "properties": {"name": "Aare"}, "geometry": {"type": None}},
         "has None, expected Polygon or MultiPolygon"),
        ({"type": "Feature", "properties": {"name": "Aare"}, "geometry": polygon(BOW_TIE)},
         "(Aare) is no proper polygon (Self-intersection"),
        ({"type": "Feature", "properties": {"name": "Aare"}, "geometry":
          {"type": "LineString", "coordinates": TRIANGLE}}, "has LineString, expected Polygon"),
        ({"type": "Feature", "properties": {"name": "Aare"}, "geometry": polygon(box(1, 1, 1, 1))},
         "Aare lies at 601000, 228000, which is no place by its coordinate system, WGS 84"),
        ({"type": "Feature", "properties": {"name": "Aare"}, "geometry": polygon(TRIANGLE), "crs":
          {"type": "name", "properties": {"name": "+proj=longlat +R=1737400"}}},
         "which pyproj cannot place on Earth"),
        ({"type": "Feature", "properties": {"name": "Aare"}, "geometry": polygon(TRIANGLE), "crs":
          {"type": "name", "properties": {"name": "EPSG:5703"}}},
         "expected one of longitude and latitude or of a map"),
        ({"type": "Feature", "properties": {"name": "Aare"}, "geometry": polygon(TRIANGLE), "crs":
          {"type": "name", "properties": {"name": "mine"}}}, "expected a name that pyproj knows"),
        ({"features": 2 * [{"properties": {"name": "Aare"}, "geometry": polygon(TRIANGLE)}]},
         "has more than one area called Aare, expected names that differ"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_one_line(document: Any, line: str, tmp_path: Path) -> None:
    path = tmp_path / "areas.geojson"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    with pytest.raises(InputError) as raised:
        read_areas(path)
    assert line in str(raised.value)
    assert "\n" not in str(raised.value)


def test_pixels_are_found_once_for_a_grid(tmp_path: Path) -> None:
    areas = AreasOnGrid(read_areas(write(tmp_path / "a.json", a=polygon(box(4, 5, 3, 2)))))
    first = areas(GRID, SHAPE)
    assert areas(dict(GRID), SHAPE) is first
    assert areas(GRID | {"x1": X1 - 40_000}, (HEIGHT, 2 * WIDTH)) is not first


@pytest.fixture
def forecast(tmp_path: Path) -> Forecast:
    """Of two members, one of 6 mm/h and one of 12, on the areas `Aare` and `"Inn", upper`."""
    rain_rate = np.full((2, 12, HEIGHT, WIDTH), 6.0, np.float32)
    rain_rate[1] *= 2
    rain_rate[..., 12] = np.nan
    path = write(
        tmp_path / "a.json",
        **{"Aare": polygon(box(4, 5, 3, 2)), '"Inn", upper': polygon(box(11, 5, 2, 2))},
    )
    made = Forecast(
        rain_rate=rain_rate, issue_time=np.datetime64("2016-07-11T22:00"), grid=GRID,
        lead_minutes=np.arange(5, 65, 5), seed=0, model="bundled", sampler="plms",
        num_sampling_steps=1,
    )  # fmt: skip
    amounts = accumulate(made, 30)
    pixels = find_pixels(read_areas(path), GRID, SHAPE)
    areas = area_forecast(pixels, rain_rate, amounts.rain_amount)
    return replace(made, amounts=amounts, areas=areas)


@pytest.mark.core
@pytest.mark.parametrize("suffix", [".npz", ".nc", ".zarr"])
def test_files_hold_them(forecast: Forecast, suffix: str, tmp_path: Path) -> None:
    if suffix != ".npz":
        pytest.importorskip("netCDF4" if suffix == ".nc" else "zarr", reason="an extra")
    path = tmp_path / f"forecast{suffix}"
    write_forecast(forecast, path)
    back = read_forecast(path).areas
    assert back.area_name.tolist() == ["Aare", '"Inn", upper']
    for name, values in forecast.areas.entries().items():
        np.testing.assert_array_equal(back.entries()[name], values, err_msg=name)
    assert back.area_mean.shape == back.area_highest.shape == (2, 12, 2)
    assert back.area_amount_mean.shape == (2, 6, 2)
    np.testing.assert_allclose(back.area_amount_mean[:, 0, 0], [3, 6], rtol=1e-5)
    write_forecast(replace(forecast, areas=None), path)
    assert read_forecast(path).areas is None


@pytest.mark.core
def test_the_table(forecast: Forecast, tmp_path: Path) -> None:
    path = table_path(tmp_path / "forecast.nc")
    assert path.name == "forecast.areas.csv"
    write_area_table(forecast, path, thresholds=(10,), levels=(0.5,))
    assert path.read_bytes().startswith(b"\xef\xbb\xbfarea,quantity,")
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * (12 + 6)
    rate, amount = rows[0], rows[12]
    assert rate == {
        "area": "Aare", "quantity": "rain_rate", "unit": "mm/h", "minutes": "0",
        "issue_time": "2016-07-11 22:00", "valid_time": "2016-07-11 22:05",
        "mean": "9", "mean_q0.5": "9", "chance_mean_10_mm/h": "0.5",
        "chance_mean_5_mm": "", "chance_mean_10_mm": "", "chance_mean_20_mm": "",
        "highest": "9", "highest_q0.5": "9", "chance_highest_10_mm/h": "0.5",
        "chance_highest_5_mm": "", "chance_highest_10_mm": "", "chance_highest_20_mm": "",
        "share_with_forecast": "1.000", "is_complete": "1",
    }  # fmt: skip
    assert (amount["quantity"], amount["unit"], amount["minutes"]) == ("rain_amount", "mm", "30")
    assert (amount["valid_time"], amount["mean"]) == ("2016-07-11 22:35", "4.5")
    assert (amount["chance_mean_5_mm"], amount["chance_mean_10_mm/h"]) == ("0.5", "")
    upper = rows[18]
    assert (upper["area"], upper["mean"]) == ('"Inn", upper', "9")
    assert (upper["share_with_forecast"], upper["is_complete"]) == ("0.500", "0")


def test_a_name_is_no_formula(forecast: Forecast, tmp_path: Path) -> None:
    areas = replace(forecast.areas, area_name=np.array(["=1+1", "Aare - Bern"]))
    write_area_table(replace(forecast, areas=areas), tmp_path / "a.csv")
    lines = (tmp_path / "a.csv").read_text(encoding="utf-8-sig").splitlines()
    assert lines[1].startswith("'=1+1,") and lines[-1].startswith("Aare - Bern,")


def test_a_table_without_any_forecast_on_an_area(forecast: Forecast, tmp_path: Path) -> None:
    nothing = np.full_like(forecast.areas.area_mean, np.nan)
    areas = replace(
        forecast.areas, area_mean=nothing, area_highest=nothing,
        area_share=np.zeros_like(forecast.areas.area_share),
    )  # fmt: skip
    write_area_table(replace(forecast, areas=areas, amounts=None), tmp_path / "a.csv")
    with open(tmp_path / "a.csv", encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    empty = {name for name, cell in rows[0].items() if not cell}
    assert {"mean", "highest", "chance_mean_1_mm/h", "mean_q0.9"} <= empty
    assert rows[0]["is_complete"] == "0"
