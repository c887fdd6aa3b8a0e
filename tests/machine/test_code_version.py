"""Which code made a file."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import ldcast
from ldcast.machine import code_version as module
from ldcast.machine.code_version import VERSION, code_version, command_line


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package in a folder of its own, which is no checkout yet."""
    folder = tmp_path / "checkout" / "package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    monkeypatch.setattr(module, "_PACKAGE", folder)
    code_version.cache_clear()
    yield folder
    code_version.cache_clear()


def git(folder: Path, *arguments: str) -> None:
    who = ("-c", "user.name=a", "-c", "user.email=a@b.ch")
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


def test_without_a_checkout_it_is_the_version(package: Path) -> None:
    assert code_version() == VERSION == ldcast.__version__


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_of_a_checkout_it_names_the_commit_and_whether_files_differ(package: Path) -> None:
    git(package.parent, "init")
    assert code_version() == VERSION  # of a checkout of something else
    code_version.cache_clear()
    git(package.parent, "add", ".")
    git(package.parent, "commit", "-m", "first")
    assert re.fullmatch(rf"{re.escape(VERSION)}\+[0-9a-f]{{12}}", code_version())
    code_version.cache_clear()
    (package / "__init__.py").write_text("changed = True\n")
    assert code_version().endswith(".changed")


def test_a_command_can_be_given_to_a_shell_again() -> None:
    argv = ["--data", "my radar.npz", "--members", "4"]
    expected = "python infer.py --data 'my radar.npz' --members 4"
    assert command_line(argv, "infer.py") == expected
    assert command_line([], "-m ldcast.verify") == "python -m ldcast.verify"
