"""Files of areas, such as catchments: GeoJSON, and ESRI shapefiles (needs shapely and pyproj)."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ldcast.errors import InputError
from ldcast.machine.files import printable
from ldcast.products.border_files import GEOJSON_SUFFIXES, SHAPEFILE_SUFFIX
from ldcast.products.placement import DEGREES, import_pyproj, make_transformer

if TYPE_CHECKING:  # extras, imported where they are used
    from pyproj import CRS
    from shapely.geometry.base import BaseGeometry

POLYGONS = ("Polygon", "MultiPolygon")
# Edges are straight in the file's own coordinates and may be bent on the grid, so points are put in
# between those that are further apart than ...
MAX_EDGE_DEGREES, MAX_EDGE_M = 0.1, 10_000.0
MAX_METRES = 1e8  # from the origin of a map


class Area(NamedTuple):
    """A named place; its polygons are in degrees, longitude first."""

    name: str
    polygons: BaseGeometry


def read_areas(path: Path) -> list[Area]:
    """The areas in a file, in its order: polygons with a `name`, in any coordinate system.

    path: GeoJSON (.geojson, .json) in degrees or with a `crs` of its own, or a shapefile (.shp)
        with its .prj and .dbf. The name is the property `name`, whatever its capitals.
    Raises InputError for what cannot be read or has no coordinate system, for areas without a name
    or a place or with the same name, for polygons that cross themselves, and where a package is
    missing.
    """
    check_areas_path(path)
    is_shapefile = path.suffix.lower() == SHAPEFILE_SUFFIX
    crs, features = (_read_shapefile if is_shapefile else _read_geojson)(path)
    areas = [_area(number, *feature, path) for number, feature in enumerate(features, start=1)]
    if not areas:
        raise InputError(f"{path} has no areas, expected polygons with a name")
    twice = [name for name, count in Counter(area.name for area in areas).items() if count > 1]
    if twice:
        raise InputError(
            f"{path} has more than one area called {', '.join(twice[:3])}, expected names that "
            "differ: give each polygon its own, or make those of one area a MultiPolygon"
        )
    return _to_degrees(areas, crs, path)


def check_areas_path(path: Path) -> None:
    """Raises InputError where there is no such file, or a package is missing to read it."""
    suffix = path.suffix.lower()
    if suffix not in (*GEOJSON_SUFFIXES, SHAPEFILE_SUFFIX):
        expected = f"{', '.join(GEOJSON_SUFFIXES)} (GeoJSON) or {SHAPEFILE_SUFFIX} (shapefile)"
        raise InputError(f"{path} ends in '{path.suffix}', expected {expected}")
    if not path.is_file():
        raise InputError(f"there is no file {path}, expected areas as GeoJSON or shapefile")
    import_pyproj("areas")
    try:
        import shapely  # noqa: F401
    except ModuleNotFoundError:
        raise InputError(
            "areas need shapely, which is missing; install it with: pip install shapely"
        ) from None


def _area(number: int, name: str | None, geometry: Mapping[str, Any] | None, path: Path) -> Area:
    """number: of the feature in the file, for messages. geometry: None where it has no place."""
    import shapely
    from shapely.geometry import shape

    where = f"{path}, feature {number}"
    if not name:
        raise InputError(
            f"{where} has no property 'name', expected one for each area: rename the one that "
            "holds it"
        )
    if geometry is None:  # RFC 7946 and shapefiles allow it; its forecast would be missing
        raise InputError(f"{where} ({name}) has no place, expected polygons: take it out")
    try:
        polygons = shape(geometry)
    except Exception as error:  # shapely raises whatever it meets in damaged coordinates
        raise InputError(f"{where} ({name}) is damaged ({error}), expected polygons") from None
    if polygons.is_empty or not np.isfinite(shapely.get_coordinates(polygons)).all():
        raise InputError(f"{where} ({name}) has no finite coordinates, expected polygons")
    if not polygons.is_valid:
        reason = shapely.is_valid_reason(polygons)
        raise InputError(
            f"{where} ({name}) is no proper polygon ({reason}), expected rings that do not cross "
            "themselves or each other: mend it, as shapely's make_valid does"
        )
    return Area(str(name), polygons)


def _check_within(
    polygons: np.ndarray, limits: tuple[float, float], areas: list[Area], crs: CRS, path: Path
) -> None:
    import shapely

    west, south, east, north = shapely.bounds(polygons).T
    x, y = limits
    is_within = (west >= -x) & (east <= x) & (south >= -y) & (north <= y)
    if not is_within.all():  # so written, it also catches infinity
        first = int(np.flatnonzero(~is_within)[0])
        x, y = shapely.get_coordinates(areas[first].polygons)[0]
        raise InputError(
            f"{path}: {areas[first].name} lies at {x:.9g}, {y:.9g}, which is no place by its "
            f"coordinate system, {crs.name}: say which it is, in GeoJSON as 'crs', beside a "
            "shapefile in a .prj"
        )


def _to_degrees(areas: list[Area], crs: CRS, path: Path) -> list[Area]:
    import pyproj
    import shapely

    if not (crs.is_geographic or crs.is_projected):
        raise InputError(
            f"{path} has the coordinate system {crs.name}, expected one of longitude and latitude "
            "or of a map: write it in that"
        )

    polygons = shapely.force_2d(np.array([area.polygons for area in areas], dtype=object))
    limits = (360, 90) if crs.is_geographic else (MAX_METRES, MAX_METRES)
    _check_within(polygons, limits, areas, crs, path)
    edge = MAX_EDGE_DEGREES if crs.is_geographic else MAX_EDGE_M
    try:
        to_degrees = make_transformer(crs, DEGREES)
    except pyproj.exceptions.ProjError:
        raise InputError(
            f"{path} has the coordinate system {crs.name}, which pyproj cannot place on Earth, "
            "expected one of longitude and latitude or of a map: write it in that"
        ) from None
    placed = shapely.transform(
        shapely.segmentize(polygons, edge),
        lambda points: np.stack(to_degrees.transform(*points.T), axis=1),
    )
    _check_within(placed, (360, 90), areas, crs, path)
    return [Area(area.name, polygons) for area, polygons in zip(areas, placed, strict=True)]


# ---- GeoJSON -------------------------------------------------------------------------------------


def _read_geojson(path: Path) -> tuple[CRS, Iterator[tuple[str | None, Any]]]:
    """Its coordinate system, and the name and the geometry of each feature."""
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
        features = document.get("features", [document])
        found = [
            (_name_of(feature.get("properties") or {}), feature["geometry"]) for feature in features
        ]
        kinds = _kinds(found) - {*POLYGONS}
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is damaged or no GeoJSON ({type(error).__name__}: {error}), expected features "
            "with a name and polygons (RFC 7946)"
        ) from None
    if kinds:
        raise InputError(f"{path} has {', '.join(sorted(kinds))}, expected Polygon or MultiPolygon")
    return _geojson_crs(document, path), iter(found)


def _geojson_crs(document: Mapping[str, Any], path: Path) -> CRS:
    """`DEGREES`, as RFC 7946 lays down, or that of the member `crs`, from GeoJSON before it."""
    import pyproj

    if "crs" not in document:
        return pyproj.CRS(DEGREES)
    try:
        return pyproj.CRS(document["crs"]["properties"]["name"])
    except (KeyError, TypeError, pyproj.exceptions.CRSError):
        raise InputError(
            f"{path} has the crs {json.dumps(document['crs'])}, expected a name that pyproj knows, "
            "such as urn:ogc:def:crs:EPSG::2056, or none for longitude and latitude"
        ) from None


def _kinds(features: list[tuple[str | None, Any]]) -> set[str]:
    return {str(geometry["type"]) for _, geometry in features if geometry is not None}


def _name_of(properties: Mapping[str, Any]) -> str | None:
    names = (value for key, value in properties.items() if str(key).lower() == "name")
    value = next(names, None)
    # What no file can hold, half a character, is written as its code.
    return None if value is None else printable(str(value).strip())


# ---- shapefiles ----------------------------------------------------------------------------------


def _read_shapefile(path: Path) -> tuple[CRS, Iterator[tuple[str | None, Any]]]:
    import pyproj

    try:
        import shapefile  # the module of pyshp
    except ModuleNotFoundError:
        raise InputError(
            f"{path} is a shapefile and needs pyshp, which is missing; install it with: "
            "pip install pyshp"
        ) from None
    beside = {kind: path.with_suffix(kind) for kind in (".prj", ".dbf")}
    what = {".prj": "the coordinate system", ".dbf": "the names"}
    for kind, other in beside.items():
        if not other.is_file():
            raise InputError(f"{path} lacks {other.name} beside it, which holds {what[kind]}")
    try:
        crs = pyproj.CRS.from_wkt(beside[".prj"].read_text(encoding="utf-8-sig"))
    except (pyproj.exceptions.CRSError, UnicodeDecodeError):
        raise InputError(
            f"pyproj cannot read {beside['.prj']}, expected WKT of a coordinate system on Earth"
        ) from None
    named = path.with_suffix(".cpg")  # the encoding of the table
    encoding = named.read_text(errors="replace").strip() if named.is_file() else "utf-8"
    try:
        with (
            warnings.catch_warnings(),
            open(path, "rb") as shapes,
            open(beside[".dbf"], "rb") as table,
        ):
            warnings.simplefilter("ignore")  # of damage it warns before it fails
            reader = shapefile.Reader(shp=shapes, dbf=table, encoding=encoding)
            names = [_name_of(record.as_dict()) for record in reader.iterRecords()]
            places = [
                None if shape.shapeType == shapefile.NULL else shape.__geo_interface__
                for shape in reader.iterShapes()
            ]
    except Exception as error:  # it raises whatever its arithmetic meets in a damaged file
        raise InputError(
            f"{path} cannot be read ({error}), with names in {encoding}: is it damaged, or its "
            f"encoding another, which {named.name} beside it would name?"
        ) from None
    if len(names) != len(places):  # a row that is marked as deleted, for one, is not read
        raise InputError(
            f"{path} has {len(places)} shapes and {len(names)} rows in {beside['.dbf'].name}, "
            "expected one for each: write both anew, without what was deleted"
        )
    found = list(zip(names, places, strict=True))
    kinds = _kinds(found) - {*POLYGONS}
    if kinds:
        raise InputError(f"{path} has {', '.join(sorted(kinds))}, expected Polygon or MultiPolygon")
    return crs, iter(found)
