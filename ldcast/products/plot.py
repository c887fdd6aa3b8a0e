"""Pictures of a forecast: a sheet of maps (PNG) and a film (GIF)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from ldcast.errors import InputError
from ldcast.files import open_atomically
from ldcast.products.maps import (
    CHANCE_SCALE,
    CHANCE_TITLE,
    RAIN_SCALE,
    ColourScale,
    add_colour_bar,
    add_map,
    add_no_data_key,
    coarsen,
)
from ldcast.products.summary import LIKELY_MM_H, chance_of, choose_leads, ensemble_mean, format_time

if TYPE_CHECKING:  # matplotlib is an extra, imported where it is used
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage
    from matplotlib.text import Text

PLOT_SUFFIXES = (".png", ".gif")
OBSERVED_COLOUR, FORECAST_COLOUR = "#505050", "#0b5394"

# Inches: the longer side of a map, and what a map's texts need at least.
SHEET_MAP, FILM_MAP, TEXT_WIDTH, TEXT_HEIGHT = 2.7, 3.5, 1.8, 1.3
SHEET_DPI, FILM_DPI = 120, 100
SHEET_DOTS, FILM_DOTS = round(SHEET_MAP * SHEET_DPI), round(FILM_MAP * FILM_DPI)
# Milliseconds for which a picture stays: observed, forecast, and the last one before it loops.
OBSERVED_MS, FORECAST_MS, LAST_MS = 400, 250, 1500


def plot_forecast(
    past: np.ndarray,
    rain: np.ndarray,
    issue_time: np.datetime64,
    lead_minutes: np.ndarray,
    grid: dict[str, Any],
    path: Path,
    chances: Mapping[float, np.ndarray] | None = None,
) -> None:
    """Draw a forecast as a sheet of maps (`path` ends in .png) or as a film (.gif).

    past: (4, H, W) mm/h, oldest frame first, row 0 = north, NaN = no data.
    rain: (E, T, H, W) mm/h, NaN = no forecast. Mean and chances are drawn if E > 1.
    issue_time: UTC, time of the newest past frame.
    lead_minutes: (T,) minutes after it, the first one being also the time between past frames.
    grid: `pixel_size_m` and `pixel_size_y_m`, where known, give a scale bar and the maps' shape.
    chances: of a calibrated forecast, as for `summarise`.

    Raises InputError for another ending or without matplotlib, OSError if `path` cannot be
    written; a file that was there before is then still there.
    """
    require_matplotlib()
    from matplotlib import style

    suffix = path.suffix.lower()
    if suffix not in PLOT_SUFFIXES:
        raise InputError(f"{path} ends in '{path.suffix}', expected {' or '.join(PLOT_SUFFIXES)}")
    issue_time, lead_minutes = np.datetime64(issue_time, "m"), np.asarray(lead_minutes)
    story = _Story(past, rain, issue_time, lead_minutes, grid, chances)
    # The same picture whatever the user's matplotlibrc says (LaTeX text, other fonts, dark style).
    with style.context("default"), open_atomically(path) as file:
        if suffix == ".png":
            _draw_sheet(story).savefig(file, format="png")
        else:
            _save_film(_draw_film(story), story, file)


def require_matplotlib() -> None:
    """Raise InputError if matplotlib is missing; to be called before the work starts."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        raise InputError(
            "pictures need matplotlib, which is missing; install it with: pip install matplotlib"
        ) from None


