"""Several processes train what one trains: real ones, started by torchrun, joined by Gloo."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from stages import ROOT, Stage, same_gradients, start_two

from ldcast.errors import InputError
from ldcast.machine.processes import Processes, join_processes, process_device
from ldcast.tools.crashtest import read_counters, read_metrics
from ldcast.training.checkpoint import TrainState
from ldcast.training.run import Run

FOUR = ("--batch-size", "4", "--loop.num-micro-batches", "2")


def start(stage: Stage, out: Path, iterations: int, *more: str) -> subprocess.Popen:
    """The stage's script under torchrun, in two processes."""
    script = ROOT / f"{stage.script.__name__}.py"
    return start_two(script, *stage.arguments(out, iterations, *more))


@pytest.mark.slow
def test_two_processes_compute_the_gradients_of_one(stage: Stage, tmp_path: Path) -> None:
    two = start(stage, tmp_path / "two", 1, *FOUR)
    output, _ = two.communicate(timeout=300)
    assert two.returncode == 0, output
    one = stage.run(tmp_path / "one", 1, *FOUR)
    same_gradients(tmp_path / "two", one)
    for line, expected in zip(read_metrics(tmp_path / "two"), read_metrics(one), strict=True):
        assert line.keys() == expected.keys() and line.pop("kind") == expected.pop("kind")
        for name, value in expected.items():
            assert line[name] == pytest.approx(value, rel=1e-4), name

    # Resumed by one process: it says what changes and continues.
    assert read_counters(tmp_path / "two")["num_processes"] == 2
    stage.run(tmp_path / "two", 2, *FOUR)
    stage.run(one, 2, *FOUR)
    assert read_counters(tmp_path / "two")["num_processes"] == 1
    assert read_metrics(tmp_path / "two")[-1]["val_loss"] == pytest.approx(
        read_metrics(one)[-1]["val_loss"], rel=1e-3
    )


@pytest.mark.slow
def test_a_change_of_the_number_of_processes_is_said(
    event_path: Path, autoencoder_run: Path, tmp_path: Path
) -> None:
    stage = Stage("autoencoder", event_path, autoencoder_run)
    out = stage.run(tmp_path / "run", 1)
    process = start(stage, out, 2)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "trained by 1 process to iteration 1, now by 2" in output
    assert output.count("now by 2") == 1


@pytest.mark.slow
def test_a_process_that_dies_ends_the_others_with_the_reason(
    event_path: Path, autoencoder_run: Path, tmp_path: Path
) -> None:
    stage = Stage("autoencoder", event_path, autoencoder_run)
    out = tmp_path / "run"
    process = start(stage, out, 10_000)
    rank_1 = wait_for_rank_1(process, out)
    os.kill(rank_1, signal.SIGKILL)
    killed = time.monotonic()
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert time.monotonic() - killed < 60
    assert re.search(r"Signal 9 \(SIGKILL\) received by PID " + str(rank_1), output)


def wait_for_rank_1(process: subprocess.Popen, out: Path) -> int:
    """The process ID of rank 1, once the run trains."""
    for _ in range(600):
        time.sleep(0.2)
        log = out / "metrics.jsonl"
        if log.is_file() and '"lr"' in log.read_text():
            break
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int(re.search(r"PPid:\s*(\d+)", (folder / "status").read_text())[1])
            environment = (folder / "environ").read_bytes().split(b"\0")
        except (OSError, TypeError):
            continue
        if parent == process.pid and b"RANK=1" in environment:
            return int(folder.name)
    raise AssertionError("rank 1 was not found")


ENDS = """
import os
import sys

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from ldcast.machine.processes import join_processes

join = distributed.init_process_group

def train(time):
    meeting = f"file://{sys.argv[1]}/{time}"  # torchrun's own is for one time only
    distributed.init_process_group = lambda backend, timeout: join(
        backend, meeting, timeout, world_size=2, rank=int(os.environ["RANK"])
    )
    with join_processes(torch.device("cpu")):
        network = DistributedDataParallel(torch.nn.Linear(50, 50))
        network(torch.ones(4, 50)).sum().backward()

for time in range(40):
    train(time)
"""


@pytest.mark.slow
def test_processes_end_although_a_thread_still_holds_tensors(tmp_path: Path) -> None:
    script = tmp_path / "ends.py"
    script.write_text(ENDS)
    process = start_two(script, str(tmp_path))
    try:
        output, _ = process.communicate(timeout=300)
    finally:
        process.terminate()  # which torchrun passes on
    assert process.returncode == 0, output


def test_one_process_needs_no_others() -> None:
    with join_processes(torch.device("cpu")) as processes:
        assert processes.is_main
        assert list(processes.share(3)) == [0, 1, 2]
        values = torch.ones(2)
        assert torch.equal(processes.sum(values), values)
        assert processes.sum(values) is not values
        assert processes.gather({1: "a"}) == {1: "a"}
        assert processes.any(True) and not processes.any(False)


class OneOfTwo(Processes):
    """A process whose fellow answers what it is told to."""

    def answering(self, item: object) -> "OneOfTwo":
        object.__setattr__(self, "item", item)
        return self

    def gather(self, items: dict) -> dict:
        return {**items, 1: self.item}


def test_an_error_of_one_process_ends_the_others() -> None:
    first = OneOfTwo(0, 2, torch.device("cpu"))
    with first.answering(False).failing_together():
        pass
    with pytest.raises(InputError, match="rank 1"), first.answering(True).failing_together():
        pass
    with pytest.raises(OSError, match="full"), first.answering(True).failing_together():
        raise OSError("full")


def test_processes_that_read_different_states_say_so(tmp_path: Path) -> None:
    processes = OneOfTwo(0, 2, torch.device("cpu")).answering(7)
    run = Run(tmp_path, {"loop": {"iterations": 1}}, processes, print)
    with pytest.raises(InputError, match=r"of iterations 5, 7.*all machines see"):
        run._check_all_resumed(TrainState({}, None, None, None, iteration=5))
    run._check_all_resumed(TrainState({}, None, None, None, iteration=7))


def test_items_are_shared_out_once_each() -> None:
    shares = [Processes(rank, 3, torch.device("cpu")).share(8) for rank in range(3)]
    assert sorted(item for share in shares for item in share) == list(range(8))


@pytest.mark.parametrize(("num_items", "num"), [(8, 3), (64, 4), (3, 3), (5, 2)])
def test_blocks_follow_one_another_and_are_nearly_alike(num_items: int, num: int) -> None:
    first = Processes(0, num, torch.device("cpu"))
    blocks = [first.block(num_items, rank) for rank in range(num)]
    assert [item for block in blocks for item in block] == list(range(num_items))
    assert max(map(len, blocks)) - min(map(len, blocks)) <= 1
    assert [
        Processes(rank, num, torch.device("cpu")).block(num_items) for rank in range(num)
    ] == blocks


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert process_device(torch.device("cpu")) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match="2 processes"):
        process_device(torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert process_device(torch.device("cuda")) == torch.device("cuda", 1)
    with pytest.raises(InputError, match="cuda:0"):
        process_device(torch.device("cuda:0"))
