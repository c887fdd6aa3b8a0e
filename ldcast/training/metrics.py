"""What a run measures: lines of `metrics.jsonl`, for TensorBoard as well if wanted."""

import json
import math
import os
import time
from pathlib import Path
from typing import Any

from ldcast.errors import InputError
from ldcast.machine.files import naming, write_text

METRICS_NAME = "metrics.jsonl"
TENSORBOARD_NAME = "tensorboard"
# Fields that depend on the clock; all others are the same whenever a run is repeated.
CLOCK_FIELDS = ("elapsed_s", "examples_per_s", "data_wait_share")


TRAINING, VALIDATION = "training", "validation"  # kinds of lines


class MetricsLog:
    """Lines of JSON, appended to `metrics.jsonl`; with TensorBoard's files beside it if wanted.

    Raises InputError where TensorBoard is wanted but not installed.
    """

    def __init__(self, folder: Path, use_tensorboard: bool) -> None:
        self.path = folder / METRICS_NAME
        self._writer_class = _summary_writer_class() if use_tensorboard else None
        self._writer = None
        self._start = time.monotonic()

    def cut(self, iteration: int, validated_at: int) -> None:
        """Drops the lines of later iterations, and those of validations after `validated_at`."""
        lines = metrics_lines(self.path) if self.path.is_file() else []
        last = {VALIDATION: validated_at, TRAINING: iteration}
        kept = [line for line in lines if line["iteration"] <= last[_kind_of(line)]]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        if self._writer:
            self._writer.close()
        if self._writer_class:
            folder = self.path.with_name(TENSORBOARD_NAME)
            self._writer = self._writer_class(folder, purge_step=iteration + 1)

    def write(self, kind: str, iteration: int, **values: float) -> None:
        """One line; numbers are rounded to 6 significant digits, null where not finite.

        kind: TRAINING or VALIDATION.
        """
        line = {"kind": kind, "iteration": iteration}
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


def _kind_of(line: dict[str, Any]) -> str:
    """What a line is of; those of older runs do not say."""
    return line.get("kind", VALIDATION if "val_loss" in line else TRAINING)


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


def metrics_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of metrics, but for those that a crash cut short or damaged."""
    lines = []
    for text in path.read_bytes().splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("iteration"), int):
            lines.append(line)
    return lines
