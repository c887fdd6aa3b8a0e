"""Ending a run in an orderly way after Ctrl-C or SIGTERM."""

import signal
from collections.abc import Iterable, Iterator
from types import FrameType

WORKER_GRACE_SECONDS = 60  # longer than an update takes


class Stopped(Exception):
    """Raised where work that may be thrown away is interrupted by a request to stop."""


class StopRequest:
    """Turns Ctrl-C and SIGTERM into a request that the loop honours after its update.

    A second Ctrl-C interrupts at once; a second SIGTERM does nothing, because clusters and torchrun
    may both send one. Use as a context.
    """

    def __init__(self) -> None:
        self._signal: signal.Signals | None = None

    @property
    def is_set(self) -> bool:
        return self._signal is not None

    def until(self, items: Iterable[int]) -> Iterator[int]:
        """The items one by one, until a stop is requested."""
        for item in items:
            if self.is_set:
                return
            yield item

    def interrupting(self, *_progress: int) -> None:
        """A progress callback that raises Stopped once a stop is requested."""
        if self.is_set:
            raise Stopped

    @property
    def name(self) -> str:
        """Of the signal, or of another process's."""
        return self._signal.name if self._signal else "another process"

    @property
    def status(self) -> int:
        """The exit status, as shells have it: 130 after Ctrl-C, 143 after SIGTERM."""
        return 128 + (self._signal or signal.SIGTERM)

    def __enter__(self) -> "StopRequest":
        signals = (signal.SIGINT, signal.SIGTERM)
        self._before = {number: signal.signal(number, self._request) for number in signals}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _request(self, number: int, _frame: FrameType | None) -> None:
        # Nothing is printed here: the pipe may be broken, or the signal have come amid a print.
        if self.is_set and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = self._signal or signal.Signals(number)


def outlive_signals(_worker_id: int) -> None:
    """For the workers of a DataLoader: they last until the loop has made its last update.

    A terminal's Ctrl-C and many a cluster's SIGTERM reach all processes at once. A worker ignores
    the one and ends a minute after the other, unless the loop ends it before, as it should.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(WORKER_GRACE_SECONDS))
