"""A forecast in a few lines of text: where it rains, how much, what comes, how sure that is."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ldcast.frames import nearest_leads
from ldcast.motion import fill_gaps
from ldcast.products.amounts import Amounts
from ldcast.rain import RainScale, is_wet

WET_MM_H, LIKELY_MM_H, HEAVY_MM_H = RainScale().wet_threshold, 1.0, 10.0
# Rain intensity by rate, lower bound in mm/h: WMO-No. 8 (Guide to Instruments and Methods of
# Observation), Volume I, chapter 14, annex on the intensity of precipitation. The Met Office uses
# 2, 10 and 50 mm/h for showers, the AMS Glossary (entry "rain") 2.5 and 7.6 mm/h.
INTENSITIES = ((50.0, "violent"), (10.0, "heavy"), (2.5, "moderate"), (WET_MM_H, "light"))
# Domain mean of the last frame over that of the present: from which on rain grows or eases.
GROWS, EASES = 1.25, 0.75
# Share of the other members that are wet where one is: from which on the spread is small, ...
SPREADS = ((0.8, "small"), (0.5, "moderate"), (0.0, "large"))
# Wet share of the domain below which it counts as dry, and shift of the rain's centre, as a share
# of the domain, below which the rain counts as staying where it is.
DRY_SHARE, MOVE_SHARE = 0.005, 0.1
# Of the pixels with data, the share of a gap that is worth a line.
MENTIONED_SHARE = 0.01

SHOWN_LEADS = (15, 30, 60, 100)
# Thirds of the domain, row by row; the eight directions, clockwise.
SECTORS = (
    *("north-west", "north", "north-east"),
    *("west", "centre", "east"),
    *("south-west", "south", "south-east"),
)
COMPASS = (
    *("north", "north-east", "east", "south-east"),
    *("south", "south-west", "west", "north-west"),
)


def summarise(
    past: np.ndarray,
    rain: np.ndarray,
    issue_time: np.datetime64,
    lead_minutes: np.ndarray,
    grid: dict[str, Any],
    chances: Mapping[float, np.ndarray] | None = None,
    amounts: Amounts | None = None,
) -> str:
    """What a person wants to know of a forecast: up to 15 lines of up to 100 columns, and one for
    each length of `amounts`.

    past: (past_frames, H, W) mm/h, oldest frame first, row 0 = north, NaN = no data.
    rain: (E, T, H, W) mm/h, NaN = no forecast.
    issue_time: UTC, time of the newest past frame. lead_minutes: (T,) minutes after it, the first
        one being also the time between past frames.
    grid: `pixel_size_m` and `pixel_size_y_m`, where known, give the domain's size in km.
    chances: of a calibrated forecast, threshold in mm/h -> (T, H, W) in 0..1, the chance of at
        least that, NaN = no forecast. None: chances are shares of the members.
    amounts: what falls in windows of time, where that is known.

    Shares and means are over the pixels that have data.
    """
    now = past[-1].astype(np.float32)  # float16 could neither sum up nor average an image
    headline = _headline(rain, issue_time, grid)
    lines = [headline if chances is None else f"{headline}, calibrated"]
    if not np.isfinite(now).any() or not np.isfinite(rain).any():
        return "\n".join([*lines, "No data: the newest radar image is empty; no forecast."])
    lines += _describe_now(now)
    lines += describe_gaps(past, int(lead_minutes[0]))
    last_lead = f"+{lead_minutes[-1]} min"
    if not is_wet(rain, WET_MM_H).any():
        return "\n".join([*lines, f"Forecast: no rain in any member up to {last_lead}."])
    lines += ["", *_table(rain, lead_minutes, chances), ""]
    lines += _describe_change(now, rain[:, -1], last_lead)
    if len(rain) > 1:
        lines.append(_describe_spread(rain[:, -1], last_lead))
    if amounts is not None:
        lines += _describe_amounts(amounts)
    return "\n".join(lines)


def describe_gaps(past: np.ndarray, minutes: int) -> list[str]:
    """A line on what earlier images lacked and how much of it was filled; none below 1 percent.

    past: (T, H, W) mm/h, `minutes` apart, oldest frame first, NaN = no data. Shares are of the
        newest image's data.
    """
    filled = fill_gaps(torch.from_numpy(np.array(past, np.float32, order="C")), minutes)
    num_pixels = np.isfinite(past[-1]).sum()
    was_gap, is_gap = (mask.flatten(1).sum(1).numpy() for mask in (filled.was_gap, filled.is_gap))
    ages = minutes * np.arange(len(past) - 1, -1, -1)
    shares = [
        f"{_percent(num / num_pixels)} of {age} min before"
        for age, num in zip(ages, was_gap, strict=True)
        if num >= MENTIONED_SHARE * num_pixels
    ]
    if not shares:
        return []
    line = f"Gaps in earlier images, {', '.join(shares)}: filled from the other images"
    if is_gap.max() >= MENTIONED_SHARE * num_pixels:
        line += f", but for {_percent(is_gap.max() / num_pixels)} (quality past_incomplete)"
    return [f"{line}."]


def choose_leads(lead_minutes: np.ndarray, wanted: Sequence[int] = SHOWN_LEADS) -> list[int]:
    """Indices of the lead times nearest to those `wanted`; of a shorter forecast, evenly spread.

    The last lead time is always among them, as one more where it is later than those wanted.
    """
    last = len(lead_minutes) - 1
    if lead_minutes[last] >= wanted[-1]:
        return nearest_leads(lead_minutes, wanted)
    num_shown = min(len(wanted), len(lead_minutes))
    return [round(i) for i in np.linspace(last if num_shown == 1 else 0, last, num_shown)]


def intensity_word(rain_rate: float) -> str:
    """The word for a rain rate in mm/h: dry, light, moderate, heavy or violent."""
    return next((word for bound, word in INTENSITIES if rain_rate >= bound), "dry")


def readable_time(time: np.datetime64) -> str:
    """For example 2016-07-11 22:00"""
    return str(np.datetime64(time, "m")).replace("T", " ")


def ensemble_mean(members: np.ndarray) -> np.ndarray:
    """(E, ...) -> (...): mean of the members that have a value, NaN where none has."""
    valid = np.isfinite(members)
    return _divide(np.where(valid, members, 0).sum(axis=0), valid.sum(axis=0))


def chance_of(members: np.ndarray, threshold: float) -> np.ndarray:
    """(E, ...) mm/h -> (...) in 0..1: share of members with at least `threshold`, NaN = no data."""
    return _divide((members >= threshold).sum(axis=0), np.isfinite(members).sum(axis=0))


def _divide(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    result = np.full(count.shape, np.nan, dtype=np.float32)
    return np.divide(total, count, out=result, where=count > 0)


def _headline(rain: np.ndarray, issue_time: np.datetime64, grid: dict[str, Any]) -> str:
    height, width = rain.shape[-2:]
    size = f"{width} x {height} pixels"
    if "pixel_size_m" in grid:
        pixel_x = float(grid["pixel_size_m"])
        pixel_y = float(grid.get("pixel_size_y_m", pixel_x))
        size = f"{width * pixel_x / 1000:.0f} x {height * pixel_y / 1000:.0f} km"
    members = "1 member" if len(rain) == 1 else f"{len(rain)} members"
    return f"Rain forecast from {readable_time(issue_time)} UTC: {members}, {size}"


def _describe_now(now: np.ndarray) -> list[str]:
    missing = np.isnan(now).mean()
    no_data = f"; no data for {_percent(missing)} of the domain" if missing else ""
    if not is_wet(now, WET_MM_H).any():
        return [f"Now: dry, below {WET_MM_H} mm/h everywhere{no_data}."]
    mean, peak = np.nanmean(now), np.nanmax(now)
    sector = SECTORS[_sectors(now.shape).flat[np.nanargmax(now)]]
    return [
        f"Now: {_percent(_wet_share(now))} of the area is wet; mean {_number(mean)} mm/h, "
        f"peak {_number(peak)} mm/h ({intensity_word(peak)}) in the {sector}.",
        f"     {_where(now)}{no_data}.",
    ]


def _table(
    rain: np.ndarray, lead_minutes: np.ndarray, chances: Mapping[float, np.ndarray] | None
) -> list[str]:
    """Two lines of header, and one for each shown lead time.

    The members say how likely heavy rain is anywhere in the domain; calibrated chances are of
    single pixels, so the highest of them is shown instead.
    """
    heavy_titles = ("chance of 10 mm/h", "somewhere")
    if chances is not None:
        heavy_titles = ("highest chance", "of 10 mm/h")
    row = "{:>9}{:>18}{:>9}{:>16}{:>22}{:>20}".format
    lines = [
        row("lead", "wet area", "mean", "peak of any", "area with > 50 %", heavy_titles[0]),
        row("time", "(10-90 %)", "mm/h", "member, mm/h", "chance of 1 mm/h", heavy_titles[1]),
    ]
    for i in choose_leads(lead_minutes):
        members = rain[:, i]
        wet, likely, heavy = _percent(_wet_share(members)), "-", "-"
        if len(members) > 1:
            low, high = np.quantile([_wet_share(member) for member in members], (0.1, 0.9))
            wet += f" ({100 * low:.0f}-{100 * high:.0f})"
            if chances is None:
                chance = chance_of(members, LIKELY_MM_H)
                heavy = _percent(np.mean([(member >= HEAVY_MM_H).any() for member in members]))
            else:
                chance = chances[LIKELY_MM_H][i]
                heavy = _percent(np.nanmax(chances[HEAVY_MM_H][i]))
            likely = _percent((chance > 0.5).sum() / np.isfinite(chance).sum())
        mean, peak = np.nanmean(members), np.nanmax(members)
        peak_text = f"{_number(peak)} {intensity_word(peak)}"
        lines.append(row(f"+{lead_minutes[i]} min", wet, _number(mean), peak_text, likely, heavy))
    return lines


def _describe_change(now: np.ndarray, members: np.ndarray, lead: str) -> list[str]:
    """From the present (H, W) to the members (E, H, W) at the last lead time."""
    then = ensemble_mean(members)
    before, after = np.nanmean(now), np.nanmean(then)
    numbers = f"from {_number(before)} to {_number(after)} mm/h on average by {lead}"
    if _wet_share(members) < DRY_SHARE:
        return [f"Tendency: the rain ends, {numbers}."]
    where = f"          Then {_where(then)}."
    if _wet_share(now) < DRY_SHARE:
        return [f"Tendency: rain comes up, {numbers}.", where]
    shift = _centre(then) - _centre(now)
    distance = np.hypot(*shift)
    course, leaves = "", False
    if distance >= MOVE_SHARE:
        course = COMPASS[round(np.degrees(np.arctan2(shift[1], -shift[0])) / 45) % 8]
        # Leaving: the centre has come to the third of the domain that lies ahead of it.
        leaves = np.dot(_centre(then) - 0.5, shift / distance) > 1 / 6
    if after <= EASES * before:
        text = f"the rain moves out to the {course}" if leaves else "the rain eases"
    else:
        text = "the rain grows" if after >= GROWS * before else "the rain changes little"
    if course and not text.endswith(course):
        text += f" and moves {course}"
    return [f"Tendency: {text}, {numbers}.", where]


def _describe_spread(members: np.ndarray, lead: str) -> str:
    """How far the members (E, H, W) at the last lead time agree on where it rains."""
    num_wet = is_wet(members, WET_MM_H).sum(axis=0)
    if not num_wet.any():
        return f"Spread: none, every member is dry at {lead}."
    # Ordered pairs of different members that are both wet, over pairs of which the first is.
    agreement = (num_wet * (num_wet - 1)).sum() / (num_wet.sum() * (len(members) - 1))
    word = next(word for bound, word in SPREADS if agreement >= bound)
    return (
        f"Spread: {word} at {lead}: where a member has rain, "
        f"{_percent(agreement)} of the others have it too."
    )


def _describe_amounts(amounts: Amounts) -> list[str]:
    """For each length of windows, the most that falls anywhere."""
    lines = []
    for minutes in dict.fromkeys(amounts.minutes.tolist()):
        chosen = np.flatnonzero(amounts.minutes == minutes)
        members = amounts.rain_amount[:, chosen]  # (E, N, H, W)
        peak = int(np.nanmax(members, axis=(0, 2, 3)).argmax())
        end = readable_time(amounts.window_end[chosen[peak]])[-5:]
        mean = np.nanmax(ensemble_mean(members))
        lines.append(
            f"In {minutes} min: up to {_number(np.nanmax(members))} mm in a member, until {end} "
            f"UTC; up to {_number(mean)} mm in their mean."
        )
    return lines


def _where(frame: np.ndarray) -> str:
    """Up to three sectors, wettest first, that together have more than half of the rain."""
    amounts = np.bincount(_sectors(frame.shape).ravel(), np.nan_to_num(frame).ravel(), minlength=9)
    wettest_first = np.argsort(-amounts, kind="stable")
    shares = np.cumsum(amounts[wettest_first]) / amounts.sum()
    count = int(np.argmax(shares > 0.5)) + 1
    if count > 3:
        return "the rain is spread over the whole domain"
    *others, last = [SECTORS[i] for i in wettest_first[:count]]
    names = f"{', '.join(others)} and {last}" if others else last
    return f"{_percent(shares[count - 1])} of the rain falls in the {names}"


def _sectors(shape: tuple[int, int]) -> np.ndarray:
    """(H, W) int: the index in SECTORS of each pixel."""
    height, width = shape
    return 3 * (3 * np.arange(height) // height)[:, None] + 3 * np.arange(width) // width


def _centre(frame: np.ndarray) -> np.ndarray:
    """Centre of mass of the rain, (row, column) as shares of the domain."""
    rain = np.nan_to_num(frame)
    height, width = frame.shape
    row = rain.sum(axis=1) @ (np.arange(height) + 0.5) / height
    column = rain.sum(axis=0) @ (np.arange(width) + 0.5) / width
    return np.array([row, column]) / rain.sum()


def _wet_share(rain_rate: np.ndarray) -> float:
    return is_wet(rain_rate, WET_MM_H).sum() / np.isfinite(rain_rate).sum()


def _percent(share: float) -> str:
    if 0 < share < 0.01:
        return "<1 %"
    if 0.99 < share < 1:
        return ">99 %"
    return f"{100 * share:.0f} %"


def _number(value: float) -> str:
    if value < 0.01:
        return "<0.01" if value > 0 else "0"
    return f"{value:.{2 if value < 1 else 1 if value < 10 else 0}f}"
