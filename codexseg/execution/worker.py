"""The worker side of `Processes`: receives jobs, runs them, sends the results."""

import os
import pickle
import traceback
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Thread
from typing import Any, Final

from codexseg.errors import describe_error
from codexseg.execution.process import prepare_worker

READY: Final = b"ready"
"""Message of a worker that waits for its first job."""

FINISH: Final = b"finish"
"""Message to a worker: drop the waiting jobs and end after the running one."""


class RemoteTraceback(Exception):
    """Traceback of an exception in a worker process, as text."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def work(jobs: Connection, results: Connection, threads: int) -> None:
    """Run jobs until the parent process ends or sends `FINISH`.

    Parameters
    ----------
    jobs : Connection
        Receives pickled (function, job) pairs; each of the two is pickled on its own.
    results : Connection
        Sends `READY` once, then (value, None) or (None, (error, traceback)) per job.
    threads : int
        Threads of numerical libraries.
    """
    waiting: SimpleQueue[bytes] = SimpleQueue()
    Thread(target=_receive, args=(jobs, waiting), daemon=True).start()
    prepare_worker(threads)
    results.send_bytes(READY)
    while (message := waiting.get()) != FINISH:
        results.send_bytes(_run(message))


def _receive(jobs: Connection, waiting: "SimpleQueue[bytes]") -> None:
    """Queue the messages of the parent process; end this process with the parent.

    Reading on a thread keeps the parent from blocking while a job runs.
    """
    try:
        while (message := jobs.recv_bytes()) != FINISH:
            waiting.put(message)
    except (EOFError, OSError):
        os._exit(1)
    while not waiting.empty():
        waiting.get()
    waiting.put(FINISH)


def _run(message: bytes) -> bytes:
    """Run one job and pickle its result or its exception."""
    try:
        function, job = pickle.loads(message)
        value = pickle.loads(function)(pickle.loads(job))
        return pickle.dumps((value, None), pickle.HIGHEST_PROTOCOL)
    except BaseException as error:  # noqa: BLE001 - sent to the parent process
        return _pickle_error(error)


def _pickle_error(error: BaseException) -> bytes:
    """Pickle an exception; one that pickle cannot restore becomes a RuntimeError."""
    text = "".join(traceback.format_exception(error))
    try:
        message = pickle.dumps((None, (error, text)), pickle.HIGHEST_PROTOCOL)
        pickle.loads(message)
    except Exception:  # noqa: BLE001 - exceptions of third parties fail in many ways
        error = RuntimeError(describe_error(error))
        message = pickle.dumps((None, (error, text)), pickle.HIGHEST_PROTOCOL)
    return message


def load_result(message: bytes) -> tuple[Any, BaseException | None]:
    """Return the value and the exception of a job, as seen by the parent process."""
    value, failure = pickle.loads(message)
    if failure is None:
        return value, None
    error, text = failure
    error.__cause__ = RemoteTraceback(text)
    return None, error
