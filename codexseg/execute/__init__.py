"""Where work runs: the same ``map`` over one process or many."""

import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing import get_context, parent_process
from multiprocessing.process import BaseProcess
from threading import Thread
from typing import Literal, Protocol, TypeVar

from codexseg.errors import WorkerDied
from codexseg.execute.memory import return_large_arrays

T = TypeVar("T")
R = TypeVar("R")


class Execute(Protocol):
    """Apply a picklable function to small picklable items, on so many workers."""

    workers: int

    def map(self, function: Callable[[T], R], items: Sequence[T]) -> Iterable[R]:
        """Yield results as they come; the first failure is raised."""


class Serial:
    """Everything in this process: for one worker, tests and debugging."""

    workers = 1

    def map(self, function: Callable[[T], R], items: Sequence[T]) -> Iterable[R]:
        """Apply the function here and now."""
        return map(function, items)


class Processes:
    """A pool of spawned processes on this machine, started when first used and kept."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def map(self, function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        """Yield results as they come; the first failure is raised.

        Raises
        ------
        WorkerDied
            If the operating system killed a worker, most often for its memory.
        """
        if len(items) < 2:
            yield from map(function, items)
            return
        try:
            yield from self._map(function, iter(items))
        except BrokenProcessPool as error:
            self.close()
            raise WorkerDied(
                "a worker process was killed, most often because memory ran out; what was "
                "finished is kept. Run the same command again with fewer workers "
                "(--workers), smaller patches (patching.patch_height, patch_width) or a "
                "smaller segmentation.batch_memory_gb."
            ) from error
        except BaseException:
            self.close()
            raise

    def _map(self, function: Callable[[T], R], waiting: Iterator[T]) -> Iterator[R]:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self.workers, mp_context=get_context("spawn"), initializer=_begin_worker
            )
        # Twice as many as workers keeps them busy; the rest waits here.
        running = {
            self._pool.submit(function, item) for item in islice(waiting, 2 * self.workers)
        }
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
                running |= {
                    self._pool.submit(function, item) for item in islice(waiting, 1)
                }

    def close(self) -> None:
        """End the processes; what is waiting is dropped, what is running ends first."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None


def _begin_worker() -> None:
    """Leave Ctrl-C to the parent, and do not outlive it."""
    return_large_arrays()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    if parent is not None:
        Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


def usable_cores() -> int:
    """Count the cores that this process may use; a cluster often grants fewer than all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def executor(workers: int | Literal["auto"]) -> Iterator[Execute]:
    """Yield what runs work on this many processes; auto: one for each core."""
    if workers == "auto":
        workers = usable_cores()
    if workers == 1:
        yield Serial()
        return
    processes = Processes(workers)
    try:
        yield processes
    finally:
        processes.close()
