"""Executors of this machine: the contract, and their own properties."""

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from codexseg.execution.base import Serial
from codexseg.execution.process import usable_cores
from codexseg.execution.processes import Processes, _Worker, executor
from tests.execution import jobs
from tests.execution.contract import ExecutorContract, ProcessContract


class TestSerial(ExecutorContract):
    @pytest.fixture
    def executor(self):
        return Serial()

    def test_deadline_is_checked_after_a_job_and_warns_once(self, executor, caplog):
        for _ in range(2):
            outcomes = list(executor.run(jobs.sleep, [0, 0.3], deadline_s=0.1))
            assert [outcome.state for outcome in outcomes] == ["done", "timed out"]
        assert caplog.messages == [
            "A deadline cannot stop a job that runs in this process. "
            "Use at least 2 workers."
        ]

    def test_interruption_is_not_an_outcome(self, executor):
        def interrupt(_):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            list(executor.run(interrupt, [1]))


@pytest.fixture(scope="module")
def processes():
    with executor(2) as pool:
        yield pool


class TestProcesses(ProcessContract):
    @pytest.fixture
    def executor(self, processes):
        return processes


def test_workers_are_kept_between_runs():
    with executor(2) as pool:
        first = {outcome.value for outcome in pool.run(jobs.process_id, range(20))}
        second = set(pool.map(jobs.process_id, range(20)))
    assert len(first) == 2
    assert first == second
    assert os.getpid() not in first


def test_single_item_runs_in_this_process():
    with executor(2) as pool:
        assert list(pool.map(jobs.process_id, [0])) == [os.getpid()]


def test_death_costs_no_job_that_waits_in_the_worker():
    with executor(1) as serial:
        assert isinstance(serial, Serial)
    pool = Processes(1)
    outcomes = list(pool.run(jobs.die_on_three, [3, 1, 3, 2]))
    pool.close()
    assert [(o.job, o.state) for o in outcomes] == [
        (3, "died"),
        (1, "done"),
        (3, "died"),
        (2, "done"),
    ]


def test_second_run_is_refused_while_the_first_is_in_progress():
    with executor(2) as pool:
        first = pool.run(jobs.double, range(5))
        next(first)
        with pytest.raises(RuntimeError, match="A run is in progress"):
            next(pool.run(jobs.double, range(5)))
        assert len(list(first)) == 4


@pytest.mark.slow
def test_closed_iterator_drops_waiting_jobs_and_finishes_running_ones(tmp_path):
    paths = [str(tmp_path / f"slow{n}") for n in range(6)]
    with executor(2) as pool:
        list(pool.run(jobs.double, range(4)))
        outcomes = pool.run(jobs.record, paths)
        done = next(outcomes).job
        outcomes.close()
    written = [path for path in paths if Path(path).exists()]
    assert done in written
    assert 2 <= len(written) <= 4


def test_large_results_do_not_block_the_end():
    with executor(2) as pool:
        next(iter(pool.run(jobs.large, range(6))))
        start = time.monotonic()
    assert time.monotonic() - start < 20


def test_auto_uses_all_cores():
    with executor("auto") as pool:
        assert pool.workers == usable_cores()


def test_killed_idle_worker_is_replaced():
    with executor(2) as pool:
        ids = {outcome.value for outcome in pool.run(jobs.process_id, range(20))}
        for process in multiprocessing.active_children():
            if process.pid in ids:
                process.kill()
                process.join()
        assert {o.state for o in pool.run(jobs.double, range(5))} == {"done"}


def test_second_interruption_kills_running_jobs(tmp_path, monkeypatch):
    path = tmp_path / "begun"

    def interrupt(*_):
        if path.exists():
            raise KeyboardInterrupt
        return False

    def work():
        with executor(2) as pool:
            list(pool.run(jobs.record_and_hang, [str(path)], cancelled=interrupt))

    monkeypatch.setattr(_Worker, "finish", interrupt)
    others = set(multiprocessing.active_children())  # those of the fixture
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        work()
    assert time.monotonic() - start < jobs.LONG_S / 2
    assert set(multiprocessing.active_children()) <= others
