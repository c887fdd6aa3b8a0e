"""Files of coast and border lines: GeoJSON, and ESRI shapefiles (needs pyshp)."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ldcast.errors import InputError
from ldcast.products.placement import DEGREES, import_pyproj, list_numbers, make_transformer

if TYPE_CHECKING:  # pyproj is an extra, imported where it is used
    from pyproj import Transformer

GEOJSON_SUFFIXES, SHAPEFILE_SUFFIX = (".geojson", ".json"), ".shp"
TO_DEGREES_HINT = "ogr2ogr -t_srs EPSG:4326 borders.geojson"


def read_lines(path: Path) -> list[np.ndarray]:
    """The lines and outlines in a file: arrays (n, 2) of longitude and latitude in degrees.

    Raises InputError for what cannot be read, has no lines or no degrees, and without pyshp or
    pyproj where they are needed.
    """
    suffix = path.suffix.lower()
    if suffix not in (*GEOJSON_SUFFIXES, SHAPEFILE_SUFFIX):
        expected = f"{', '.join(GEOJSON_SUFFIXES)} (GeoJSON) or {SHAPEFILE_SUFFIX} (shapefile)"
        raise InputError(f"{path} ends in '{path.suffix}', expected {expected}")
    if not path.is_file():
        raise InputError(f"there is no file {path}, expected border lines as GeoJSON or shapefile")
    lines = _shapefile_lines(path) if suffix == SHAPEFILE_SUFFIX else _geojson_lines(path)
    lines = [line for line in lines if len(line) > 1]
    if not lines:
        raise InputError(f"{path} has no lines and no areas; give a file of coasts or borders")
    extremes = np.abs(np.concatenate(lines)).max(axis=0)
    if not (extremes <= [360, 90]).all():  # so written, it also catches NaN
        raise InputError(
            f"{path} has coordinates up to {list_numbers(extremes)}, expected longitude and "
            f"latitude in degrees; convert it with: {TO_DEGREES_HINT} {path}"
        )
    return lines


def _geojson_lines(path: Path) -> list[np.ndarray]:
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:  # the former of JSON and of UTF-8
        raise InputError(f"{path} is no GeoJSON ({error}); give another file") from None
    try:
        return [
            np.array([position[:2] for position in line], dtype=np.float64).reshape(-1, 2)
            for line in _coordinates(document, path)
        ]
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path} is damaged or no GeoJSON ({type(error).__name__}: {error}), expected "
            "coordinates as RFC 7946 has them; give another file"
        ) from None


def _coordinates(geojson: dict[str, Any], path: Path) -> Iterator[list[list[float]]]:
    """The positions of each line and of each outline; KeyError or TypeError where they lack."""
    match geojson["type"]:
        case "FeatureCollection" | "GeometryCollection" as kind:
            for part in geojson["features" if kind == "FeatureCollection" else "geometries"]:
                yield from _coordinates(part, path)
        case "Feature":
            if geojson["geometry"] is not None:  # RFC 7946 allows a feature without a place
                yield from _coordinates(geojson["geometry"], path)
        case "LineString":
            yield geojson["coordinates"]
        case "MultiLineString" | "Polygon":
            yield from geojson["coordinates"]
        case "MultiPolygon":
            for polygon in geojson["coordinates"]:
                yield from polygon
        case "Point" | "MultiPoint":
            pass
        case kind:
            raise InputError(f"{path} has the type '{kind}', expected one of GeoJSON (RFC 7946)")


def _shapefile_lines(path: Path) -> list[np.ndarray]:
    try:
        import shapefile  # the module of pyshp
    except ModuleNotFoundError:
        raise InputError(
            f"{path} is a shapefile and needs pyshp, which is missing; install it with: "
            "pip install pyshp"
        ) from None
    lines = []
    try:
        # The .shp alone: of the tables beside it none is needed, and often some are missing.
        with warnings.catch_warnings(), open(path, "rb") as file:
            warnings.simplefilter("ignore")  # of damage it warns before it fails
            for shape in shapefile.Reader(shp=file).iterShapes():
                if shape.shapeType % 10 in (3, 5):  # lines and areas, also with heights or measures
                    points = np.array(shape.points, dtype=np.float64).reshape(-1, 2)
                    lines += np.split(points, shape.parts[1:])
    except Exception as error:  # it raises whatever its arithmetic meets in a damaged file
        raise InputError(f"{path} is damaged or no shapefile ({error}); fetch it again") from None
    to_degrees = _prj_transformer(path.with_suffix(".prj"))
    if to_degrees is not None:
        lines = [np.stack(to_degrees.transform(*line.T), axis=1) for line in lines]
    return lines


def _prj_transformer(path: Path) -> Transformer | None:
    """From the units that a .prj file describes to degrees; None without such a file."""
    if not path.is_file():
        return None
    pyproj = import_pyproj("border lines")
    try:
        return make_transformer(pyproj.CRS.from_wkt(path.read_text(encoding="utf-8-sig")), DEGREES)
    except (pyproj.exceptions.CRSError, pyproj.exceptions.ProjError, UnicodeDecodeError):
        raise InputError(
            f"pyproj cannot read {path}, expected WKT of a place on Earth; fix it, or convert "
            f"the shapefile with: {TO_DEGREES_HINT} {path.with_suffix(SHAPEFILE_SUFFIX)}"
        ) from None
