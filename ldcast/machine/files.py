"""Writing files so that they are complete or absent, for every reader and after a crash."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

UNFINISHED_PATTERN = ".*.tmp"  # what a killed process leaves behind


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Lets errors within the block name the file: that of a full disk does not by itself."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise type(error)(error.errno, error.strerror, str(path)) from None
        raise


@contextmanager
def open_atomically(path: Path) -> Iterator[BinaryIO]:
    """A binary file that becomes `path` when the block ends well, and vanishes when it does not."""
    with path_atomically(path) as unfinished, naming(path), open(unfinished, "wb") as file:
        yield file


@contextmanager
def path_atomically(path: Path) -> Iterator[Path]:
    """As `open_atomically`, for libraries that open a file by its name: where to write it."""
    unfinished = temporary_path(path)
    try:
        yield unfinished
        with naming(path):
            _flush(unfinished)
        os.replace(unfinished, path)
        sync_folder(path.parent)
    except BaseException:  # Ctrl-C, too, must leave no rubbish behind
        unfinished.unlink(missing_ok=True)
        raise


@contextmanager
def folder_atomically(path: Path) -> Iterator[Path]:
    """A new folder that becomes `path` when the block ends well, and vanishes when it does not.

    A folder at `path` is replaced once the new one is complete. No rename swaps two folders, so
    between two renames there is none; a crash in this instant leaves both beside it, whole, as
    `.NAME.PID.new` and `.NAME.PID.old`. Of a link, as of one to a file, what it leads to stays.
    """
    # Not as UNFINISHED_PATTERN, whose matches are removed as files.
    unfinished, old = (
        path.with_name(f".{path.name}.{os.getpid()}.{age}") for age in ("new", "old")
    )
    try:
        # In a container each run can have the same PID, also after one that was killed.
        _remove(unfinished)
        unfinished.mkdir()
        yield unfinished
        for written in (*unfinished.rglob("*"), unfinished):
            _flush(written)
        _swap_folders(unfinished, path, old)
        sync_folder(path.parent)
    except BaseException:
        _remove(unfinished)
        raise
    _remove(old)


def _swap_folders(new: Path, path: Path, old: Path) -> None:
    """`path` becomes `old`, if there is one, and `new` becomes `path`; or nothing changes."""
    if os.path.lexists(path):  # as a link that leads nowhere does, too
        _remove(old)
        os.rename(path, old)
    try:
        os.rename(new, path)
    except BaseException:
        if os.path.lexists(old):
            os.rename(old, path)
        raise


def _remove(folder: Path) -> None:
    """A folder, or the link to one; what cannot be removed stays."""
    if folder.is_symlink():
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)


def printable(text: str) -> str:
    """On one line, with the codes of what UTF-8 cannot hold, as names of files may have it."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\n", "\\n")


def write_text(path: Path, text: str) -> None:
    """Writes a text file, UTF-8, by `open_atomically`."""
    with open_atomically(path) as file:
        file.write(text.encode("utf-8"))


def sync_folder(folder: Path) -> None:
    """Flushes the folder's list of names, so that a rename outlives a power cut."""
    _flush(folder)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temporary_path(path: Path) -> Path:
    """Where a file lies until it is complete."""
    # In the same folder, because a rename is atomic only inside one file system. Not `tempfile`:
    # its files are readable by their owner alone, and would stay so after the rename.
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")  # as UNFINISHED_PATTERN


def code_fingerprint(*paths: Path) -> str:
    """SHA-256 of Python files, and of those in folders: an edited sampler is another forecaster."""
    files = [file for path in paths for file in ([path] if path.is_file() else path.glob("*.py"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(files))).hexdigest()
