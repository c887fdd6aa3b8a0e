"""Output folders: whether they can be written, and locks that one process holds."""

import contextlib
import fcntl
import os
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ldcast.errors import InputError
from ldcast.machine.files import UNFINISHED_PATTERN, temporary_path


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


def check_output_path(path: Path, suffixes: tuple[str, ...]) -> None:
    """Raise InputError if `path` cannot be written; to be called before the work starts.

    suffixes: the endings that mean something here, in lower case with their dot.
    Folders are not created: a mistyped one would be, too. An existing file is fine; it will be
    replaced.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder, expected a file; name a file inside it")
    if path.suffix.lower() not in suffixes:
        raise InputError(
            f"{path} ends in '{path.suffix}', expected {' or '.join(suffixes)}; "
            f"for example {path.with_suffix(suffixes[0])}"
        )
    check_file_writable(path)


def check_file_writable(path: Path) -> None:
    """Raise InputError if nothing can be written beside `path`, wherever that is."""
    folder = path.parent
    if not folder.is_dir():
        existing = next(parent for parent in path.absolute().parents if parent.exists())
        if not existing.is_dir():
            raise InputError(f"{existing} is a file, so {path} cannot be written; name a folder")
        raise InputError(
            f"the folder {folder} does not exist; make it with: mkdir -p {shlex.quote(str(folder))}"
        )
    # Only trying shows it: root ignores permission bits, and a disk can be mounted read-only.
    probe = temporary_path(path)
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"cannot write {path} ({error.strerror}); name another file or folder"
        ) from None
