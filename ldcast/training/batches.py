"""The micro-batches that one process computes, from any attempt and iteration on."""

import itertools
import time
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset, default_collate

from ldcast.config import LoopConfig
from ldcast.data.crops import BatchKeys
from ldcast.errors import UnreadableError
from ldcast.machine.processes import Processes
from ldcast.machine.stopping import outlive_signals

Key = tuple[int, int, int]  # attempt, iteration, index of the example in the global batch


class Batches:
    """Reads this process's share of the global batches, micro-batch after micro-batch.

    examples: items by the keys of `BatchKeys`, as `TrainingCrops` has them.
    num_workers: processes that read ahead; 0 reads in this one.
    error: why an example of the next batch cannot be read; None as long as all can.
    Raises InputError if a batch cannot be shared out evenly.
    """

    error: UnreadableError | None = None

    def __init__(
        self, examples: Dataset, loop: LoopConfig, num_workers: int, processes: Processes
    ) -> None:
        self._examples, self._loop = examples, loop
        self._num_workers, self._processes = num_workers, processes
        self._wait_seconds = 0.0
        self._keys(0, 0)  # raises

    def restart(self, attempt: int, iteration: int) -> None:
        """Continues with the batch of this iteration: at the start, and after a rollback."""
        keys = self._keys(attempt, iteration)
        self._batches: Iterator[tuple[Any, list[Key]]] = zip(
            DataLoader(
                _Caught(self._examples),
                batch_sampler=keys,
                num_workers=self._num_workers,
                worker_init_fn=outlive_signals,
                collate_fn=_collate,
            ),
            keys,
            strict=True,
        )
        self._read: list[tuple[Any, list[Key]]] = []

    def read(self) -> bool:
        """Reads the next batch, all micro-batches of it; False where one cannot be read.

        So the loop learns between two updates that a store is away, when its state can be saved.
        """
        start = time.perf_counter()
        missing = self._loop.num_micro_batches - len(self._read)
        self._read += itertools.islice(self._batches, missing)  # fewer at the end of the run
        self._wait_seconds += time.perf_counter() - start
        errors = [batch for batch, _ in self._read if isinstance(batch, UnreadableError)]
        self.error = errors[0] if errors else None
        return self.error is None

    def check_read(self, then: str) -> None:
        """Raises UnreadableError where an example of the next batch cannot be read.

        then: what the message says after the reason.
        """
        if self.error:
            raise UnreadableError(f"{self.error}; {then}") from self.error

    def take(self) -> tuple[Any, list[Key]]:
        """The next micro-batch of examples that was read, collated, and their keys."""
        return self._read.pop(0)

    def take_wait_seconds(self) -> float:
        """Seconds that `read` has needed since the last call of this."""
        seconds, self._wait_seconds = self._wait_seconds, 0.0
        return seconds

    def _keys(self, attempt: int, iteration: int) -> BatchKeys:
        iterations = range(iteration, max(iteration, self._loop.iterations))
        return BatchKeys(
            attempt,
            iterations,
            self._loop.batch_size,
            self._loop.num_micro_batches,
            self._processes.rank,
            self._processes.num,
        )


class _Caught(Dataset):
    """Examples, or the error of one that cannot be read: workers add their trace to what they
    raise."""

    def __init__(self, examples: Dataset) -> None:
        self._examples = examples

    def __getitem__(self, key: Key) -> Any:
        try:
            return self._examples[key]
        except UnreadableError as error:
            return UnreadableError(str(error))


def _collate(examples: list[Any]) -> Any:
    errors = [example for example in examples if isinstance(example, UnreadableError)]
    return errors[0] if errors else default_collate(examples)
