"""What falls on areas, such as catchments: means and highest values of a forecast's pixels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from ldcast.data.grids import CORNERS
from ldcast.errors import InputError
from ldcast.products.area_files import Area
from ldcast.products.placement import Placement, read_placement

if TYPE_CHECKING:  # an extra, imported where it is used
    from shapely.geometry.base import BaseGeometry

LEAST = 0.1  # of a pixel; those of which an area has less do not count for its highest value
CHUNK = 500_000  # pixels whose share is found at once
NUM_NAMED = 5  # areas outside, in a note
MARGIN_DEGREES = 2.0  # around the domain, within which areas are projected


@dataclass(frozen=True)
class AreaPixels:
    """The pixels of N areas, a sparse matrix of weights; the same for all forecasts on a grid.

    names: (N,), of those that lie in the domain, at least in part.
    pixel: (K,) int, of the flat domain, those of one area after those of another.
    first: (N,) int, where each area's begin. share: (K,) in 0..1, of the pixel that is in the area.
    counts: (K,) bool, whether it counts for the highest value: a tenth of it is in the area, or no
        pixel has more in it.
    inside: (N,) in 0..1, the share of each area that lies in the domain.
    outside: names of areas that lie beyond the domain.
    """

    names: tuple[str, ...]
    pixel: np.ndarray
    first: np.ndarray
    share: np.ndarray
    counts: np.ndarray
    inside: np.ndarray
    outside: tuple[str, ...] = ()

    def over(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean, highest value, and share of the area that is known, (..., N) float32 each.

        values: (..., H, W), NaN where not known; such pixels count neither way. NaN where no pixel
        of the area is known. The share is of the whole area, with what is beyond the domain.
        """
        lead = values.shape[:-2]
        results = [np.empty((*lead, len(self.names)), np.float32) for _ in range(3)]
        if not self.names:
            return tuple(results)
        whole = np.add.reduceat(self.share, self.first)
        for index in np.ndindex(lead):
            found = values[index].reshape(-1)[self.pixel]
            is_known = ~np.isnan(found)
            weight = self.share * is_known
            total = np.add.reduceat(weight, self.first)
            amount = np.add.reduceat(weight * np.where(is_known, found, 0.0), self.first)
            highest = np.where(self.counts & is_known, found, -np.inf)
            highest = np.maximum.reduceat(highest, self.first)
            with np.errstate(invalid="ignore"):
                results[0][index] = amount / np.where(total > 0, total, np.nan)
            results[1][index] = np.where(np.isfinite(highest), highest, np.nan)
            results[2][index] = self.inside * total / whole
        return tuple(results)


@dataclass(frozen=True)
class AreaForecast:
    """A forecast's values of N areas, E members, T lead times and M windows of time.

    area_name: (N,). area_mean, area_highest: (E, T, N) mm/h. area_share: (T, N) in 0..1, of the
    area that has a forecast. The same of amounts in mm, (E, M, N) and (M, N), where there are any.
    A field has the name of its entry in the forecast file.
    """

    area_name: np.ndarray
    area_mean: np.ndarray
    area_highest: np.ndarray
    area_share: np.ndarray
    area_amount_mean: np.ndarray | None = None
    area_amount_highest: np.ndarray | None = None
    area_amount_share: np.ndarray | None = None

    def entries(self) -> dict[str, np.ndarray]:
        """What a forecast file holds of them, by `AREA_ENTRIES`."""
        values = {name: getattr(self, name) for name in AREA_ENTRIES}
        return {name: value for name, value in values.items() if value is not None}


AREA_ENTRIES = tuple(field.name for field in fields(AreaForecast))


