"""The executor contract, and execution in this process."""

import logging
import time
import traceback
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from codexseg.errors import WorkerDied

log = logging.getLogger(__name__)

DIED = (
    "A worker process was killed, most often because memory ran out. "
    "Finished work is kept. Run the same command again with fewer workers (--workers), "
    "smaller patches (patching.patch_height, patch_width) or a smaller "
    "segmentation.batch_memory_gb."
)

State = Literal["done", "failed", "died", "timed out", "cancelled"]

J = TypeVar("J")
V = TypeVar("V")


@dataclass(frozen=True)
class Outcome(Generic[J, V]):
    """The end of one job.

    Attributes
    ----------
    job : object
        The job as passed to `Executor.run`.
    state : str
        - "done": `value` is the result.
        - "failed": the function raised `error`.
        - "died": the worker process ended during the job; `error` is a `WorkerDied`.
        - "timed out": the job ran longer than its deadline.
        - "cancelled": `cancelled(job)` was true before or while the job ran.
    value : object, optional
        Result of the function.
    error : BaseException, optional
        The exception. Set for all states except "done".
    """

    job: J
    state: State
    value: V | None = None
    error: BaseException | None = None

    @property
    def traceback(self) -> str:
        """Formatted exception, with the lines of the worker process; "" without one."""
        return "" if self.error is None else "".join(traceback.format_exception(self.error))

    def result(self) -> V:
        """Return the value, or raise the error."""
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]


class Executor(ABC):
    """Applies a function to many jobs.

    Subclasses implement `run`. All implementations pass the tests in
    tests/execution/contract.py.

    Attributes
    ----------
    workers : int
        Number of jobs that run at the same time.
    """

    workers: int

    @abstractmethod
    def run(
        self,
        function: Callable[[J], V],
        jobs: Iterable[J],
        *,
        deadline_s: float | None = None,
        cancelled: Callable[[J], bool] | None = None,
    ) -> Iterator[Outcome[J, V]]:
        """Yield exactly one outcome per job, in order of completion.

        A job that fails, kills its process, hangs or is cancelled affects no other job.
        At most two jobs per worker are taken from `jobs` in advance. If the iterator is
        closed or interrupted, the waiting jobs are dropped, and the running ones finish;
        `close` waits for them.

        Parameters
        ----------
        function : callable
            Importable from a module, with picklable arguments.
        jobs : iterable
            Small picklable items that name files; read lazily.
        deadline_s : float, optional
            Longest duration of one job, in seconds.
        cancelled : callable, optional
            Returns whether a job is no longer wanted. Called before a job starts and
            about once per second while it runs.

        Raises
        ------
        TypeError
            If the function or a job cannot be sent to another process.
        """

    def map(
        self,
        function: Callable[[J], V],
        items: Sequence[J],
        *,
        died: Callable[[J], Sequence[J]] | None = None,
    ) -> Iterator[V]:
        """Yield results in order of completion; raise the first failure.

        Items that lost their worker run again, one at a time, after all others.

        Parameters
        ----------
        function, items
            As in `run`.
        died : callable, optional
            Called with an item that killed its worker while it ran alone. Returns the
            items to run instead.

        Raises
        ------
        WorkerDied
            If an item killed its worker while it ran alone, and `died` is not given.
        """
        suspects = deque[J]()
        try:
            for outcome in self.run(function, items):
                if outcome.state == "died":
                    suspects.append(outcome.job)
                else:
                    yield outcome.result()
            while suspects:
                outcome = self._run_alone(function, suspects.popleft())
                if outcome.state == "died" and died is not None:
                    suspects.extendleft(reversed(died(outcome.job)))
                else:
                    yield outcome.result()
        except GeneratorExit:
            raise
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def close(self) -> None:
        """Drop waiting jobs, let running jobs finish, and release the workers.

        A later run starts workers again.
        """

    def _run_alone(self, function: Callable[[J], V], job: J) -> Outcome[J, V]:
        """Run one job while no other job runs."""
        (outcome,) = self.run(function, [job])
        return outcome


class Serial(Executor):
    """Runs all jobs in this process: for one worker, tests and debugging."""

    workers = 1

    def __init__(self) -> None:
        self._has_warned = False

    def run(
        self,
        function: Callable[[J], V],
        jobs: Iterable[J],
        *,
        deadline_s: float | None = None,
        cancelled: Callable[[J], bool] | None = None,
    ) -> Iterator[Outcome[J, V]]:
        """Yield one outcome per job, in order.

        A job cannot be stopped while it runs: cancellation is checked before each job,
        the deadline after it.
        """
        if deadline_s is not None and not self._has_warned:
            self._has_warned = True
            log.warning(
                "A deadline cannot stop a job that runs in this process. "
                "Use at least 2 workers."
            )
        for job in jobs:
            if cancelled is not None and cancelled(job):
                yield Outcome(job, "cancelled", error=job_cancelled())
                continue
            start = time.monotonic()
            try:
                value = function(job)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - reported in outcome
                outcome = Outcome[J, V](job, "failed", error=error)
            else:
                outcome = Outcome(job, "done", value)
            if deadline_s is not None and time.monotonic() - start > deadline_s:
                outcome = Outcome(job, "timed out", error=job_timed_out(deadline_s))
            yield outcome

    def close(self) -> None:
        """Do nothing: no job is running."""


def worker_died(exit_code: int | None) -> WorkerDied:
    """Return the error of a job that lost its worker process, with this exit code."""
    how = f"exit code {exit_code}"
    if exit_code is not None and exit_code < 0:
        how = f"signal {-exit_code}"
    return WorkerDied(f"{DIED} ({how})")


def job_timed_out(deadline_s: float) -> TimeoutError:
    """Return the error of a job that ran longer than its deadline."""
    return TimeoutError(f"Job took longer than its deadline of {deadline_s:g} s.")


def job_cancelled() -> CancelledError:
    """Return the error of a cancelled job."""
    return CancelledError("Job cancelled.")
