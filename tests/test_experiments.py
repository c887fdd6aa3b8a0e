"""The worked examples of docs/experiments.md: each diff applies, is as long as said, and runs.

The commands are the page's own; only what its variables stand for is made smaller.
"""

import itertools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from stages import LOOP

from ldcast.data.event_files import write_event
from ldcast.data.synthetic import synthetic_event

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/experiments.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.*)\n((?:(?!## ).*\n)*)", PAGE, flags=re.MULTILINE))
# By the name of the diff, which its check in tests/experiments has as well.
DIFFS = {
    name: text
    for text in SECTIONS.values()
    for name in re.findall(r"experiments/(\w+)\.diff", text)
}
CADENCE = "10-minute images, by settings alone"
NUM_EXAMPLES = 6
needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="diffs are applied by git")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def diff_path(name: str) -> Path:
    return ROOT / f"docs/experiments/{name}.diff"


def run(command: list[str], folder: Path, **environment: str) -> str:
    """Its output. No repository above `folder` counts: git would skip a diff that is not of it."""
    own = {"OMP_NUM_THREADS": "1", "GIT_CEILING_DIRECTORIES": str(folder.parent)}
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **own, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_every_diff_is_an_example_of_the_page() -> None:
    assert {path.stem for path in (ROOT / "docs/experiments").iterdir()} == DIFFS.keys()
    assert len(DIFFS) == NUM_EXAMPLES
    assert CADENCE in SECTIONS and "experiments/" not in SECTIONS[CADENCE]


@needs_git
@pytest.mark.parametrize("name", DIFFS)
def test_a_diff_is_as_long_as_the_page_says_and_shown_as_it_is(name) -> None:
    counts = run(["git", "apply", "--numstat", str(diff_path(name))], ROOT).split("\n")[:-1]
    added, removed = (sum(int(line.split("\t")[k]) for line in counts) for k in (0, 1))
    (said,) = re.findall(r"Files changed: (\d+); lines added: (\d+), removed: (\d+)", DIFFS[name])
    assert tuple(map(int, said)) == (len(counts), added, removed)
    whole = diff_path(name).read_text(encoding="utf-8")
    shown = blocks(DIFFS[name], "diff")
    assert shown and all(block in whole for block in shown)


def copy_of_the_code(folder: Path) -> Path:
    for script in ("train_autoenc.py", "train_diffusion.py", "infer.py"):
        shutil.copy2(ROOT / script, folder)
    shutil.copytree(ROOT / "ldcast", folder / "ldcast")
    return folder


@needs_git
@pytest.mark.parametrize("name", DIFFS)
def test_a_diff_applies_to_the_code_as_it_is(name, tmp_path) -> None:
    run(["git", "apply", str(diff_path(name))], copy_of_the_code(tmp_path))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the page's variables stand for, so small that a training takes seconds."""
    folder = tmp_path_factory.mktemp("small")
    for seed, minutes in itertools.product((1, 2), (5, 10)):
        event = synthetic_event(seed, 52, 64, 64, minutes)
        write_event(event, folder / f"{seed}_{minutes}.npz")
    loop = [*LOOP, "--iterations", "2"]
    cases = ["--forecast-score.num-cases", "1", "--diffusion.num-sampling-steps", "2"]
    python = folder / "python"  # the one that runs the tests, under the page's name for it
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return {
        "STAGE1": " ".join(loop),
        "STAGE2": " ".join([*loop, *cases]),
        "TRAINING": str(folder / "1_5.npz"),
        "VALIDATION": str(folder / "2_5.npz"),
        "FORECAST": "--members 2 --crop 0 0 32 32",
        "SCORE": f"--data {folder}/2_5.npz --cases 1 --members 2 --crop-size 32",
        "PATH": f"{folder}:{os.environ['PATH']}",
    }


@pytest.fixture(scope="module")
def unchanged(small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code as it is, after the commands that all examples start from."""
    folder = copy_of_the_code(tmp_path_factory.mktemp("unchanged"))
    set_variables, start = blocks(SECTIONS["What all examples share"], "sh")
    assert set(re.findall(r"export (\w+)=", set_variables)) == small.keys() - {"PATH"}
    run(["bash", "-e", "-c", start], folder, **small)
    return folder


@needs_git
@pytest.mark.slow
@pytest.mark.parametrize("name", [*DIFFS, "cadence"])
def test_an_example_does_what_the_page_says(name, small, unchanged, tmp_path) -> None:
    folder = copy_of_the_code(tmp_path)
    shutil.copytree(unchanged / "runs", folder / "runs")
    if name in DIFFS:
        text, variables = DIFFS[name], small
        run(["git", "apply", str(diff_path(name))], folder)
    else:  # synthetic rain of the page comes in the minutes of the model, files as they are
        text = SECTIONS[CADENCE]
        variables = {key: value.replace("_5.npz", "_10.npz") for key, value in small.items()}
    for number, script in enumerate(blocks(text, "python")):
        names = re.findall(r"Saved as `(\w+\.py)`", text)
        (folder / names[number]).write_text(script, encoding="utf-8")
    for commands in blocks(text, "sh"):
        run(["bash", "-e", "-c", commands], folder, **variables)
    check = ROOT / f"tests/experiments/{name}.py"
    run([sys.executable, str(check)], folder, PYTHONPATH=f"{folder}:{ROOT / 'tests'}")