@dataclass(frozen=True)
class _Story:
    """The arguments of `plot_forecast`, and what both kinds of picture derive from them."""

    past: np.ndarray
    rain: np.ndarray
    issue_time: np.datetime64
    lead_minutes: np.ndarray
    grid: dict[str, Any]
    chances: Mapping[float, np.ndarray] | None

    @property
    def title(self) -> str:
        members = "1 member" if len(self.rain) == 1 else f"{len(self.rain)} members"
        calibrated = "" if self.chances is None else ", calibrated"
        return f"Rain forecast from {format_time(self.issue_time)} UTC, {members}{calibrated}"

    @property
    def past_minutes(self) -> np.ndarray:
        """(4,) minutes after `issue_time`: -15, -10, -5, 0."""
        return np.arange(1 - len(self.past), 1) * int(self.lead_minutes[0])

    @property
    def map_shape(self) -> tuple[float, float]:
        """Width and height of the domain, the longer one being 1."""
        rows, columns = self.past.shape[1:]
        height = rows * self.pixel_aspect
        return columns / max(height, columns), height / max(height, columns)

    @property
    def pixel_aspect(self) -> float:
        """Height of a pixel over its width."""
        if "pixel_size_m" not in self.grid:
            return 1.0
        width = float(self.grid["pixel_size_m"])
        return float(self.grid.get("pixel_size_y_m", width)) / width

    def chance(self, lead: int | list[int]) -> np.ndarray:
        """Of at least `LIKELY_MM_H` at one lead time, (H, W), or at several, (n, H, W)."""
        if self.chances is None:
            return chance_of(self.rain[:, lead], LIKELY_MM_H)
        return self.chances[LIKELY_MM_H][lead]

    def name_time(self, minutes: int) -> str:
        """For example "+30 min, 22:30 UTC"."""
        sign = "+" if minutes > 0 else "−" if minutes < 0 else ""
        time = format_time(self.issue_time + np.timedelta64(int(minutes), "m"))
        return f"{sign}{abs(minutes)} min, {time[-5:]} UTC"


def _draw_sheet(story: _Story) -> Figure:
    """A row of maps each for the past, up to two members, the mean and the chances."""
    leads = choose_leads(story.lead_minutes)
    rain, minutes = story.rain[:, leads], story.lead_minutes[leads]
    rows = [("observed", story.past_minutes, story.past, RAIN_SCALE)]
    for i, member in enumerate(rain[:2]):
        rows.append((f"member {i + 1} of {len(rain)}", minutes, member, RAIN_SCALE))
    if len(rain) > 1:
        rows.append(("ensemble mean", minutes, ensemble_mean(rain), RAIN_SCALE))
        rows.append((CHANCE_TITLE, minutes, story.chance(leads), CHANCE_SCALE))

    num_columns = max(len(story.past), len(leads))
    width, height = (SHEET_MAP * side for side in story.map_shape)
    fig = _new_figure(
        num_columns * max(width, TEXT_WIDTH) + 1.4,
        len(rows) * (max(height, TEXT_HEIGHT) + 0.27) + 0.6,
        SHEET_DPI,
    )
    fig.suptitle(story.title, fontsize=13, fontweight="bold")
    cells = fig.subplots(len(rows), num_columns, squeeze=False)
    for row, (label, row_minutes, frames, scale) in zip(cells, rows, strict=True):
        colour = FORECAST_COLOUR if row_minutes[0] > 0 else OBSERVED_COLOUR
        for axes, lead, frame in zip(row, row_minutes, frames, strict=False):
            add_map(axes, coarsen(frame, SHEET_DOTS), scale, story.pixel_aspect)
            axes.set_title(story.name_time(lead), fontsize=9, color=colour, pad=4)
        for axes in row[len(frames) :]:
            axes.set_visible(False)
        row[0].set_ylabel(label, fontsize=10.5, color=colour)
    _add_scale_bar(cells[0, 0], story)
    _add_colour_bar(fig, cells[:2], RAIN_SCALE, "right")
    if len(rain) > 1:
        _add_colour_bar(fig, cells[-1:], CHANCE_SCALE, "right")
    add_no_data_key(fig, loc="upper right")
    return fig


def _draw_film(story: _Story) -> Iterator[np.ndarray]:
    """Pictures (rows, columns, 3) uint8, one for each past and each future frame."""
    fig, images = _set_stage(story)
    panels = [image.axes for image in images]
    waiting = [_write_centred(axes, f"from +{story.lead_minutes[0]} min") for axes in panels[1:]]
    for minutes, maps in _film_maps(story):
        is_forecast = minutes > 0
        kind, colour = "observed", OBSERVED_COLOUR
        if is_forecast:
            kind, colour = "forecast", FORECAST_COLOUR
        fig.suptitle(f"{kind}  {story.name_time(minutes)}", color=colour, fontweight="bold")
        source = f"member 1 of {len(story.rain)}" if is_forecast else "radar"
        panels[0].set_title(source, fontsize=10)
        for image, values in zip(images, maps, strict=False):
            image.set_data(coarsen(values, FILM_DOTS))
        for text in waiting:
            text.set_visible(not is_forecast)
        fig.canvas.draw()
        fig.set_layout_engine("none")  # the first picture has settled what goes where
        yield np.asarray(fig.canvas.buffer_rgba())[..., :3].copy()


