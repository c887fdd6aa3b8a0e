"""Leaving a run in good order when a person or a cluster asks for it."""

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from types import FrameType


class StopRequest:
    """Turns the first Ctrl-C or SIGTERM into a request that the loop honours after its update.

    A second one interrupts at once. Processes that are forked within this context, such as the
    workers of a DataLoader, ignore both signals: a terminal and a cluster signal all at once, and
    the loop needs them for its last update. Use as a context.
    say: takes a line for the user.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._signal: signal.Signals | None = None
        self._process_id = os.getpid()

    @property
    def is_set(self) -> bool:
        return self._signal is not None

    def until(self, items: Iterable[int]) -> Iterator[int]:
        """The items one by one, until a stop is requested."""
        for item in items:
            if self.is_set:
                return
            yield item

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
        if os.getpid() != self._process_id:
            return
        if self.is_set:
            raise KeyboardInterrupt
        self._signal = signal.Signals(number)
        self._say(f"{self._signal.name}: saving, then leaving; once more to leave at once")
