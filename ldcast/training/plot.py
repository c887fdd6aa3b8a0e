"""Draws what training runs measured, as a picture (needs matplotlib) or a page to explore.

python -m ldcast.training.plot runs/autoenc runs/ldcast --out curves.png
python -m ldcast.training.plot runs/first runs/second --out run.html
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ldcast.errors import InputError, run_script
from ldcast.machine.files import open_atomically
from ldcast.machine.folders import check_output_path
from ldcast.products.charts import ChartsPage, Group, save_charts
from ldcast.products.diagrams import DISTINCT_COLOURS, Line, Panel, Style, draw_panel
from ldcast.products.plot import require_matplotlib
from ldcast.training.metrics import METRICS_NAME, metrics_lines

Points = list[tuple[int, float]]  # (iteration, value)


class MetricPanel(NamedTuple):
    """A diagram: its label and scale, and what metrics.jsonl calls each curve -> its label.

    A single curve needs no label.
    """

    label: str
    scale: str
    curves: dict[str, str]


PANELS = (
    MetricPanel(
        "loss",
        "log",
        {
            "loss": "training",
            "val_loss": "validation, raw weights",
            "val_loss_ema": "validation, averaged weights",
        },
    ),
    MetricPanel("CRPS, averaged\nweights, mm/h", "linear", {"val_crps_ema": ""}),
    MetricPanel(
        "error, mm/h",
        "linear",
        {"val_mae_mmh": "validation, raw weights", "val_mae_mmh_ema": "averaged weights"},
    ),
    MetricPanel("gradient norm\nbefore clipping", "log", {"grad_norm": ""}),
    MetricPanel("learning rate", "linear", {"lr": ""}),
    MetricPanel("skipped updates\nso far", "linear", {"num_skipped": ""}),
    MetricPanel("examples/s", "linear", {"examples_per_s": ""}),
    MetricPanel("share of the time\nwaiting for data", "linear", {"data_wait_share": ""}),
)
# Of the last curves of a panel: where there is one run, and where runs differ by colour.
COLOURS = ("#b2b2b2", "#ff7f0e", "#1f77b4")
COLOUR_WORDS, DASH_WORDS = ("grey", "orange", "blue"), ("dotted", "dashed", "solid")
DASHES: tuple[Style, ...] = (
    {"linestyle": ":", "linewidth": 1.2},
    {"linestyle": "--", "linewidth": 1.5},
    {"linestyle": "-", "linewidth": 1.9},
)
FEW_POINTS = 30  # a curve of fewer shows each
PANEL_INCHES = (5.5, 2.2)


def read_curves(run: Path) -> dict[str, Points]:
    """The points of every curve that the run's metrics hold; null values are left out.

    Raises InputError where there are no metrics.
    """
    path = run / METRICS_NAME
    if not path.is_file():
        raise InputError(f"{path} does not exist: give the folder of a training run")
    curves: dict[str, Points] = {}
    for line in metrics_lines(path):
        for name, value in line.items():
            if isinstance(value, (int, float)):
                curves.setdefault(name, []).append((line["iteration"], value))
    return curves


def curve_panels(curves: dict[str, dict[str, Points]]) -> list[Panel]:
    """A panel for each of `PANELS`, without lines where no run has a curve of it.

    curves: of each run, by its name. Those of one run differ by colour; of several runs each has
        its colour, and its curves differ by their dashes.
    """
    return [_curve_panel(panel, curves) for panel in PANELS]


def _curve_panel(panel: MetricPanel, curves: dict[str, dict[str, Points]]) -> Panel:
    points = {
        (run, name): dict(of_run[name])
        for run, of_run in curves.items()
        for name in panel.curves
        if name in of_run
    }
    iterations = sorted({iteration for curve in points.values() for iteration in curve})
    lines = []
    for (run, name), curve in points.items():
        values = np.array([curve.get(iteration, np.nan) for iteration in iterations], np.float64)
        style = _style(panel, name, None if len(curves) == 1 else list(curves).index(run))
        marker = "." if len(curve) < FEW_POINTS else ""
        lines.append(Line(values, style | {"marker": marker}, name=run, note=panel.curves[name]))
    return Panel(
        panel.label.replace("\n", " "),
        _key(panel, COLOUR_WORDS if len(curves) == 1 else DASH_WORDS),
        np.array(iterations, np.float64),
        tuple(lines),
        x_label="iteration",
        y_label=panel.label,
        y_scale=panel.scale,
        joins_gaps=True,
    )


def _style(panel: MetricPanel, name: str, run: int | None) -> Style:
    """run: the how-manieth it is; None where it is alone."""
    place = list(panel.curves).index(name) - len(panel.curves)
    label = {"label": panel.curves[name]}
    if run is None:
        return label | {"color": COLOURS[place], "linewidth": 1.5}
    return label | {"color": _colour_of(run)} | DASHES[place]


def _colour_of(run: int) -> str:
    return DISTINCT_COLOURS[run % len(DISTINCT_COLOURS)]


def _key(panel: MetricPanel, words: tuple[str, ...]) -> str:
    """Which curve looks how; nothing where there is but one."""
    if len(panel.curves) == 1:
        return ""
    pairs = zip(words[-len(panel.curves) :], panel.curves.values(), strict=True)
    return ", ".join(f"{word}: {label}" for word, label in pairs)


def draw_curves(runs: Sequence[Path], out: Path) -> None:
    """A column of `PANELS` per run, as a PNG; panels of which no run has a curve are left out."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = [curve_panels({run.name: read_curves(run)}) for run in runs]
    rows = [row for row in zip(*columns, strict=True) if any(panel.lines for panel in row)]
    _check_not_empty(rows, runs)
    width, height = PANEL_INCHES
    size = (width * len(runs), height * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(rows), len(runs), squeeze=False, sharex="col")
    for run, axes in zip(runs, grid[0], strict=True):
        axes.set_title(run.name)
    for row, panels in zip(grid, rows, strict=True):
        for axes, panel in zip(row, panels, strict=True):
            draw_panel(panel, axes)
            axes.set_xlabel("iteration" if axes in grid[-1] else "")
            if any(line.note for line in panel.lines):
                axes.legend(frameon=False, fontsize=8)
    with open_atomically(out) as file:
        figure.savefig(file, format="png", dpi=120)


