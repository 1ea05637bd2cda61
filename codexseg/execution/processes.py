"""Where work runs: the same ``map`` over one process or many."""

import logging
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from multiprocessing.process import BaseProcess
from threading import Thread
from typing import Literal, Protocol, TypeVar

from codexseg.errors import WorkerDied
from codexseg.execution.memory import ask_for_huge_pages, prepare_process

log = logging.getLogger(__name__)

DIED = (
    "a worker process was killed, most often because memory ran out; what was finished is "
    "kept. Run the same command again with fewer workers (--workers), smaller patches "
    "(patching.patch_height, patch_width) or a smaller segmentation.batch_memory_gb. In a "
    "script of your own, start the run under: if __name__ == '__main__'."
)

T = TypeVar("T")
R = TypeVar("R")


class Execute(Protocol):
    """Apply a picklable function to small picklable items, on so many workers."""

    workers: int

    def map(
        self,
        function: Callable[[T], R],
        items: Sequence[T],
        *,
        died: Callable[[T], Sequence[T]] | None = None,
    ) -> Iterable[R]:
        """Yield results as they come; the first failure is raised.

        `died` is told of an item that killed its worker though it was alone, and
        returns what to do instead.
        """


class Serial:
    """Everything in this process: for one worker, tests and debugging."""

    workers = 1

    def map(
        self,
        function: Callable[[T], R],
        items: Sequence[T],
        *,
        died: Callable[[T], Sequence[T]] | None = None,
    ) -> Iterable[R]:
        """Apply the function here and now."""
        del died
        return map(function, items)


class Processes:
    """A pool of spawned processes on this machine, started when first used and kept."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pool: ProcessPoolExecutor | None = None
        self._has_told = False

    def map(
        self,
        function: Callable[[T], R],
        items: Sequence[T],
        *,
        died: Callable[[T], Sequence[T]] | None = None,
    ) -> Iterator[R]:
        """Yield results as they come; the first failure is raised.

        Raises
        ------
        WorkerDied
            If a worker was killed, most often for its memory, and nobody is to be told.
        """
        waiting, suspects = deque(items), deque[T]()
        if len(items) == 1 and died is None:
            yield function(items[0])
            return
        try:
            while waiting or suspects:
                if suspects:
                    yield from self._alone(function, suspects, died)
                else:
                    yield from self._together(function, waiting, suspects)
        except GeneratorExit:
            raise  # its reader has ended; `executor` knows why, and closes
        except BaseException as error:
            self.tell(error)
            self.close()
            raise

    def _together(
        self, function: Callable[[T], R], waiting: deque[T], suspects: deque[T]
    ) -> Iterator[R]:
        """Keep the pool busy; if a worker dies, what was running becomes suspect."""
        if self._pool is None:
            self._pool = _pool(self.workers)
        running: dict[Future[R], T] = {}
        try:
            while waiting or running:
                # Twice as many as workers keeps them busy; the rest waits here.
                while waiting and len(running) < 2 * self.workers:
                    running[self._pool.submit(function, waiting[0])] = waiting[0]
                    waiting.popleft()
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    result = future.result()
                    del running[future]
                    yield result
        except BrokenProcessPool:
            self.close()
            suspects.extend(running.values())

    def _alone(
        self,
        function: Callable[[T], R],
        suspects: deque[T],
        died: Callable[[T], Sequence[T]] | None,
    ) -> Iterator[R]:
        """Do the next suspect in a process of its own."""
        item = suspects.popleft()
        try:
            with _pool(1) as alone:
                future = alone.submit(function, item)
                try:
                    result = future.result()
                except BaseException as error:
                    self.tell(error, waits=True)
                    raise
            yield result
        except BrokenProcessPool as error:
            if died is None:
                raise WorkerDied(DIED) from error
            suspects.extendleft(reversed(died(item)))

    def tell(self, error: BaseException, *, waits: bool = False) -> None:
        """Say once, where work is interrupted, that what is running ends first.

        Ctrl-C and SIGTERM are no `Exception`.
        """
        if isinstance(error, Exception) or self._has_told:
            return
        if waits or self._pool is not None:
            self._has_told = True
            log.warning("stopping: what is in hand is finished first")

    def close(self) -> None:
        """End the processes; what is waiting is dropped, what is running ends first."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None


def _pool(workers: int) -> ProcessPoolExecutor:
    ask_for_huge_pages()
    return ProcessPoolExecutor(
        workers,
        mp_context=get_context("spawn"),
        initializer=_begin_worker,
        initargs=(max(1, usable_cores() // workers),),
    )


def _begin_worker(threads: int) -> None:
    """Leave Ctrl-C to the parent, do not outlive it, and share the cores.

    OMP_NUM_THREADS is what numerical libraries look at; a user's own value stays.
    """
    prepare_process()
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
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
    except BaseException as error:
        processes.tell(error)
        raise
    finally:
        processes.close()