class AreasOnGrid:
    """Areas and their pixels, which are found once as long as images have the same grid."""

    def __init__(self, areas: Sequence[Area]) -> None:
        self._areas = areas
        self._grid: tuple[Any, ...] = ()
        self._pixels: AreaPixels | None = None

    def __call__(self, grid: Mapping[str, Any], shape: tuple[int, int]) -> AreaPixels:
        """Of a grid as for `find_pixels`, which says what raises."""
        asked = shape, *(str(grid.get(name)) for name in ("projection", *CORNERS))
        if self._pixels is None or asked != self._grid:
            self._pixels, self._grid = find_pixels(self._areas, grid, shape), asked
        return self._pixels


def check_some_inside(pixels: AreaPixels) -> None:
    """Raises InputError where all areas lie outside the domain."""
    if not pixels.names:
        raise InputError(
            f"none of the {len(pixels.outside)} areas lies in the data's domain, such as "
            f"{pixels.outside[0]}: give areas of that region, with their coordinate system"
        )


def notes_of_areas(pixels: AreaPixels) -> list[str]:
    """A line on the areas that lie outside the domain, where there are any."""
    if not pixels.outside:
        return []
    some = ", ".join(pixels.outside[:NUM_NAMED])
    more = f" and {len(pixels.outside) - NUM_NAMED} more" * (len(pixels.outside) > NUM_NAMED)
    return [f"areas outside the domain, left out: {some}{more}"]


def area_forecast(
    pixels: AreaPixels, rain_rate: np.ndarray, rain_amount: np.ndarray | None = None
) -> AreaForecast:
    """What falls on the areas.

    rain_rate: (E, T, H, W) mm/h. rain_amount: (E, M, H, W) mm. NaN = no forecast.
    """
    entries: dict[str, Any] = {"area_name": np.array(pixels.names, np.str_)}
    for prefix, values in {"area": rain_rate, "area_amount": rain_amount}.items():
        if values is not None:
            mean, highest, share = pixels.over(values)
            entries[f"{prefix}_mean"], entries[f"{prefix}_highest"] = mean, highest
            entries[f"{prefix}_share"] = share.min(axis=0)  # members lack data in the same places
    return AreaForecast(**entries)


def areas_of(entries: Mapping[str, Any]) -> AreaForecast | None:
    """The areas among the entries of a forecast file; None where there are none."""
    if "area_name" not in entries:
        return None
    return AreaForecast(**{name: entries.get(name) for name in AREA_ENTRIES})


def find_pixels(
    areas: Sequence[Area], grid: Mapping[str, Any], shape: tuple[int, int]
) -> AreaPixels:
    """Which pixels of a grid lie in the areas, and how much of each.

    grid, shape: as for `ldcast.products.borders.read_borders`.
    Raises InputError for a grid that cannot be placed.
    """
    import shapely

    placement = read_placement(grid, shape, "areas")
    placed, whole = _on_grid(areas, placement)
    domain = shapely.box(0, 0, shape[1], shape[0])
    inside = shapely.area(shapely.intersection(placed, domain))
    parts = list(_covered(placed, shape)) or [(np.array([], int), np.array([], int), np.array([]))]
    number, pixel, share = (np.concatenate(of) for of in zip(*parts, strict=True))
    order = np.lexsort((pixel, number))
    number, pixel, share = number[order], pixel[order], share[order]
    found, first, length = np.unique(number, return_index=True, return_counts=True)
    is_found = np.isin(np.arange(len(areas)), found)
    most = np.repeat(np.maximum.reduceat(share, first), length) if len(found) else share
    return AreaPixels(
        names=tuple(area.name for area, is_in in zip(areas, is_found, strict=True) if is_in),
        pixel=pixel,
        first=first,
        share=share,
        counts=(share >= LEAST) | (share == most),
        inside=np.minimum(inside[found] / whole[found], 1.0),
        outside=tuple(area.name for area, is_in in zip(areas, is_found, strict=True) if not is_in),
    )


