"""Draws the loss curves of training runs (needs matplotlib).

python -m ldcast.training.plot runs/autoenc runs/ldcast --out curves.png
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ldcast.data.forecast import check_output_path
from ldcast.errors import InputError, run_script
from ldcast.files import open_atomically
from ldcast.plot import require_matplotlib
from ldcast.training.run import METRICS_NAME

CURVES = {  # what metrics.jsonl calls it -> how it is drawn and named
    "loss": ("0.7", "training"),
    "val_loss": ("tab:orange", "validation, raw weights"),
    "val_loss_ema": ("tab:blue", "validation, averaged weights"),
}


def read_curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """(iteration, value) of each of `CURVES` that the run's metrics hold.

    Raises InputError where there are no metrics.
    """
    path = run / METRICS_NAME
    if not path.is_file():
        raise InputError(f"{path} does not exist: give the folder of a training run")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {
        name: [(line["iteration"], line[name]) for line in lines if name in line] for name in CURVES
    }


def draw_curves(runs: Sequence[Path], out: Path) -> None:
    """A panel of loss curves per run, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * len(runs), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(runs), squeeze=False)[0]
    for panel, run in zip(panels, runs, strict=True):
        for name, points in read_curves(run).items():
            colour, label = CURVES[name]
            if points:
                panel.plot(*zip(*points, strict=True), color=colour, label=label)
        panel.set(title=run.name, xlabel="iteration", ylabel="loss", yscale="log")
        panel.legend(frameon=False)
    with open_atomically(out) as file:
        figure.savefig(file, format="png", dpi=120)


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
