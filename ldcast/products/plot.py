"""Pictures of a forecast: a sheet of maps (PNG), a film (GIF, MP4), a page to explore (HTML)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ldcast.errors import InputError
from ldcast.frames import FrameConfig
from ldcast.machine.files import open_atomically
from ldcast.products.explorer import save_explorer
from ldcast.products.film import draw_film, film_durations, save_gif
from ldcast.products.forecast import continued_before
from ldcast.products.sheet import draw_sheet
from ldcast.products.story import Story
from ldcast.products.summary import LIKELY_MM_H
from ldcast.products.video import require_ffmpeg, save_mp4

PLOT_SUFFIXES = (".png", ".gif", ".mp4", ".html")


def plot_forecast(
    past: np.ndarray,
    rain: np.ndarray,
    issue_time: np.datetime64,
    lead_minutes: np.ndarray,
    grid: Mapping[str, Any],
    path: Path,
    chances: Mapping[float, np.ndarray] | None = None,
    *,
    thresholds: Sequence[float] = (LIKELY_MM_H,),
    borders: Sequence[np.ndarray] = (),
    quality: np.ndarray | None = None,
    is_second_hand: np.ndarray | None = None,
    later: np.ndarray | None = None,
) -> None:
    """Draw a forecast as a sheet of maps (`path` ends in .png), as a film (.gif, .mp4) or as a page
    to explore in a browser (.html).

    past: (past_frames, H, W) mm/h, oldest frame first, row 0 = north, NaN = no data.
    rain: (E, T, H, W) mm/h, NaN = no forecast. Mean and chances are drawn if E > 1.
    issue_time: UTC, time of the newest past frame.
    lead_minutes: (T,) minutes after it, the first one being also the time between past frames.
    grid: `pixel_size_m` and `pixel_size_y_m`, where known, give a scale bar and the maps' shape.
    chances: of a calibrated forecast, as for `summarise`.
    thresholds: in mm/h; chances of at least so much are drawn. A sheet has room for three, the
        smallest and the largest among them, a film for the one nearest to 1 mm/h, a page for all.
    borders: as `read_borders` gives them.
    quality: (T, H, W) as `ldcast.motion.forecast_quality` gives it; means and chances (of one
        member, its rain) are dotted where what is upstream is unknown.
    is_second_hand: (T,) bool, frames that are marked as made from forecast frames. None: those
        after 100 minutes where frames are 5 minutes apart, as the published model's; else none.
    later: (T, H, W) mm/h, what was observed at the lead times, NaN where it was not; drawn beside
        the forecast in a sheet and in a page.

    Raises InputError for another ending, for thresholds that are not positive or that `chances`
    lacks, and without matplotlib (but for .html) or, for .mp4, ffmpeg; OSError if `path` cannot be
    written. A file that was there before is then still there.
    """
    suffix = path.suffix.lower()
    if suffix not in PLOT_SUFFIXES:
        raise InputError(f"{path} ends in '{path.suffix}', expected {' or '.join(PLOT_SUFFIXES)}")
    require_plot_packages(path)
    _check_thresholds(thresholds, chances)
    for name, maps in (("later", later), ("quality", quality)):
        if maps is not None and maps.shape != rain.shape[1:]:
            raise InputError(
                f"{name} has the shape {maps.shape}, expected that of a member, {rain.shape[1:]}"
            )
    lead_minutes = np.asarray(lead_minutes)
    if is_second_hand is None and lead_minutes[0] == FrameConfig.minutes_per_frame:
        is_second_hand = continued_before(lead_minutes)
    story = Story(
        past=past,
        rain=rain,
        issue_time=np.datetime64(issue_time, "m"),
        lead_minutes=lead_minutes,
        grid=grid,
        chances=chances,
        thresholds=tuple(thresholds),
        borders=tuple(borders),
        quality=quality,
        is_second_hand=is_second_hand,
        later=later,
    )
    if suffix == ".html":
        with open_atomically(path) as file:
            save_explorer(story, file)
        return
    from matplotlib import style

    # The same picture whatever the user's matplotlibrc says (LaTeX text, other fonts, dark style).
    with style.context("default"), open_atomically(path) as file:
        if suffix == ".png":
            draw_sheet(story).savefig(file, format="png")
        elif suffix == ".gif":
            save_gif(draw_film(story), film_durations(story), file)
        else:
            save_mp4(draw_film(story), film_durations(story), Path(file.name))


def require_plot_packages(path: Path) -> None:
    """Raise InputError if what a picture of this name needs is missing; a page needs nothing."""
    suffix = path.suffix.lower()
    if suffix != ".html":
        require_matplotlib()
    if suffix == ".mp4":
        require_ffmpeg()


def require_matplotlib() -> None:
    """Raise InputError if it, or Pillow of its own, is missing; to be called before the work."""
    try:
        import matplotlib  # noqa: F401
        import PIL  # noqa: F401
    except ModuleNotFoundError as error:
        package = "pillow" if error.name == "PIL" else "matplotlib"
        raise InputError(
            f"pictures need {package}, which is missing; install it with: pip install {package}"
        ) from None


def _check_thresholds(
    thresholds: Sequence[float], chances: Mapping[float, np.ndarray] | None
) -> None:
    if not thresholds or not all(value > 0 for value in thresholds):
        raise InputError(f"got thresholds {list(thresholds)}, expected mm/h above 0, at least one")
    known = thresholds if chances is None else chances
    missing = [value for value in thresholds if value not in known]
    if missing:
        names = [", ".join(f"{value:g}" for value in values) for values in (missing, known)]
        raise InputError(f"no chance of {names[0]} mm/h is calibrated, expected among {names[1]}")
