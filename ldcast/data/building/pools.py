"""Who does the work: this process, others beside it, or the workers of a dask scheduler."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
)
from typing import Any, NamedTuple, TypeVar

from ldcast.errors import InputError

Item, Result = TypeVar("Item"), TypeVar("Result")
_AHEAD = 4  # items for each worker that are under way at once
_CONNECT_SECONDS = 20


class Pool(NamedTuple):
    """An executor, and how many items it is given at once."""

    executor: Executor
    num_ahead: int


class _Here(Executor):
    """Does the work at once, in this process."""

    def submit(self, function: Callable[..., Result], *arguments: object) -> "Future[Result]":
        future: Future[Result] = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future


@contextlib.contextmanager
def open_pool(num_workers: int, scheduler: str | None) -> Iterator[Pool]:
    """Where items are worked on.

    scheduler: address of a dask scheduler, such as tcp://HOST:8786; None for processes here.
    Raises InputError where dask is missing, or the scheduler or its workers are, and where they or
    processes here end while the block runs.
    """
    if scheduler is not None:
        with _dask_client(scheduler) as (client, num_threads):
            yield Pool(client.get_executor(pure=False), _AHEAD * num_threads)
    elif num_workers == 1:
        yield Pool(_Here(), 1)
    else:
        # Not forked: threads of PyTorch and HDF5 do not outlive a fork.
        context = multiprocessing.get_context("spawn")
        executor = ProcessPoolExecutor(num_workers, context, initializer=_prepare_worker)
        try:
            yield Pool(executor, _AHEAD * num_workers)
        except BrokenExecutor as error:
            raise InputError(
                f"a worker process ended during its work ({error}), perhaps for lack of memory; "
                "what was finished is kept: build again, with fewer --workers"
            ) from error
        finally:
            executor.shutdown(cancel_futures=True)


def results_in_order(
    pool: Pool,
    function: Callable[..., Result],
    items: Iterable[Item],
    *settings: object,
) -> Iterator[Result]:
    """`function(item, *settings)` of each item, in their order; some are under way ahead.

    Raises what the function raises, of the first item that fails; later ones are cancelled or
    ended.
    """
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.executor.submit(function, item, *settings))
            if len(waiting) >= pool.num_ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _prepare_worker() -> None:
    """Lets the builder alone hear Ctrl-C, and ends this process when the builder is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    builder = multiprocessing.parent_process()

    def follow() -> None:
        builder.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


@contextlib.contextmanager
def _dask_client(address: str) -> Iterator[tuple[Any, int]]:
    """A client of the scheduler, and how many threads its workers have together."""
    try:
        from distributed import Client, KilledWorker
    except ImportError as error:
        raise InputError(
            f"--scheduler needs dask ({error}); install it with: pip install 'dask[distributed]'"
        ) from error
    try:
        client = Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:  # of a wrong address, and of one where nothing is
        raise InputError(
            f"no dask scheduler answers at {address} ({error}), expected one such as "
            "tcp://HOST:8786; start one by: dask scheduler"
        ) from None
    with client:
        workers = client.scheduler_info(n_workers=-1)["workers"]
        if not workers:
            raise InputError(
                f"the dask scheduler at {address} has no workers, expected one or more; start them "
                f"by: dask worker {address}"
            )
        try:
            yield client, sum(worker["nthreads"] for worker in workers.values())
        except (KilledWorker, CancelledError) as error:
            raise InputError(
                f"the dask scheduler at {address} or a worker of it ended during the work "
                f"({error}), perhaps for lack of memory; what was finished is kept: build again"
            ) from error
        except ModuleNotFoundError as error:
            raise InputError(
                f"a dask worker of {address} lacks a package ({error}), expected those that are "
                "here; install them there"
            ) from error
