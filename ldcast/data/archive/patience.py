"""Waiting for a store that is away: a server that restarts, a disk that is mounted again."""

import time
from collections.abc import Callable
from typing import TypeVar

from ldcast.errors import InputError, UnreadableError

RETRY_SECONDS = (1, 4, 15, 60)  # waits before another try
Result = TypeVar("Result")


class Patience:
    """Tries to read again after some time, until it fails for good; from then on, only once.

    what: named in messages.
    """

    def __init__(self, what: str) -> None:
        self._what, self._is_gone = what, False

    def __call__(self, read: Callable[[], Result], start_over: Callable[[], None]) -> Result:
        """What `read` returns. start_over: called before another try, to open the store again.

        Raises UnreadableError where every try fails, whatever the packages beneath raised, and at
        once what `read` raises of the kind that waiting does not change.
        """
        waits = () if self._is_gone else RETRY_SECONDS
        for wait in (*waits, None):
            try:
                result = read()
                self._is_gone = False
                return result
            except Exception as error:  # of many kinds, from zarr, fsspec and beneath
                if isinstance(error, InputError) and not isinstance(error, UnreadableError):
                    raise
                if wait is None:
                    self._is_gone = True
                    raise UnreadableError(self._describe(error, len(waits))) from error
                start_over()
                time.sleep(wait)
        raise AssertionError

    def _describe(self, error: Exception, num_waits: int) -> str:
        said = " ".join(str(error).split())[:300]
        if not isinstance(error, UnreadableError):
            said = f"{self._what} cannot be read ({type(error).__name__}: {said})"
        if not num_waits:
            return said
        return f"{said}; tried {num_waits + 1} times in {sum(RETRY_SECONDS)} seconds"
