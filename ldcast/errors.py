"""The one exception that means "the user can fix this", and how the scripts show it."""

import operator
import os
import sys
from collections.abc import Callable

INTERRUPTED = 130  # exit status after Ctrl-C, as shells have it


class InputError(ValueError):
    """A request that cannot be fulfilled; the user can fix it.

    The message is one line: what was got, what was expected, and how to fix it.
    """


class NonFiniteError(InputError):
    """Networks that give infinite values or NaN for sound input."""


class UnreadableError(InputError):
    """Data that cannot be read, perhaps for a while: a disk or server that is away, a bad chunk."""


def check_count(what: str, number: int, low: int = 1) -> int:
    """The number as an int; raises InputError unless it is a whole number of at least `low`."""
    try:
        count = operator.index(number)
    except TypeError:
        count = None
    if count is None or isinstance(number, bool) or count < low:
        raise InputError(f"got {number} {what}, expected a whole number of at least {low}")
    return count


def run_script(main: Callable[[], int | None]) -> int:
    """Run a script's `main` and turn what the user can fix into one line and exit status 2.

    Everything else keeps its traceback: it is a bug, and the trace is what its report needs.
    """
    try:
        status = main() or 0
        _flush()
        return status
    except InputError as error:
        message = str(error)
    except OSError as error:  # a missing file, a folder that cannot be written, a full disk
        message = f"{error.strerror}: {error.filename}" if error.filename else str(error)
    except KeyboardInterrupt:
        print("stopped by Ctrl-C", file=sys.stderr)
        return INTERRUPTED
    print(f"{_rank()}error: " + " ".join(message.split()), file=sys.stderr)
    return 2


def _flush() -> None:
    """Flushes what was printed; a reader that has gone must not change the exit status."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _rank() -> str:
    """Which of several processes speaks; nothing for the first, or the only one."""
    rank = int(os.environ.get("RANK", "0"))
    return f"rank {rank}: " if rank else ""
