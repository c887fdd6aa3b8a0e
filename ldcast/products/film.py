"""A forecast as a film: one picture for each past and each future frame (needs matplotlib)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from ldcast.products.maps import (
    CHANCE_SCALE,
    DRY_COLOUR,
    RAIN_SCALE,
    add_doubt_key,
    add_no_data_key,
    chance_title,
    coarsen,
)
from ldcast.products.panels import (
    FORECAST_COLOUR,
    OBSERVED_COLOUR,
    TEXT_WIDTH,
    add_bar,
    add_doubt_dots,
    add_panel,
    add_scale_bar,
    new_figure,
)
from ldcast.products.story import Story

if TYPE_CHECKING:  # matplotlib is an extra, imported where it is used
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage
    from matplotlib.text import Text

MAP_INCHES, DPI = 3.5, 100  # of a map's longer side
LEAST_WIDTH, KEY_WIDTH = 5.6, 0.7  # inches; the latter on top where a second key is at the top
DOTS = round(MAP_INCHES * DPI)
# Milliseconds for which a picture stays: observed, forecast, and the last one before it loops.
OBSERVED_MS, FORECAST_MS, LAST_MS = 400, 250, 1500


def film_durations(story: Story) -> list[int]:
    """Milliseconds for each picture of `draw_film`."""
    num_past, num_future = len(story.past), len(story.lead_minutes)
    return [OBSERVED_MS] * num_past + [FORECAST_MS] * (num_future - 1) + [LAST_MS]


def draw_film(story: Story) -> Iterator[np.ndarray]:
    """Pictures (rows, columns, 3) uint8, one for each past and each future frame."""
    fig, images = _set_stage(story)
    panels = [image.axes for image in images]
    waiting = [_write_centred(axes, f"from +{story.lead_minutes[0]} min") for axes in panels[1:]]
    for minutes, maps, doubt in _film_maps(story):
        is_forecast = minutes > 0
        kind, colour = "observed", OBSERVED_COLOUR
        if is_forecast:
            kind, colour = "forecast", FORECAST_COLOUR
        fig.suptitle(f"{kind}  {story.name_time(minutes)}", color=colour, fontweight="bold")
        source = f"member 1 of {len(story.rain)}" if is_forecast else "radar"
        source += " (continued)" if story.is_continued(minutes) else ""
        panels[0].set_title(source, fontsize=10)
        for image, values in zip(images, maps, strict=False):
            image.set_data(coarsen(values, DOTS))
        for text in waiting:
            text.set_visible(not is_forecast)
        # As on a sheet, a member goes without where there are other maps.
        dots = [add_doubt_dots(axes, doubt, DOTS) for axes in panels[1:] or panels]
        fig.canvas.draw()
        fig.set_layout_engine("none")  # the first picture has settled what goes where
        yield np.asarray(fig.canvas.buffer_rgba())[..., :3].copy()
        for artist in filter(None, dots):
            artist.remove()


def save_gif(pictures: Iterator[np.ndarray], durations: list[int], file: BinaryIO) -> None:
    """Write pictures (rows, columns, 3) uint8, each for so many milliseconds, in a loop."""
    from PIL import Image  # comes with matplotlib

    frames = [Image.fromarray(pixels) for pixels in pictures]
    # One palette for all, which makes small files: the colour bars put every colour of the maps
    # into each picture, and the last one has the forecast's colour of text.
    palette = frames[-1].quantize(256, dither=Image.Dither.NONE)
    frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    first, *others = frames
    first.save(file, "GIF", save_all=True, append_images=others, duration=durations, loop=0)


def _set_stage(story: Story) -> tuple[Figure, list[AxesImage]]:
    """The film's figure with all that stays, and its one or three maps, still dry."""
    num_members = len(story.rain)
    scales = [RAIN_SCALE, RAIN_SCALE, CHANCE_SCALE] if num_members > 1 else [RAIN_SCALE]
    width, height = (MAP_INCHES * side for side in story.map_shape)
    least_width = LEAST_WIDTH if story.quality is None else LEAST_WIDTH + KEY_WIDTH
    width = max(len(scales) * max(width, TEXT_WIDTH) + 0.3, least_width)
    fig = new_figure(width, height + 1.5, DPI)
    fig.supxlabel(story.title, fontsize=9)
    add_no_data_key(fig, loc="upper right")
    if story.quality is not None:
        add_doubt_key(fig, loc="upper left")
    panels = fig.subplots(1, len(scales), squeeze=False)[0]
    dry = np.zeros(story.shape, dtype=np.float32)
    images = [
        add_panel(axes, dry, scale, story, DOTS) for axes, scale in zip(panels, scales, strict=True)
    ]
    add_scale_bar(panels[0], story.shape, story.grid)
    add_bar(fig, panels[:2], RAIN_SCALE, "bottom")
    if num_members > 1:
        panels[1].set_title(f"mean of {num_members} members", fontsize=10)
        panels[2].set_title(chance_title(story.main_threshold), fontsize=10)
        add_bar(fig, panels[2:], CHANCE_SCALE, "bottom")
    return fig, images


def _film_maps(story: Story) -> Iterator[tuple[int, list[np.ndarray], np.ndarray | None]]:
    """Lead time in minutes, the maps to show and where they are in doubt, for each frame."""
    for minutes, frame in zip(story.past_minutes, story.past, strict=True):
        yield minutes, [frame], None
    for i, minutes in enumerate(story.lead_minutes):
        maps = [story.rain[0, i], story.mean(i), story.chance(story.main_threshold, i)]
        yield minutes, maps, story.doubt(i)


def _write_centred(axes: Axes, text: str) -> Text:
    return axes.text(
        0.5,
        0.5,
        text,
        transform=axes.transAxes,
        ha="center",
        va="center",
        color="#707070",
        bbox={"facecolor": DRY_COLOUR, "linewidth": 0},  # border lines pass behind it
    )
