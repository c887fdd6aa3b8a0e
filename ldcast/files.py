"""Writing files so that no reader, and no crash, ever meets half of one."""

import os
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
    unfinished = temporary_path(path)
    try:
        with naming(path), open(unfinished, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
        sync_folder(path.parent)
    except BaseException:  # Ctrl-C, too, must leave no rubbish behind
        unfinished.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Writes a text file, UTF-8, by `open_atomically`."""
    with open_atomically(path) as file:
        file.write(text.encode("utf-8"))


def sync_folder(folder: Path) -> None:
    """Flushes the folder's list of names, so that a rename outlives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temporary_path(path: Path) -> Path:
    """Where a file lies until it is complete."""
    # In the same folder, because a rename is atomic only inside one file system. Not `tempfile`:
    # its files are readable by their owner alone, and would stay so after the rename.
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")  # as UNFINISHED_PATTERN
