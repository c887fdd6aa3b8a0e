"""Whether windows show: how much rain changes across their borders, and how much elsewhere.

  python -m ldcast.tools.seams --data event.npz --window 256
  python -m ldcast.tools.seams --data event.npz --issue-time 2016-07-11T22:00 --members 4

Forecasts the same rain with the same noise three ways: as a whole, in overlapping windows that are
denoised together (infer.py --window), and in tiles forecast one by one. For each it prints the
mean change of log rain from pixel to pixel across the borders, over that across the other edges of
latent cells: 1 where nothing shows. The whole forecast and the radar, looked at along the same
lines, say what chance does.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from torch import Tensor

from ldcast import LDCast
from ldcast.data.past import past_event
from ldcast.data.readers.specs import read_event
from ldcast.data.reading import Reading
from ldcast.data.spans import parse_time
from ldcast.diffusion.windows import LatentWindow, cover
from ldcast.errors import InputError, check_count, run_script
from ldcast.machine.folders import check_output_path
from ldcast.nowcast.request import check_window
from ldcast.rain import RainScale
from ldcast.seeds import STREAM_MEMBER, draw_noise, keyed_generators


def border_change(
    rain_rate: np.ndarray, rows: list[int], columns: list[int], every: int = 1
) -> float:
    """Mean change of log rain across lines of pixels, over that across the other lines.

    rain_rate: (..., H, W) mm/h, NaN = no data. rows, columns: a line lies before each of these.
    every: compared are lines before multiples of this only, as all borders are: a decoder shows the
        edges of its latent cells everywhere.
    Changes between two dry pixels count as well: seams may cut through drizzle.
    """
    scale = RainScale()
    log_rain = np.log10(np.where(rain_rate < scale.wet_threshold, scale.dry_value, rain_rate))
    at_borders, elsewhere = [], []
    for axis, lines in ((-2, rows), (-1, columns)):
        change = np.moveaxis(np.abs(np.diff(log_rain, axis=axis)), axis, 0)
        before = np.arange(1, len(change) + 1)  # the pixel after each line
        is_border = np.isin(before, lines)
        at_borders.append(change[is_border].ravel())
        elsewhere.append(change[~is_border & (before % every == 0)].ravel())
    return float(np.nanmean(np.concatenate(at_borders)) / np.nanmean(np.concatenate(elsewhere)))


def border_lines(windows: list[LatentWindow], compression: int) -> tuple[list[int], list[int]]:
    """Rows and columns of pixels before which a window begins or ends within the field."""
    lines = []
    for pieces in ([window.rows for window in windows], [window.columns for window in windows]):
        ends = {end for piece in pieces for end in (piece.start, piece.stop)}
        inner = ends - {0, max(ends)}
        lines.append([compression * end for end in sorted(inner)])
    return lines[0], lines[1]


def tile_by_tile(model: LDCast, past: np.ndarray, noise: Tensor, tile: int, **settings) -> tuple:
    """The forecast in tiles that do not know of each other, and the rows and columns between them.

    noise: (E, C, L, h, w), each tile takes its part.
    """
    height, width = past.shape[1:]
    rows, columns = range(0, height, tile), range(0, width, tile)
    members = len(noise)
    forecast = np.empty((members, model.frames.future_frames, height, width), np.float32)
    factor = model.autoencoder.compression
    for row in rows:
        for column in columns:
            part = np.s_[row : row + tile, column : column + tile]
            cells = np.s_[
                row // factor : (row + tile) // factor, column // factor : (column + tile) // factor
            ]
            if np.isnan(past[(..., *part)]).all(axis=(1, 2)).any():  # nothing to forecast from
                forecast[(..., *part)] = np.nan
                continue
            own = noise[(..., *cells)]
            forecast[(..., *part)] = model.predict(
                past[(..., *part)], members, noise=own, **settings
            )
    return forecast, (list(rows[1:]), list(columns[1:]))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", default="bundled", metavar="DIR", help="model or run folder (%(default)s)")
    add("--data", default="synthetic:0", metavar="PATH", help="event file (%(default)s)")
    add("--issue-time", metavar="TIME", help="UTC; default: the newest")
    add("--window", type=int, default=256, help="pixels (%(default)s)")
    add("--members", type=int, default=1, help="(%(default)s)")
    add("--steps", type=int, help="sampling steps; default: the model's")
    add("--save", type=Path, metavar="PATH.npz", help="keep the three forecasts")
    flags = parser.parse_args(argv)
    check_count("members", flags.members)
    if flags.save:
        check_output_path(flags.save, (".npz",))
    model = LDCast.from_pretrained(flags.model)
    if model.fields:
        raise InputError(
            f"{flags.model} takes {', '.join(model.fields)}: this tool knows rain only"
        )
    event = read_event(flags.data, Reading(minutes=model.frames.minutes_per_frame))
    wanted = parse_time(flags.issue_time) if flags.issue_time else None
    past = past_event(event, model.frames, wanted)
    issue_time, past = past.time[-1], past.rain_rate
    multiple = model.rain_multiple
    check_window(flags.window, multiple)
    height, width = (size // multiple * multiple for size in past.shape[1:])
    past = past[:, :height, :width]
    if min(height, width) <= flags.window:
        raise InputError(f"got {height} x {width} pixels, expected more than --window each way")

    settings = {"num_sampling_steps": flags.steps}
    factor = model.autoencoder.compression
    latent = (
        model.autoencoder.config.latent_channels,
        model.frames.future_frames // factor,
        height // factor,
        width // factor,
    )
    generators = keyed_generators(0, STREAM_MEMBER, indices=range(flags.members))
    noise = draw_noise((flags.members, *latent), generators)
    lines = border_lines(cover(*latent[2:], flags.window // factor), factor)
    whole = model.predict(past, flags.members, noise=noise, **settings)
    together = model.predict(past, flags.members, noise=noise, window=flags.window, **settings)
    tiles, tile_lines = tile_by_tile(model, past, noise, flags.window, **settings)

    print(f"{event.name}, {issue_time}, {height} x {width} pixels, windows of {flags.window}:")
    print("change of log rain across the borders over that across other edges of latent cells")
    print("| | window borders | tile borders |\n|---|---:|---:|")
    forecasts = {"radar": past, "whole": whole, "windows together": together, "tile by tile": tiles}
    for name, rain in forecasts.items():
        cells = [
            f"{border_change(rain, *where, every=factor):.3f}" for where in (lines, tile_lines)
        ]
        print(f"| {name} | {' | '.join(cells)} |")
    distance = np.nanmean(np.abs(together - whole)), np.nanmean(np.abs(tiles - whole))
    print(
        f"mean difference from the whole: {distance[0]:.3f} mm/h together, {distance[1]:.3f} tiles"
    )
    if flags.save:
        np.savez_compressed(flags.save, whole=whole, together=together, tiles=tiles)


if __name__ == "__main__":
    sys.exit(run_script(main))
