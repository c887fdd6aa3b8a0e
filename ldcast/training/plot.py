"""Draws what training runs measured (needs matplotlib).

python -m ldcast.training.plot runs/autoenc runs/ldcast --out curves.png
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ldcast.errors import InputError, run_script
from ldcast.machine.files import open_atomically
from ldcast.machine.folders import check_output_path
from ldcast.products.plot import require_matplotlib
from ldcast.training.metrics import METRICS_NAME, metrics_lines

Points = list[tuple[int, float]]  # (iteration, value)


class MetricPanel(NamedTuple):
    """A pair of axes: its label and scale, and what metrics.jsonl calls each curve -> its label.

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
COLOURS = ("0.7", "tab:orange", "tab:blue")  # of the last curves of a panel
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


def draw_curves(runs: Sequence[Path], out: Path) -> None:
    """A column of `PANELS` per run, as a PNG; panels of which no run has a curve are left out."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    curves = [read_curves(run) for run in runs]
    panels = [panel for panel in PANELS if any(panel.curves.keys() & c.keys() for c in curves)]
    if not panels:
        raise InputError(f"{runs[0] / METRICS_NAME} has no line yet: wait for the first validation")
    width, height = PANEL_INCHES
    size = (width * len(runs), height * len(panels))
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(panels), len(runs), squeeze=False, sharex="col")
    for column, (run, of_run) in enumerate(zip(runs, curves, strict=True)):
        grid[0, column].set_title(run.name)
        grid[-1, column].set_xlabel("iteration")
        for axes, panel in zip(grid[:, column], panels, strict=True):
            _draw_panel(axes, panel, of_run)
    with open_atomically(out) as file:
        figure.savefig(file, format="png", dpi=120)


def _draw_panel(axes, panel: MetricPanel, curves: dict[str, Points]) -> None:
    for colour, (name, label) in zip(
        COLOURS[-len(panel.curves) :], panel.curves.items(), strict=True
    ):
        if name in curves:
            iterations, values = zip(*curves[name], strict=True)
            marker = "." if len(values) < FEW_POINTS else ""
            axes.plot(iterations, values, color=colour, label=label, marker=marker)
    axes.set(ylabel=panel.label, yscale=panel.scale)
    if axes.lines and len(panel.curves) > 1:
        axes.legend(frameon=False, fontsize=8)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="folders of training runs")
    parser.add_argument("--out", type=Path, default=Path("curves.png"), help="(%(default)s)")
    flags = parser.parse_args(argv)
    check_output_path(flags.out, (".png",))
    require_matplotlib()
    draw_curves(flags.runs, flags.out)


if __name__ == "__main__":
    sys.exit(run_script(main))
