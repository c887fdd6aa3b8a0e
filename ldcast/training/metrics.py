"""What a run measures: lines of `metrics.jsonl`, for TensorBoard as well if wanted."""

import json
import math
import os
import time
from pathlib import Path

from ldcast.errors import InputError
from ldcast.files import naming, write_text

METRICS_NAME = "metrics.jsonl"
TENSORBOARD_NAME = "tensorboard"
# Fields that depend on the clock; all others are the same whenever a run is repeated.
CLOCK_FIELDS = ("elapsed_s", "examples_per_s", "data_wait_share")


class MetricsLog:
    """Lines of JSON, appended to `metrics.jsonl`; with TensorBoard's files beside it if wanted.

    Raises InputError where TensorBoard is wanted but not installed.
    """

    def __init__(self, folder: Path, use_tensorboard: bool) -> None:
        self.path = folder / METRICS_NAME
        self._writer_class = _summary_writer_class() if use_tensorboard else None
        self._writer = None
        self._start = time.monotonic()

    def cut(self, iteration: int) -> None:
        """Drops the lines of later iterations."""
        write_text(self.path, "".join(_lines_until(self.path, iteration)))
        if self._writer_class:
            folder = self.path.with_name(TENSORBOARD_NAME)
            self._writer = self._writer_class(folder, purge_step=iteration + 1)

    def write(self, iteration: int, **values: float) -> None:
        """One line; numbers are rounded to 6 significant digits, null where not finite."""
        line = {"iteration": iteration}
        line |= {name: _rounded(value) for name, value in values.items()}
        line["elapsed_s"] = round(time.monotonic() - self._start, 1)
        with naming(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())  # a checkpoint on disk never lacks the lines before it
        if self._writer:
            for name, value in values.items():
                self._writer.add_scalar(name, value, iteration)
            self._writer.flush()


def _summary_writer_class() -> type:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError:
        raise InputError(
            "--tensorboard needs TensorBoard, which is missing; install it with: "
            "pip install tensorboard"
        ) from None
    return SummaryWriter


def _rounded(value: float) -> float | int | None:
    if isinstance(value, int):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _lines_until(path: Path, iteration: int) -> list[str]:
    """Complete lines of iterations up to `iteration`; what a crash cut short is dropped."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = []
    for line in lines:
        try:
            is_kept = json.loads(line)["iteration"] <= iteration
        except ValueError:
            is_kept = False
        if is_kept:
            kept.append(line)
    return kept
