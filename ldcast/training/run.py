"""The folder of a training run: what was asked, what was measured, and how it is taken up again."""

import json
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import Any

from ldcast.errors import InputError
from ldcast.files import write_text
from ldcast.training.checkpoint import STATE_NAME

ARGUMENTS_NAME = "state.json"
METRICS_NAME = "metrics.jsonl"


def open_run(folder: Path, arguments: dict[str, Any]) -> bool:
    """Makes or takes up the folder of a run; True where there is a state to resume from.

    arguments: nested plain values, all that decides the run's results. They are kept in
        `state.json`; a later call must bring the same, but for a larger `loop.iterations`.
    Raises InputError where the folder cannot be written or an argument differs.
    """
    check_writable(folder)
    path = folder / ARGUMENTS_NAME
    is_resuming = path.is_file() and (folder / STATE_NAME).is_file()
    if is_resuming:
        _check_same(read_arguments(folder), json.loads(json.dumps(arguments)), folder)
    write_text(path, json.dumps(arguments, indent=2) + "\n")
    return is_resuming


def read_arguments(folder: Path) -> dict[str, Any]:
    """What `open_run` kept. Raises InputError where it is missing or broken."""
    path = folder / ARGUMENTS_NAME
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}): is {folder} a training run?") from None


def check_writable(folder: Path) -> None:
    """Makes the folder and tries to write into it. Raises InputError where either fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"cannot write into {folder} ({error.strerror}): choose another --out"
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
    """Lines of JSON, appended to `metrics.jsonl`; those beyond the resumed iteration are cut."""

    def __init__(self, folder: Path, iteration: int) -> None:
        self.path = folder / METRICS_NAME
        kept = [] if iteration == 0 else _lines_until(self.path, iteration)
        write_text(self.path, "".join(kept))
        self.start = time.monotonic()

    def write(self, iteration: int, **values: float) -> None:
        """One line; numbers are rounded to 6 significant digits."""
        line = {"iteration": iteration}
        line |= {name: float(f"{value:.6g}") for name, value in values.items()}
        line["elapsed_s"] = round(time.monotonic() - self.start, 1)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


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