def _set_stage(story: _Story) -> tuple[Figure, list[AxesImage]]:
    """The film's figure with all that stays, and its one or three maps, still dry."""
    num_members = len(story.rain)
    scales = [RAIN_SCALE, RAIN_SCALE, CHANCE_SCALE] if num_members > 1 else [RAIN_SCALE]
    width, height = (FILM_MAP * side for side in story.map_shape)
    fig = _new_figure(max(len(scales) * max(width, TEXT_WIDTH) + 0.3, 5.6), height + 1.5, FILM_DPI)
    fig.supxlabel(story.title, fontsize=9)
    add_no_data_key(fig, loc="upper right")
    panels = fig.subplots(1, len(scales), squeeze=False)[0]
    dry = coarsen(np.zeros(story.past.shape[1:]), FILM_DOTS)
    images = [
        add_map(axes, dry, scale, story.pixel_aspect)
        for axes, scale in zip(panels, scales, strict=True)
    ]
    _add_scale_bar(panels[0], story)
    _add_colour_bar(fig, panels[:2], RAIN_SCALE, "bottom")
    if num_members > 1:
        panels[1].set_title(f"mean of {num_members} members", fontsize=10)
        panels[2].set_title(CHANCE_TITLE, fontsize=10)
        _add_colour_bar(fig, panels[2:], CHANCE_SCALE, "bottom")
    return fig, images


def _film_maps(story: _Story) -> Iterator[tuple[int, list[np.ndarray]]]:
    """Lead time in minutes and the maps to show, for each past and each future frame."""
    for minutes, frame in zip(story.past_minutes, story.past, strict=True):
        yield minutes, [frame]
    for i, minutes in enumerate(story.lead_minutes):
        members = story.rain[:, i]
        yield minutes, [members[0], ensemble_mean(members), story.chance(i)]


def _save_film(pictures: Iterator[np.ndarray], story: _Story, file: BinaryIO) -> None:
    from PIL import Image  # comes with matplotlib

    frames = [Image.fromarray(pixels) for pixels in pictures]
    # One palette for all, which makes small files: the colour bars put every colour of the maps
    # into each picture, and the last one has the forecast's colour of text.
    palette = frames[-1].quantize(256, dither=Image.Dither.NONE)
    frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    num_past, num_future = len(story.past), len(story.lead_minutes)
    durations = [OBSERVED_MS] * num_past + [FORECAST_MS] * (num_future - 1) + [LAST_MS]
    first, *others = frames
    first.save(file, "GIF", save_all=True, append_images=others, duration=durations, loop=0)


def _new_figure(width: float, height: float, dpi: int) -> Figure:
    """A figure of so many inches, belonging to no window and not to pyplot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    fig = Figure(figsize=(width, height), dpi=dpi, layout="compressed")
    fig.get_layout_engine().set(w_pad=0.07, h_pad=0.06)  # inches
    FigureCanvasAgg(fig)
    return fig


def _add_colour_bar(fig: Figure, panels: np.ndarray, scale: ColourScale, location: str) -> None:
    add_colour_bar(fig, scale, ax=panels, location=location, aspect=15 * len(panels), pad=0.02)


def _add_scale_bar(axes: Axes, story: _Story) -> None:
    """A bar of round length, up to a quarter of the width; none if pixels have no known size."""
    if "pixel_size_m" not in story.grid:
        return
    from matplotlib.font_manager import FontProperties
    from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar  # part of matplotlib

    width = story.past.shape[2] * float(story.grid["pixel_size_m"]) / 1000
    power = 10.0 ** np.floor(np.log10(width / 4))
    length = max(digit * power for digit in (1, 2, 5) if digit * power <= width / 4)
    bar = AnchoredSizeBar(
        axes.transAxes,
        length / width,
        f"{length:g} km",
        "lower left",
        pad=0.3,
        borderpad=0.4,
        fontproperties=FontProperties(size=8),
    )
    bar.patch.set(alpha=0.8, linewidth=0)
    axes.add_artist(bar)


def _write_centred(axes: Axes, text: str) -> Text:
    return axes.text(
        0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color="#808080"
    )
