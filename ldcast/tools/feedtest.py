"""Feeds frames with faults to infer.py --watch: is any forecast lost, or made twice?

  python -m ldcast.tools.feedtest --frames 200 --model runs/ldcast

Frames of synthetic rain come in at a steady pace; one in twenty each comes late, comes again under
another name, is cut short, is written slowly, or never comes. Half-way the service is stopped by
SIGTERM and started again. Exit status 0 if there is exactly one forecast for each issue time whose
past frames came whole, and its log says so once; 1 if not, and its folder is then kept.
"""

import argparse
import contextlib
import io
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ldcast.data.event import RainEvent
from ldcast.data.synthetic import synthetic_event
from ldcast.errors import InputError, run_script
from ldcast.forecasting.feed import forecast_path
from ldcast.nowcast.model_folder import read_nowcaster
from ldcast.products.files import read_forecast
from ldcast.seeds import keyed_rng

FAULTS = ("late", "repeated", "cut short", "slow", "missing")
FAULT_SHARE = 0.05  # of the frames, for each fault
MAX_DELAY = 6  # frames, of one that comes late
SIZE = 64  # pixels
SCRIPT = Path(__file__).parents[2] / "infer.py"


def choose_faults(num_frames: int, seed: int) -> list[str]:
    """What happens to each frame: one of `FAULTS`, or "" for most of them."""
    chances = [FAULT_SHARE] * len(FAULTS) + [1 - FAULT_SHARE * len(FAULTS)]
    chosen = keyed_rng(seed, num_frames).choice(len(FAULTS) + 1, num_frames, p=chances)
    return [(*FAULTS, "")[index] for index in chosen]


def expected_times(event: RainEvent, faults: list[str], num_past: int) -> set[np.datetime64]:
    """Issue times whose `num_past` frames all come whole in the end."""
    is_lost = [fault in ("missing", "cut short") for fault in faults]
    return {
        event.time[last]
        for last in range(num_past - 1, len(faults))
        if not any(is_lost[last - num_past + 1 : last + 1])
    }


def deliveries(faults: list[str], seed: int) -> dict[int, list[tuple[int, str]]]:
    """At which frame's turn which frame comes, and how."""
    turns: dict[int, list[tuple[int, str]]] = {}
    delays = keyed_rng(seed, len(faults), 1).integers(1, MAX_DELAY + 1, len(faults))
    for frame, fault in enumerate(faults):
        if fault != "missing":
            turn = frame + (int(delays[frame]) if fault == "late" else 0)
            turns.setdefault(turn, []).append((frame, fault))
    return turns


