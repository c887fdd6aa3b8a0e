"""What falls on areas as a table that opens in a spreadsheet: a .csv beside the forecast file."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ldcast.machine.files import open_atomically
from ldcast.products.amounts import AMOUNT_THRESHOLDS
from ldcast.products.forecast import Forecast

TABLE_SUFFIX = ".areas.csv"
RATE_THRESHOLDS = (1.0, 10.0)  # mm/h, where no others are asked for
LEVELS = (0.1, 0.5, 0.9)  # of quantiles, likewise


def table_path(forecast_path: Path) -> Path:
    """Where the table of a forecast file is: forecast.areas.csv beside forecast.nc."""
    return forecast_path.with_suffix(TABLE_SUFFIX)


def write_area_table(
    forecast: Forecast,
    path: Path,
    thresholds: Sequence[float] = (),
    amount_thresholds: Sequence[float] = (),
    levels: Sequence[float] = (),
) -> None:
    """Writes a row for each area and lead time, and for each area and window of time.

    thresholds: mm/h. amount_thresholds: mm. levels: of quantiles, 0..1. Empty for
    `RATE_THRESHOLDS`, `AMOUNT_THRESHOLDS` and `LEVELS`.
    Columns: the area; what the row is of, its unit and minutes (of a rate 0); issue time, and when
    it is, UTC;
    mean and quantiles over the members of the area's mean, and the share of members in which it
    reaches each threshold; the same of the area's highest value; the share of the area that has a
    forecast, and 1 where that is all of it, else 0. A cell is empty where there is no forecast, and
    of thresholds that are not of this row's unit.
    Raises OSError if it cannot be written.
    """
    chosen = {
        "mm/h": list(thresholds or RATE_THRESHOLDS),
        "mm": list(amount_thresholds or AMOUNT_THRESHOLDS),
    }
    levels = list(levels or LEVELS)
    if forecast.amounts is None:
        chosen["mm"] = []
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_header(chosen, levels))
    writer.writerows(_rows(forecast, chosen, levels))
    with open_atomically(path) as file:
        file.write(text.getvalue().encode("utf-8-sig"))  # without the mark Excel guesses wrong


def _header(chosen: dict[str, list[float]], levels: Sequence[float]) -> list[str]:
    columns = ["area", "quantity", "unit", "minutes", "issue_time", "valid_time"]
    for value in ("mean", "highest"):
        columns += [value, *(f"{value}_q{level:g}" for level in levels)]
        for unit, points in chosen.items():
            columns += [f"chance_{value}_{point:g}_{unit}" for point in points]
    return [*columns, "share_with_forecast", "is_complete"]


def _rows(
    forecast: Forecast, chosen: dict[str, list[float]], levels: Sequence[float]
) -> Iterator[list[str]]:
    areas = forecast.areas
    blocks = [("rain_rate", "mm/h", np.zeros(len(forecast.time), int), forecast.time, "area")]
    if forecast.amounts is not None:
        amounts = forecast.amounts
        blocks.append(("rain_amount", "mm", amounts.minutes, amounts.window_end, "area_amount"))
    tables, issue_time = [], str(np.datetime64(forecast.issue_time, "m")).replace("T", " ")
    for quantity, unit, minutes, times, prefix in blocks:
        mean, highest, share = (
            getattr(areas, f"{prefix}_{name}") for name in ("mean", "highest", "share")
        )
        columns = [
            column
            for members in (mean, highest)  # (E, T, N)
            for column in _columns(members, unit, chosen, levels)
        ]
        times = np.char.replace(np.datetime_as_string(times.astype("datetime64[m]")), "T", " ")
        tables.append((quantity, unit, minutes, times, np.stack(columns, axis=-1), share))
    for number, name in enumerate(areas.area_name.tolist()):
        for quantity, unit, minutes, times, values, share in tables:
            for index, time in enumerate(times):
                of_area = float(share[index, number])
                yield [
                    *(_text(name), quantity, unit, str(minutes[index]), issue_time, time),
                    *map(_cell, values[index, number].tolist()),
                    *(f"{of_area:.3f}", str(int(of_area > 0.999))),
                ]


def _columns(
    members: np.ndarray, unit: str, chosen: dict[str, list[float]], levels: Sequence[float]
) -> Iterator[np.ndarray]:
    """(T, N) each: mean, quantiles, and the chance of each threshold, NaN of another unit's."""
    yield members.mean(axis=0)
    yield from np.quantile(members, levels, axis=0)
    unknown = np.where(np.isnan(members).any(axis=0), np.nan, 0.0)
    for of_unit, points in chosen.items():
        for point in points:
            reached = (members >= np.float32(point)).mean(axis=0) + unknown
            yield reached if of_unit == unit else np.full_like(reached, np.nan)


def _cell(value: float) -> str:
    return "" if np.isnan(value) else f"{round(value, 4):.4g}"


def _text(name: str) -> str:
    """What a spreadsheet would take for a formula gets an apostrophe, which makes it text."""
    return f"'{name}" if name.startswith(("=", "+", "-", "@")) else name
