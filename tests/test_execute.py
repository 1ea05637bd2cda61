"""What a pool of processes says when it is interrupted; threads stand for processes."""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from codexseg.execution import processes as execute
from codexseg.execution.processes import Processes, executor

SAID = ["stopping: what is in hand is finished first"]


class Stopped(BaseException):
    """As SIGTERM ends the commands."""


@pytest.fixture(autouse=True)
def _threads(monkeypatch):
    monkeypatch.setattr(execute, "_pool", ThreadPoolExecutor)


def while_nothing_is_finished(stop, monkeypatch):
    monkeypatch.setattr(execute, "wait", stop)
    with executor(2) as pool:
        list(pool.map(str, range(5)))


def while_a_result_is_looked_at(stop, _):
    with executor(2) as pool:
        for _ in pool.map(str, range(5)):
            stop()


def while_one_that_killed_a_worker_is_tried_alone(stop, monkeypatch):
    monkeypatch.setattr(Future, "result", stop)
    list(Processes(2)._alone(str, deque([1]), None))


@pytest.mark.parametrize(
    "work",
    [
        while_nothing_is_finished,
        while_a_result_is_looked_at,
        while_one_that_killed_a_worker_is_tried_alone,
    ],
)
@pytest.mark.parametrize(
    ("error", "said"),
    [(KeyboardInterrupt, SAID), (Stopped, SAID), (ValueError, []), (MemoryError, [])],
)
def test_only_an_interruption_is_told_and_once(work, error, said, monkeypatch, caplog):
    def stop(*_, **__):
        raise error

    with pytest.raises(error):
        work(stop, monkeypatch)
    assert caplog.messages == said


def test_an_end_that_was_meant_says_nothing(caplog):
    with executor(2) as pool:
        assert sorted(pool.map(str, range(5))) == list("01234")
        next(iter(pool.map(str, range(5))))
    assert caplog.messages == []
