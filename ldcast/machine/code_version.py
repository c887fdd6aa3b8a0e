"""Which code made a file: the package's version and, of a git checkout, the commit."""

import functools
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

VERSION = "0.1.0"  # pyproject.toml takes it from here
_PACKAGE = Path(__file__).parents[1]


@functools.cache
def code_version() -> str:
    """For example "0.1.0"; of a checkout "0.1.0+2e98754f3c1d", with ".changed" where the package's
    files differ from the commit."""
    commit = _git("rev-parse", "--short=12", "HEAD")
    if commit is None:
        return VERSION
    is_changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".") != ""
    return f"{VERSION}+{commit}{'.changed' if is_changed else ''}"


def command_line(argv: Sequence[str] | None, program: str) -> str:
    """The command as a shell takes it. argv: without the program; None for that of the process."""
    return shlex.join(["python", *program.split(), *(sys.argv[1:] if argv is None else argv)])


def _git(*arguments: str) -> str | None:
    """What git answers about the package's folder; None where that is no part of a checkout of it.

    A copy within a checkout of something else is none: its files are not in that one.
    """
    git = ["git", "-C", str(_PACKAGE)]
    try:
        subprocess.run(
            [*git, "ls-files", "--error-unmatch", "__init__.py"],
            capture_output=True, check=True, timeout=10,
        )  # fmt: skip
        answer = subprocess.run(
            [*git, *arguments], capture_output=True, check=True, text=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
