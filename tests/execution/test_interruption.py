"""Interruption of `Processes`; threads replace its processes, which take long to start."""

import os
from multiprocessing.connection import Connection, Pipe
from threading import Thread

import pytest

from codexseg.execution import processes, worker
from codexseg.execution.processes import executor
from tests.execution import jobs

MESSAGE = ["Interrupted. Waiting for running jobs to finish."]


class Stopped(BaseException):
    """An interruption other than Ctrl-C, as SIGTERM raises."""


class ThreadProcess:
    """A thread with the interface of a process."""

    exitcode = 0

    def __init__(self, target, args):
        *pipes, threads = args
        copies = [
            Connection(os.dup(pipe.fileno()), pipe.readable, pipe.writable)
            for pipe in pipes
        ]
        self._ended, self._running = Pipe(duplex=False)
        self.sentinel = self._ended.fileno()
        self._thread = Thread(target=self._run, args=(target, *copies, threads))
        self.start, self.join = self._thread.start, self._thread.join
        self.is_alive = self._thread.is_alive

    def _run(self, target, jobs, results, threads):
        target(jobs, results, threads)
        results.close()
        self._running.close()

    def kill(self):
        """Wait for the end: a thread cannot be killed."""


class Context:
    """Start method of threads."""

    Pipe = staticmethod(Pipe)
    Process = ThreadProcess


@pytest.fixture(autouse=True)
def _threads(monkeypatch):
    monkeypatch.setattr(processes, "get_context", lambda _: Context)
    monkeypatch.setattr(worker, "prepare_worker", lambda _: None)


def while_no_job_has_ended(stop, monkeypatch):
    with executor(2) as pool:
        monkeypatch.setattr(pool, "_receive", stop)
        list(pool.map(jobs.short, range(5)))


def while_a_result_is_used(stop, _):
    with executor(2) as pool:
        for _ in pool.map(jobs.short, range(5)):
            stop()


def while_a_job_runs_alone(stop, monkeypatch):
    with executor(2) as pool:
        list(pool.map(jobs.short, range(5)))
        monkeypatch.setattr(pool, "_receive", stop)
        pool._run_alone(jobs.short, 1)


@pytest.mark.parametrize(
    "work", [while_no_job_has_ended, while_a_result_is_used, while_a_job_runs_alone]
)
@pytest.mark.parametrize(
    ("error", "messages"),
    [(KeyboardInterrupt, MESSAGE), (Stopped, MESSAGE), (ValueError, []), (MemoryError, [])],
)
def test_only_an_interruption_is_reported_and_once(
    work, error, messages, monkeypatch, caplog
):
    def stop(*_, **__):
        raise error

    with pytest.raises(error):
        work(stop, monkeypatch)
    assert caplog.messages == messages


def test_regular_end_reports_nothing(caplog):
    with executor(2) as pool:
        assert sorted(pool.map(str, range(5))) == list("01234")
        next(iter(pool.map(str, range(5))))
    assert caplog.messages == []


def test_interruption_after_the_last_job_reports_nothing(caplog):
    def work():
        with executor(2) as pool:
            list(pool.map(str, range(5)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert caplog.messages == []
