"""The micro-batches that one process computes, from any attempt and iteration on."""

import time
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset

from ldcast.config import LoopConfig
from ldcast.data.crops import BatchKeys
from ldcast.machine.processes import Processes
from ldcast.machine.stopping import outlive_signals

Key = tuple[int, int, int]  # attempt, iteration, index of the example in the global batch


class Batches:
    """Reads this process's share of the global batches, micro-batch after micro-batch.

    examples: items by the keys of `BatchKeys`, as `TrainingCrops` has them.
    num_workers: processes that read ahead; 0 reads in this one.
    Raises InputError if a batch cannot be shared out evenly.
    """

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
                self._examples,
                batch_sampler=keys,
                num_workers=self._num_workers,
                worker_init_fn=outlive_signals,
            ),
            keys,
            strict=True,
        )

    def take(self) -> tuple[Any, list[Key]]:
        """The next micro-batch of examples, collated, and their keys."""
        start = time.perf_counter()
        batch = next(self._batches)
        self._wait_seconds += time.perf_counter() - start
        return batch

    def take_wait_seconds(self) -> float:
        """Seconds that `take` has needed since the last call of this."""
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
