"""Kills a training at random moments, resumes it, and compares its end with an unbroken run.

  python -m ldcast.tools.crashtest --kills 50 train_autoenc.py --preset tiny --data synthetic:3

What follows the options is the command of a training without --out. Half of the kills wait until a
file is being written. Exit status 0 if every run ends as the unbroken one did, bit for bit but for
what the clock says, 1 if one does not; its folder is then kept.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from tqdm import tqdm

from ldcast.errors import InputError, run_script
from ldcast.machine.files import UNFINISHED_PATTERN
from ldcast.nowcast.model_folder import CONFIG_NAME, WEIGHTS_NAME
from ldcast.training.checkpoint import STATE_NAME
from ldcast.training.metrics import CLOCK_FIELDS, METRICS_NAME, metrics_lines

CLOCK_SUMS = ("seconds", "wait_seconds")  # in the counters of a state
POLL_SECONDS = 0.001


def difference(first: Path, second: Path) -> str | None:
    """The first thing in which two run folders differ that does not depend on the clock, or None.

    Compared are tensors and counters of the state, the lines of metrics, and the model folder, but
    for the command, which names the folder.
    """
    for name in (STATE_NAME, METRICS_NAME, WEIGHTS_NAME, CONFIG_NAME):
        for run in (first, second):
            if not (run / name).is_file():
                return f"{name} (missing in {run})"
    if read_counters(first) != read_counters(second):
        return f"counters of {STATE_NAME}"
    with (
        safe_open(first / STATE_NAME, framework="pt") as state,
        safe_open(second / STATE_NAME, framework="pt") as other,
    ):
        names = sorted(state.keys())
        if names != sorted(other.keys()):
            return f"names in {STATE_NAME}"
        for name in names:
            if not state.get_tensor(name).equal(other.get_tensor(name)):
                return f"{name} in {STATE_NAME}"
    if read_metrics(first) != read_metrics(second):
        return METRICS_NAME
    if (first / WEIGHTS_NAME).read_bytes() != (second / WEIGHTS_NAME).read_bytes():
        return WEIGHTS_NAME
    return CONFIG_NAME if _description(first) != _description(second) else None


def _description(run: Path) -> dict[str, Any]:
    """What `config.json` says, without the commands of either stage."""
    content = json.loads((run / CONFIG_NAME).read_text(encoding="utf-8"))
    stage = content["trained_on"]
    while stage:
        stage.pop("command", None)
        stage = stage.get("autoencoder")
    return content


def read_counters(run: Path) -> dict[str, Any]:
    """The counters of a run's state without what depends on the clock."""
    with safe_open(run / STATE_NAME, framework="pt") as file:
        counters = json.loads(file.metadata()["counters"])
    for name in CLOCK_SUMS:
        counters["sums"].pop(name, None)
    return counters


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics without what depends on the clock."""
    return [
        {name: value for name, value in line.items() if name not in CLOCK_FIELDS}
        for line in metrics_lines(run / METRICS_NAME)
    ]


class Training:
    """A training in a process of its own, in a folder of its own."""

    def __init__(self, command: Sequence[str], out: Path) -> None:
        self.out = out
        self._log = out.with_suffix(".log")
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *command, "--out", str(out)],
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},  # sums in one order
            )

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def is_writing(self) -> bool:
        """Whether a file of the run is being written."""
        return next(self.out.glob(UNFINISHED_PATTERN), None) is not None

    def finish(self) -> None:
        """Waits for the end. Raises InputError where it is a bad one."""
        if self._process.wait():
            lines = self._log.read_text(encoding="utf-8", errors="replace").split("\n")
            said = next((line for line in reversed(lines) if line.strip()), "nothing")
            raise InputError(f"the training ended with {self._process.returncode}, saying: {said}")

    def __enter__(self) -> "Training":
        return self

    def __exit__(self, *_: object) -> None:
        if not self.has_ended():  # Ctrl-C here must not leave it behind
            self.kill()

    def kill(self) -> None:
        """SIGKILL for the process and all that it started."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def run_unbroken(command: Sequence[str], out: Path) -> tuple[float, float]:
    """Trains to the end; seconds from the start to the first file of the run, and to the end."""
    start = time.monotonic()
    with Training(command, out) as training:
        while not out.is_dir() and not training.has_ended():
            time.sleep(POLL_SECONDS)
        begun = time.monotonic() - start
        training.finish()
    return begun, time.monotonic() - start


def run_killed(command: Sequence[str], out: Path, delay: float, is_writing: bool) -> float | None:
    """Starts a training and kills it after `delay` seconds; the seconds it took if it ended before.

    is_writing: after the delay, waits until a file is being written.
    """
    start = time.monotonic()
    with Training(command, out) as training:
        while not training.has_ended():
            if time.monotonic() - start >= delay and (not is_writing or training.is_writing()):
                training.kill()
                return None
            time.sleep(POLL_SECONDS)
        training.finish()
    return time.monotonic() - start


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50, help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (%(default)s)")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="script and its flags")
    flags = parser.parse_args(argv)
    if not flags.command or "--out" in flags.command:
        raise InputError("give the script of a training with its flags, but without --out")
    if flags.kills < 1 or flags.seed < 0:
        raise InputError(
            f"got --kills {flags.kills} and --seed {flags.seed}, expected 1 or more, 0 or more"
        )

    folder = Path(tempfile.mkdtemp(prefix="crashtest-"))
    rng = np.random.default_rng(flags.seed)
    unbroken = folder / "unbroken"
    begun, ended = run_unbroken(flags.command, unbroken)
    tqdm.write(f"unbroken: first file after {begun:.1f} s, end after {ended:.1f} s")
    num_equal, num_half_written = 0, 0
    for kill in tqdm(range(flags.kills), desc="kills", disable=None):
        broken, is_writing = folder / f"killed{kill}", kill % 2 == 1
        while took := run_killed(flags.command, broken, rng.uniform(begun, ended), is_writing):
            ended = max(begun, min(ended, took))  # the machine has become faster
            shutil.rmtree(broken)
        half_written = [path.name for path in broken.glob(UNFINISHED_PATTERN)]
        num_half_written += bool(half_written)
        with Training(flags.command, broken) as training:
            training.finish()
        what = difference(unbroken, broken)
        num_equal += what is None
        verdict = f"DIFFERS in {what}, see {broken}" if what else "equal"
        tqdm.write(f"kill {kill + 1}, half-written {half_written or 'nothing'}: {verdict}")
        if what is None:
            shutil.rmtree(broken)
    print(
        f"{num_equal} of {flags.kills} runs ended as the unbroken one; "
        f"{num_half_written} were killed while a file was half-written"
    )
    if num_equal < flags.kills:
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(run_script(main))
