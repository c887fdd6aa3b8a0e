"""The two training scripts with the tiny preset, as several test modules run them."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import tiny_model

import train_autoenc
import train_diffusion
from ldcast.errors import run_script
from ldcast.machine import half_precision
from ldcast.machine.device import amp_dtype
from ldcast.tools.crashtest import read_metrics

ROOT = Path(__file__).parents[1]
SCRIPTS = {"autoencoder": train_autoenc, "diffusion": train_diffusion}
LOOP = ["--preset", "tiny", "--crop-size", "32"]
LOOP += ["--loop.log-interval", "1", "--loop.num-validation-examples", "2"]


class Stage:
    """One of the two scripts with its inputs: `run` trains a few iterations into a folder."""

    def __init__(self, name: str, event_path: Path, autoencoder_run: Path) -> None:
        self.name, self.script = name, SCRIPTS[name]
        self._references = autoencoder_run.with_name(f"references_{name}")
        self.inputs = ["--data", str(event_path)]
        if name == "diffusion":
            self.inputs += ["--autoencoder", str(autoencoder_run)]
            self.inputs += ["--forecast-score.num-cases", "1"]
            self.inputs += ["--diffusion.num-sampling-steps", "2"]

    def arguments(self, out: Path, iterations: int, *more: str) -> list[str]:
        return [*LOOP, *self.inputs, "--out", str(out), "--iterations", str(iterations), *more]

    def run(self, out: Path, iterations: int, *more: str) -> Path:
        self.script.main(self.arguments(out, iterations, *more))
        return out

    def reference(self, iterations: int, *more: str) -> Path:
        """An undisturbed run, made once for all tests: to be looked at, not to be changed.

        Ask for it before anything is patched.
        """
        words = "_".join([str(iterations), *more, *self.inputs])
        out = self._references / hashlib.sha256(words.encode()).hexdigest()[:16]
        return out if out.exists() else self.run(out, iterations, *more)

    def fails(self, capsys: pytest.CaptureFixture[str], out: Path, *more: str) -> str:
        """The one line that the script prints where it exits with status 2."""
        assert run_script(lambda: self.script.main(self.arguments(out, 2, *more))) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert lines[-1].startswith("error: ")
        return lines[-1]

    def is_refused(self, capsys: pytest.CaptureFixture[str], out: Path, *more: str) -> bool:
        """Whether this processor computes garbage in the precision that `more` asks for.

        Asserts that the script then says so and writes nothing.
        """
        amp = more[more.index("--amp") + 1] if "--amp" in more else "off"
        cpu = torch.device("cpu")
        dtype = amp_dtype(amp, cpu)
        if dtype is None:
            return False
        networks = tiny_model().networks()
        autoencoder = networks.pop("autoencoder")
        trained = [autoencoder] if self.name == "autoencoder" else networks.values()
        if half_precision.measure(half_precision.kinds_of(trained), cpu, dtype, True).is_right:
            return False
        assert "garbage on this processor" in self.fails(capsys, out, *more)
        assert not out.exists()
        return True


def start_two(script: Path, *arguments: str) -> subprocess.Popen:
    """A script under torchrun, in two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    return subprocess.Popen(
        [*command, str(script), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )


def state(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "state.safetensors")


def same_tensors(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


def same_gradients(first: Path, second: Path) -> None:
    """Asserts that two runs of one update had equal losses and gradients but for rounding.

    After one update AdamW's first moment is the clipped gradient times 1 - beta1. Rounding is that
    of the terms of a sum, so it is measured by the largest gradient, not by each one's own size.
    A factor that all gradients share is lost in clipping, but not in the norm before it.
    """
    last, other_last = (
        [x for x in read_metrics(run) if "loss" in x][-1] for run in (first, second)
    )
    for name in ("loss", "grad_norm"):
        assert last[name] == pytest.approx(other_last[name], rel=1e-4)
    moments, others = (
        {n: t for n, t in state(run).items() if n.endswith(".exp_avg")} for run in (first, second)
    )
    largest = max(moment.abs().max().item() for moment in moments.values())
    for name, moment in moments.items():
        torch.testing.assert_close(others[name], moment, rtol=1e-4, atol=1e-6 * largest)