def save_curves_page(runs: Sequence[Path], out: Path) -> None:
    """The same panels as a page, the curves of all runs together; needs no matplotlib."""
    curves = {name: read_curves(run) for name, run in zip(_names(runs), runs, strict=True)}
    panels = [panel for panel in curve_panels(curves) if panel.lines]
    _check_not_empty(panels, runs)
    styles = {
        name: {"color": _colour_of(index), "linewidth": 1.9, "label": name}
        for index, name in enumerate(curves)
    }
    page = ChartsPage(
        title=f"Training of {', '.join(curves)}",
        subtitle=f"up to iteration {max(panel.x[-1] for panel in panels):g}",
        styles=styles if len(runs) > 1 else {},
        groups=(Group("", "", tuple((panel,) for panel in panels)),),
    )
    with open_atomically(out) as file:
        save_charts(page, file)


def _names(runs: Sequence[Path]) -> list[str]:
    """The folders' names; where two are equal, whole paths, and numbers for the same twice."""
    names = [run.resolve().name for run in runs]
    if len(set(names)) < len(names):
        names = [str(run) for run in runs]
    return [
        f"{name} ({names[:index].count(name) + 1})" if name in names[:index] else name
        for index, name in enumerate(names)
    ]


def _check_not_empty(panels: Sequence[object], runs: Sequence[Path]) -> None:
    if not panels:
        raise InputError(f"{runs[0] / METRICS_NAME} has no line yet: wait for the first validation")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="folders of training runs")
    parser.add_argument("--out", type=Path, default=Path("curves.png"), help="(%(default)s)")
    flags = parser.parse_args(argv)
    check_output_path(flags.out, (".png", ".html"))
    if flags.out.suffix.lower() == ".html":
        save_curves_page(flags.runs, flags.out)
        return
    require_matplotlib()
    draw_curves(flags.runs, flags.out)


if __name__ == "__main__":
    sys.exit(run_script(main))
