"""Execution in worker processes on this machine."""

import logging
import pickle
import sys
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import BytesIO
from math import inf
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from threading import Lock
from types import FunctionType, ModuleType
from typing import Any, Generic, Literal

from codexseg.execution.base import (
    Executor,
    J,
    Outcome,
    Serial,
    V,
    job_cancelled,
    job_timed_out,
    worker_died,
)
from codexseg.execution.process import request_huge_pages, usable_cores
from codexseg.execution.worker import FINISH, READY, load_result, work

log = logging.getLogger(__name__)

MAX_JOBS_PER_WORKER = 2
"""One job runs while the next waits in the worker, which is then never idle."""

POLL_S = 1.0
"""Time between two questions whether a running job is cancelled."""

_START = Lock()


class Processes(Executor):
    """Spawned processes on this machine, started when first used and kept between runs.

    Each worker has its own process and pipes. If it ends, the other workers continue and a
    new one takes its place. Workers do not import the main module of the program, so a
    script needs no ``if __name__ == "__main__"``.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pool: list[_Worker] = []
        self._leaving: list[_Worker] = []
        self._is_running = False
        self._has_reported = False
        weakref.finalize(self, _finish, self._pool, self._leaving)

    def run(
        self,
        function: Callable[[J], V],
        jobs: Iterable[J],
        *,
        deadline_s: float | None = None,
        cancelled: Callable[[J], bool] | None = None,
    ) -> Iterator[Outcome[J, V]]:
        """Yield one outcome per job, in order of completion.

        The duration of a job includes the time to import its function.

        Raises
        ------
        RuntimeError
            If another run on these workers is in progress.
        TypeError
            If the function cannot be imported in a worker process.
        """
        if self._is_running:
            raise RuntimeError(
                "A run is in progress on these workers. Finish its iterator first."
            )
        pickled = _pickle(function)
        _finish(self._leaving)
        queue = _Queue(jobs, deadline_s, cancelled)
        self._is_running = True
        try:
            while True:
                yield from self._submit(queue, pickled)
                if not self._busy():
                    break
                yield from self._receive(queue)
                yield from self._stop_unwanted(queue)
        except GeneratorExit:
            raise  # the caller reports the reason and calls close
        except BaseException as error:
            self.report_interruption(error)
            raise
        finally:
            self._is_running = False
            for worker in self._busy():
                worker.request_finish()
                self._pool.remove(worker)
                self._leaving.append(worker)

    def map(
        self,
        function: Callable[[J], V],
        items: Sequence[J],
        *,
        died: Callable[[J], Sequence[J]] | None = None,
    ) -> Iterator[V]:
        """Yield results in order of completion; raise the first failure.

        A single item runs in this process, because workers take seconds to start.
        """
        if len(items) == 1 and died is None:
            yield function(items[0])
        else:
            yield from super().map(function, items, died=died)

    def close(self) -> None:
        """Drop waiting jobs, let running jobs finish, and end the processes.

        Interrupting it, for example with a second Ctrl-C, kills the running jobs.
        """
        _finish(self._pool, self._leaving)

    def report_interruption(self, error: BaseException) -> None:
        """Log once that running jobs finish first, if the error is an interruption.

        Ctrl-C and SIGTERM are not derived from `Exception`.
        """
        is_working = bool(self._leaving or self._busy())
        if is_working and not isinstance(error, Exception) and not self._has_reported:
            self._has_reported = True
            log.warning("Interrupted. Waiting for running jobs to finish.")

    def _run_alone(self, function: Callable[[J], V], job: J) -> Outcome[J, V]:
        """Run one job in the only worker process, so that it has all memory."""
        if len(self._pool) > 1:
            self.close()
        return super()._run_alone(function, job)

    def _busy(self) -> "list[_Worker]":
        return [worker for worker in self._pool if worker.jobs]

    def _submit(self, queue: "_Queue[J]", function: bytes) -> Iterator[Outcome[J, V]]:
        """Send jobs to workers with room; yield the outcomes of those not sent."""
        while sum(len(worker.jobs) for worker in self._pool) < (
            MAX_JOBS_PER_WORKER * self.workers
        ):
            try:
                job = next(queue)
            except StopIteration:
                return
            if queue.is_cancelled(job):
                yield Outcome(job, "cancelled", error=job_cancelled())
                continue
            try:
                message = pickle.dumps((function, _pickle(job)))
            except TypeError as error:
                yield Outcome(job, "failed", error=error)
            else:
                self._next_worker().send(job, message)

    def _next_worker(self) -> "_Worker":
        """Return the worker with the fewest jobs; start one rather than let a job wait."""
        for worker in [w for w in self._pool if not (w.jobs or w.process.is_alive())]:
            self._pool.remove(worker)  # it was killed while it had no job
        if len(self._pool) < self.workers and all(worker.jobs for worker in self._pool):
            self._pool.append(_Worker(threads=max(1, usable_cores() // self.workers)))
        return min(self._pool, key=lambda worker: len(worker.jobs))

    def _receive(self, queue: "_Queue[J]") -> Iterator[Outcome[J, V]]:
        """Wait for messages; yield the outcomes of jobs that ended."""
        busy = self._busy()
        handles = [handle for worker in busy for handle in worker.handles]
        timeouts = [] if queue.cancelled is None else [POLL_S]
        if queue.deadline_s is not None:
            timeouts += [queue.deadline_s - worker.running_s for worker in busy]
        ready = wait(handles, None if not timeouts else max(0.0, min(timeouts)))
        for worker in busy:
            if not set(worker.handles).isdisjoint(ready):
                message = worker.receive()
                if message is None:
                    job = self._remove(worker, queue)
                    error = worker_died(worker.process.exitcode)
                    yield Outcome(job, "died", error=error)
                elif message != READY:
                    yield _outcome(worker.end_job(), message)

    def _stop_unwanted(self, queue: "_Queue[J]") -> Iterator[Outcome[J, V]]:
        """End the workers of jobs that are past their deadline or cancelled."""
        for worker in self._busy():
            if worker.has_message:
                continue
            if queue.deadline_s is not None and worker.running_s > queue.deadline_s:
                job = self._remove(worker, queue)
                yield Outcome(job, "timed out", error=job_timed_out(queue.deadline_s))
            elif worker.is_poll_due() and queue.is_cancelled(worker.jobs[0]):
                job = self._remove(worker, queue)
                yield Outcome(job, "cancelled", error=job_cancelled())

    def _remove(self, worker: "_Worker", queue: "_Queue[J]") -> J:
        """End a worker, put its waiting jobs back, and return the job that it ran."""
        self._pool.remove(worker)
        worker.kill()
        job: J = worker.jobs.popleft()
        queue.returned.extend(worker.jobs)
        return job


class _Queue(Generic[J]):
    """Jobs of a run that no worker has, and the conditions that end running ones.

    Jobs returned by workers that ended come first.
    """

    def __init__(
        self,
        jobs: Iterable[J],
        deadline_s: float | None,
        cancelled: Callable[[J], bool] | None,
    ) -> None:
        self.returned = deque[J]()
        self.deadline_s, self.cancelled = deadline_s, cancelled
        self._jobs = iter(jobs)

    def __next__(self) -> J:
        return self.returned.popleft() if self.returned else next(self._jobs)

    def is_cancelled(self, job: J) -> bool:
        """Return whether a job is no longer wanted."""
        return self.cancelled is not None and self.cancelled(job)


class _Worker:
    """A worker process, seen from its parent.

    Attributes
    ----------
    process : multiprocessing.Process
    jobs : deque
        The running job, then the waiting ones.
    """

    def __init__(self, threads: int) -> None:
        request_huge_pages()
        context = get_context("spawn")
        jobs, self._jobs = context.Pipe(duplex=False)
        self._results, results = context.Pipe(duplex=False)
        self.process = context.Process(target=work, args=(jobs, results, threads))
        with _hidden_main_module():
            self.process.start()
        jobs.close()
        results.close()
        self.jobs: deque[Any] = deque()
        self.handles: tuple[Connection, int] = (self._results, self.process.sentinel)
        self._is_ready = False
        self._start_s = self._poll_s = -inf

    def send(self, job: Any, message: bytes) -> None:
        """Give a job to the worker."""
        self.jobs.append(job)
        if len(self.jobs) == 1:
            self._start_clock()
        with suppress(OSError):  # its end is noticed when results are received
            self._jobs.send_bytes(message)

    def receive(self) -> bytes | None:
        """Return the next message, or None if the process has ended."""
        try:
            message = self._results.recv_bytes() if self._results.poll() else None
        except (EOFError, OSError):
            return None
        if message == READY:
            self._is_ready = True
            self._start_clock()
        return message

    def end_job(self) -> Any:
        """Remove and return the running job; the next one is running now."""
        job = self.jobs.popleft()
        self._start_clock()
        return job

    def _start_clock(self) -> None:
        self._start_s, self._poll_s = time.monotonic(), -inf

    @property
    def has_message(self) -> bool:
        """Whether `receive` has news: a message or the end of the process."""
        return self._results.poll()

    @property
    def running_s(self) -> float:
        """Seconds since the running job was started; 0 while the process starts."""
        return time.monotonic() - self._start_s if self._is_ready else 0.0

    def is_poll_due(self) -> bool:
        """Return whether to ask again if the running job is cancelled."""
        now = time.monotonic()
        if now - self._poll_s < POLL_S:
            return False
        self._poll_s = now
        return True

    def request_finish(self) -> None:
        """Ask the process to drop waiting jobs and to end after the running one."""
        with suppress(OSError):  # it has ended
            self._jobs.send_bytes(FINISH)

    def finish(self) -> None:
        """Wait for the process to end; its results are discarded."""
        while wait(self.handles) and self.receive() is not None:
            pass
        self._join()

    def kill(self) -> None:
        """End the process at once."""
        self.process.kill()
        self._join()

    def _join(self) -> None:
        self.process.join()
        self._jobs.close()
        self._results.close()


@contextmanager
def _hidden_main_module() -> Iterator[None]:
    """Hide the main module from multiprocessing, which makes new processes import it.

    An unguarded script would start again in each worker. The main module of a notebook,
    ``python -c`` or a script from standard input has no file to import.
    """
    with _START:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


class _Pickler(pickle.Pickler):
    """Refuses functions and classes of the main module, which workers do not import."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, FunctionType | type) and value.__module__ == "__main__":
            raise TypeError(f"{value.__qualname__!r} is defined in the main module.")
        return NotImplemented


