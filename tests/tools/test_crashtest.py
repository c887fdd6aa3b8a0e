"""Trainings that are killed with SIGKILL and resumed."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from stages import LOOP, ROOT, Stage

from ldcast.errors import InputError
from ldcast.nowcast.model_folder import write_tensors
from ldcast.tools.crashtest import difference, main, read_counters


def killed_and_compared(stage: Stage, num_kills: int, iterations: int) -> None:
    script = ROOT / f"{stage.script.__name__}.py"
    run = [*LOOP, *stage.inputs, "--loop.validation-interval", "2", "--iterations", str(iterations)]
    assert main(["--kills", str(num_kills), str(script), *run]) == 0


@pytest.mark.slow
def test_killed_runs_end_as_the_unbroken_one(
    event_path: Path, autoencoder_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    killed_and_compared(Stage("diffusion", event_path, autoencoder_run), 2, 4)
    assert "2 of 2 runs ended" in capsys.readouterr().out


@pytest.mark.slow
def test_fifty_killed_runs_end_as_the_unbroken_one(stage: Stage) -> None:
    killed_and_compared(stage, 50, 16)


def test_a_difference_is_named(stage: Stage, tmp_path: Path) -> None:
    first = stage.reference(1)
    second = shutil.copytree(first, tmp_path / "second")
    assert difference(first, second) is None

    lines = (second / "metrics.jsonl").read_text()
    (second / "metrics.jsonl").write_text(lines.replace('"lr": ', '"lr": 1'))
    assert difference(first, second) == "metrics.jsonl"
    (second / "metrics.jsonl").write_text(lines)

    model = (second / "model.safetensors").read_bytes()
    (second / "model.safetensors").write_bytes(model[:-1] + b"!")
    assert difference(first, second) == "model.safetensors"
    (second / "model.safetensors").write_bytes(model)

    tensors, counters = load_file(second / "state.safetensors"), read_counters(second)
    name = min(name for name in tensors if name.startswith("ema."))
    changed = {**tensors, name: torch.nextafter(tensors[name], torch.tensor(9.0))}
    write_tensors(second / "state.safetensors", changed, {"counters": json.dumps(counters)})
    assert difference(first, second) == f"{name} in state.safetensors"
    counters["iteration"] += 1
    write_tensors(second / "state.safetensors", tensors, {"counters": json.dumps(counters)})
    assert difference(first, second) == "counters of state.safetensors"

    (second / "config.json").unlink()
    assert "config.json (missing" in difference(first, second)


def test_a_training_that_fails_is_no_verdict(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ended with 2, saying: error: no training data"):
        main([str(ROOT / "train_autoenc.py"), "--preset", "tiny"])


@pytest.mark.parametrize("flags", [("--kills", "0"), ("--seed", "-1")])
def test_numbers_that_test_nothing_are_refused(flags: tuple[str, str]) -> None:
    with pytest.raises(InputError, match="expected 1 or more"):
        main([*flags, "train_autoenc.py"])


@pytest.mark.parametrize("command", [[], ["train_autoenc.py", "--out", "runs/autoenc"]])
def test_a_command_is_needed_without_its_folder(command: list[str]) -> None:
    with pytest.raises(InputError, match="without --out"):
        main(command)
