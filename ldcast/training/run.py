"""The folder of a training run: what was asked, what was measured, and how it is taken up again."""

import contextlib
import fcntl
import json
import math
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from ldcast.errors import InputError
from ldcast.files import UNFINISHED_PATTERN, write_text
from ldcast.model_folder import CONFIG_NAME, WEIGHTS_NAME
from ldcast.training.checkpoint import STATE_NAME

ARGUMENTS_NAME = "state.json"
METRICS_NAME = "metrics.jsonl"


def open_run(folder: Path, arguments: dict[str, Any]) -> bool:
    """Makes or takes up the folder of a run; True where there is a state to resume from.

    arguments: nested plain values, all that decides the run's results; see `record_arguments`.
    Raises InputError where the folder cannot be written, holds a model that is no run, or was
    started with other arguments (a larger `loop.iterations` is fine).
    """
    check_writable(folder)
    if (folder / ARGUMENTS_NAME).is_file():
        _check_same(read_arguments(folder), json.loads(json.dumps(arguments)), folder)
        return (folder / STATE_NAME).is_file()
    for name in (STATE_NAME, CONFIG_NAME, WEIGHTS_NAME):
        if (folder / name).exists():
            raise InputError(
                f"{folder} has {name} but no {ARGUMENTS_NAME}, so it is no run to go on with and "
                "would be overwritten: choose another --out"
            )
    return False


def record_arguments(folder: Path, arguments: dict[str, Any]) -> None:
    """Keeps what `open_run` compares, in `state.json`."""
    write_text(folder / ARGUMENTS_NAME, json.dumps(arguments, indent=2) + "\n")


@contextlib.contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Holds the folder for this process and clears what a killed one left half-written.

    Raises InputError where another process writes into it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"another process writes into {folder}: wait for it, or choose another --out"
            ) from None
        for unfinished in folder.glob(UNFINISHED_PATTERN):
            unfinished.unlink()
        yield
    finally:
        os.close(descriptor)


def divergence(folder: Path, num_bad: int, saved_iteration: int) -> InputError:
    """The error that ends a run whose loss or gradient is not finite any more."""
    return InputError(
        f"loss or gradient was not finite {num_bad} times in a row; {folder} holds the state of "
        f"iteration {saved_iteration}: start anew from there with --init {folder}, another --out "
        "and a lower --lr"
    )


def read_arguments(folder: Path) -> dict[str, Any]:
    """What `open_run` kept. Raises InputError where it is missing or broken."""
    path = folder / ARGUMENTS_NAME
    try:
        arguments = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}): is {folder} a training run?") from None
    if not isinstance(arguments, dict):
        raise InputError(f"{path} is broken, expected a JSON table: is {folder} a training run?")
    return arguments


def check_writable(folder: Path, flag: str = "--out") -> None:
    """Makes the folder and tries to write into it. Raises InputError where either fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"cannot write into {folder} ({error.strerror}): choose another {flag}"
        ) from None


def _check_same(before: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    before, now = dict(_leaves(before)), dict(_leaves(now))
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name), now.get(name)
        if name == "loop.iterations" and isinstance(new, int) and new >= old:
            continue
        if old != new:
            raise InputError(
                f"{folder} was started with {name} {old}, now it is {new}: repeat the first "
                "command (--iterations may grow), or choose another --out"
            )


def _leaves(table: dict[str, Any], path: str = "") -> list[tuple[str, Any]]:
    leaves = []
    for key, value in table.items():
        is_table = isinstance(value, dict)
        leaves += _leaves(value, f"{path}{key}.") if is_table else [(path + key, value)]
    return leaves


class MetricsLog:
    """Lines of JSON, appended to `metrics.jsonl`.

    iteration: that of the state which the run resumes from; later lines are cut. None for a new
        run, which starts an empty file.
    """

    def __init__(self, folder: Path, iteration: int | None) -> None:
        self.path = folder / METRICS_NAME
        kept = [] if iteration is None else _lines_until(self.path, iteration)
        write_text(self.path, "".join(kept))
        self.start = time.monotonic()

    def write(self, iteration: int, **values: float) -> None:
        """One line; numbers are rounded to 6 significant digits, null where not finite."""
        line = {"iteration": iteration}
        line |= {name: _rounded(value) for name, value in values.items()}
        line["elapsed_s"] = round(time.monotonic() - self.start, 1)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


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


class StopRequest:
    """Turns the first Ctrl-C into a request that the loop honours at its next iteration.

    A second Ctrl-C interrupts at once. Use as a context; `is_set` says whether to stop.
    """

    def __init__(self) -> None:
        self.is_set = False

    def __enter__(self) -> "StopRequest":
        self._before = signal.signal(signal.SIGINT, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _request(self, _signal: int, _frame: FrameType | None) -> None:
        if self.is_set:
            raise KeyboardInterrupt
        self.is_set = True
        print("\nsaving, then leaving; Ctrl-C again to leave at once", file=sys.stderr)