def _on_grid(areas: Sequence[Area], placement: Placement) -> tuple[np.ndarray, np.ndarray]:
    """Of each area what is near the domain, its polygons in pixels, columns first; and the size of
    the whole area, in pixels as large as there.

    Far from their region projections tear and fold, so what is far is cut off in degrees.
    """
    import shapely

    polygons = np.array([area.polygons for area in areas], dtype=object)
    near = _neighbourhood(placement)
    is_cut = ~shapely.covers(near, polygons)
    cut = polygons.copy()
    turned = (
        shapely.transform(polygons[is_cut], lambda points, turn=turn: points + np.array([turn, 0]))
        for turn in (-360.0, 0.0, 360.0)  # the same places
    )
    cut[is_cut] = shapely.union_all([shapely.intersection(of, near) for of in turned], axis=0)
    placed = shapely.make_valid(shapely.transform(cut, placement.to_pixels))
    whole = shapely.area(placed)
    sizes = (shapely.area(shapely.transform(of, _equal_area)) for of in (polygons, cut))
    before, after = sizes
    has_size = is_cut & (after > 0)
    whole[has_size] *= before[has_size] / after[has_size]
    return placed, whole


def _equal_area(degrees: np.ndarray) -> np.ndarray:
    """(n, 2) longitude and latitude on a plane where areas are in proportion, as on a sphere."""
    longitude, latitude = degrees.T
    return np.stack([longitude, np.degrees(np.sin(np.radians(latitude)))], axis=1)


def _neighbourhood(placement: Placement) -> BaseGeometry:
    """A box of degrees around the domain; up to the pole, where it may lie in it."""
    import shapely

    along = np.linspace(0, 1, 33)
    zero, one = np.zeros_like(along), np.ones_like(along)
    edges = np.concatenate([along, along, zero, one]), np.concatenate([zero, one, along, along])
    degrees = placement.to_degrees(*edges)
    if not np.isfinite(degrees).all():
        raise InputError(
            "areas cannot be placed: the edges of the data's domain lie nowhere on Earth by its "
            "projection; cut out a smaller piece with --crop or --box"
        )
    low, high = degrees.min(axis=0) - MARGIN_DEGREES, degrees.max(axis=0) + MARGIN_DEGREES
    if high[0] - low[0] > 180:  # around a pole, or all of a zone
        low[0], high[0] = -360, 360
        if degrees[:, 1].mean() > 0:
            high[1] = 90
        else:
            low[1] = -90
    return shapely.box(*low, *high)


def _covered(
    placed: np.ndarray, shape: tuple[int, int]
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """In parts: number of the area, pixel, and share of the pixel in it."""
    import shapely

    height, width = shape
    shapely.prepare(placed)
    bounds = np.nan_to_num(shapely.bounds(placed), nan=-1.0)  # of what is empty: outside
    low = np.floor(bounds[:, :2]).clip(0, [width, height]).astype(int)  # column, row
    high = np.ceil(bounds[:, 2:]).clip(0, [width, height]).astype(int)
    sizes = (high - low).clip(0)
    counts = sizes.prod(axis=1)
    for part in _parts(counts):
        number = np.repeat(part, counts[part])
        within = np.concatenate([np.arange(count) for count in counts[part]])
        row, column = np.divmod(within, sizes[number, 0])
        column, row = column + low[number, 0], row + low[number, 1]
        area, box = placed[number], shapely.box(column, row, column + 1, row + 1)
        is_whole = shapely.contains_properly(area, box)
        share = is_whole.astype(float)
        is_edge = ~is_whole & shapely.intersects(area, box)
        share[is_edge] = shapely.area(shapely.intersection(area[is_edge], box[is_edge]))
        is_covered = share > 0
        yield number[is_covered], (row * width + column)[is_covered], share[is_covered]


def _parts(sizes: np.ndarray) -> Iterator[np.ndarray]:
    """Indices of one after the other, with about `CHUNK` together."""
    if len(sizes):
        chunk = np.cumsum(sizes) // CHUNK
        yield from np.split(np.arange(len(sizes)), np.flatnonzero(np.diff(chunk)) + 1)