def _pickle(value: object) -> bytes:
    buffer = BytesIO()
    try:
        _Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(value)
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        raise TypeError(
            f"Cannot send {value!r} to a worker process: {error} "
            f"Use functions and classes that can be imported from a module file, or one "
            f"worker."
        ) from error
    return buffer.getvalue()


def _outcome(job: J, message: bytes) -> Outcome[J, Any]:
    try:
        value, error = load_result(message)
    except Exception as unreadable:  # noqa: BLE001 - for example a module missing here
        value, error = None, unreadable
    return Outcome(job, "done" if error is None else "failed", value, error)


def _finish(*pools: list[_Worker]) -> None:
    """Drop waiting jobs, let running ones finish, and end the processes."""
    workers = [worker for pool in pools for worker in pool]
    try:
        for worker in workers:
            worker.request_finish()
        for worker in workers:
            worker.finish()
    except BaseException:
        for worker in workers:
            worker.kill()
        raise
    finally:
        for pool in pools:
            pool.clear()


@contextmanager
def executor(workers: int | Literal["auto"]) -> Iterator[Executor]:
    """Yield an executor with this many workers, and close it.

    Parameters
    ----------
    workers : int or "auto"
        1 runs all jobs in this process; "auto" starts one process per usable core.
    """
    if workers == "auto":
        workers = usable_cores()
    if workers == 1:
        yield Serial()
        return
    processes = Processes(workers)
    try:
        yield processes
    except BaseException as error:
        processes.report_interruption(error)
        raise
    finally:
        processes.close()
