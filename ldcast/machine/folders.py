"""Folders that one process owns while it writes: training runs, and forecasts that are watched."""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ldcast.errors import InputError
from ldcast.machine.files import UNFINISHED_PATTERN


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


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Holds the folder for this process.

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
        yield
    finally:
        os.close(descriptor)


def clear_unfinished(folder: Path) -> None:
    """Removes what a killed process left half-written; the folder must be held by `lock_folder`."""
    for unfinished in folder.glob(UNFINISHED_PATTERN):
        unfinished.unlink()