def deliver(folder: Path, event: RainEvent, frame: int, fault: str, pause: float) -> None:
    """One frame as one file, with what its fault does to it."""
    content = io.BytesIO()
    np.savez_compressed(
        content, rain_rate=event.rain_rate[[frame]], time=event.time[[frame]], **event.grid
    )
    whole = content.getvalue()
    path = folder / f"frame_{frame:04}.npz"
    if fault in ("cut short", "slow"):
        path.write_bytes(whole[: len(whole) // 2])
    if fault == "slow":
        time.sleep(pause)
    if fault != "cut short":
        path.write_bytes(whole)
    if fault == "repeated":
        (folder / f"again_{frame:04}.npz").write_bytes(whole)


@contextlib.contextmanager
def service(command: list[str], log: Path) -> Iterator[subprocess.Popen]:
    """The service, stopped by SIGTERM at the end of the block; raises unless it then ends well."""
    num_before = log.read_text(encoding="utf-8").count("watching") if log.exists() else 0
    with open(log, "a", encoding="utf-8") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    try:
        while log.read_text(encoding="utf-8").count("watching") == num_before:
            if process.poll() is not None:
                raise InputError(f"the service did not start: see {log}")
            time.sleep(0.1)
        yield process
        process.send_signal(signal.SIGTERM)
        if (status := process.wait(timeout=60)) != 0:
            raise InputError(f"the service ended with status {status}: see {log}")
    finally:
        process.kill()
        process.wait()


def wait_for(
    folder: Path, times: set[np.datetime64], process: subprocess.Popen, limit: float
) -> None:
    """Until all those forecasts are there, the service has died, or `limit` seconds are over."""
    end = time.monotonic() + limit
    while time.monotonic() < end and process.poll() is None:
        if all(forecast_path(folder, t, ".npz").exists() for t in times):
            return
        time.sleep(0.2)


def complaints(out: Path, log: Path, expected: set[np.datetime64]) -> list[str]:
    """What is wrong with the forecasts and the log; nothing if none was lost or doubled."""
    paths = {forecast_path(out, issue_time, ".npz"): issue_time for issue_time in expected}
    found = set(out.iterdir())
    wrong = [f"lost: {path.name}" for path in sorted(set(paths) - found)]
    wrong += [f"not asked for: {path.name}" for path in sorted(found - set(paths))]
    for path in sorted(set(paths) & found):
        if read_forecast(path).issue_time != paths[path]:
            wrong.append(f"of another time: {path.name}")
    said = Counter(re.findall(r"forecast_\w+\.npz", log.read_text(encoding="utf-8")))
    wrong += [
        f"said {said[path.name]} times: {path.name}"
        for path in sorted(paths)
        if said[path.name] != 1
    ]
    return wrong


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--frames", type=int, default=200, help="(%(default)s)")
    add("--pace", type=float, default=0.5, metavar="S", help="seconds between frames (%(default)s)")
    add("--model", default="bundled", metavar="DIR", help="(%(default)s)")
    add("--seed", type=int, default=0, help="of rain and faults (%(default)s)")
    flags = parser.parse_args(argv)
    if flags.pace <= 0:
        raise InputError(f"got --pace {flags.pace}, expected more than 0 seconds")
    frames = read_nowcaster(flags.model).model.frames
    if flags.frames < 2 * frames.past_frames:
        raise InputError(f"got {flags.frames} frames, expected at least {2 * frames.past_frames}")

    root = Path(tempfile.mkdtemp(prefix="feedtest-"))
    incoming, out, log = root / "incoming", root / "forecasts", root / "log.txt"
    incoming.mkdir()
    event = synthetic_event(flags.seed, flags.frames, SIZE, SIZE)
    # As if its frames were as far apart as the model's.
    event = replace(event, time=event.time[0] + frames.step * np.arange(flags.frames))
    faults = choose_faults(flags.frames, flags.seed)
    expected = expected_times(event, faults, frames.past_frames)
    turns = deliveries(faults, flags.seed)
    command = [sys.executable, str(SCRIPT), "--watch", str(incoming), "--out", str(out)]
    command += ["--model", flags.model, "--members", "1", "--steps", "1"]
    command += ["--keep", str(flags.frames)]

    last_turn = max(turns)
    halves = (range(flags.frames // 2), range(flags.frames // 2, last_turn + 1))
    with tqdm(total=last_turn + 1, desc="frames", disable=None) as bar:
        for half in halves:
            with service(command, log) as process:
                for turn in half:
                    for frame, fault in turns.get(turn, []):
                        deliver(incoming, event, frame, fault, pause=10 * flags.pace)
                    time.sleep(flags.pace)
                    bar.update()
                if half is halves[-1]:
                    wait_for(out, expected, process, limit=60 + 10 * len(expected))
    wrong = complaints(out, log, expected)
    counts = Counter(fault or "whole and in time" for fault in faults)
    print(", ".join(f"{number} {fault}" for fault, number in sorted(counts.items())))
    print(f"{len(expected)} forecasts expected, {len(list(out.iterdir()))} there")
    if wrong:
        print("\n".join([*wrong, f"kept {root}"]))
        return 1
    shutil.rmtree(root)
    return 0


if __name__ == "__main__":
    sys.exit(run_script(main))
