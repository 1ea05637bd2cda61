"""Executor contract: tests that every implementation of `Executor` passes.

Subclass `ExecutorContract` and define a fixture `executor` that yields an executor.
"""

import pytest

from codexseg.errors import WorkerDied
from tests.execution import jobs

JOBS = range(8)
OTHERS = sorted({*JOBS} - {3})


def by_job(outcomes):
    """Return the outcomes by job; each job has exactly one."""
    outcomes = list(outcomes)
    assert len({outcome.job for outcome in outcomes}) == len(outcomes)
    return {outcome.job: outcome for outcome in outcomes}


def assert_others_done(outcomes):
    """Check that all jobs but job 3 have their results."""
    others = [outcome for job, outcome in sorted(outcomes.items()) if job != 3]
    assert [outcome.state for outcome in others] == ["done"] * len(OTHERS)
    assert [outcome.value for outcome in others] == OTHERS


class ExecutorContract:
    """Tests of `run` and `map` that hold for every executor."""

    def test_each_job_has_one_outcome_with_its_value(self, executor):
        outcomes = by_job(executor.run(jobs.double, JOBS))
        assert {job: outcome.value for job, outcome in outcomes.items()} == {
            job: 2 * job for job in JOBS
        }
        assert {outcome.state for outcome in outcomes.values()} == {"done"}
        assert {outcome.error for outcome in outcomes.values()} == {None}

    def test_without_jobs_there_is_no_outcome(self, executor):
        assert list(executor.run(jobs.double, [])) == []

    def test_executor_can_run_again(self, executor):
        for _ in range(2):
            assert len(by_job(executor.run(jobs.double, JOBS))) == len(JOBS)
        executor.close()
        assert len(by_job(executor.run(jobs.double, JOBS))) == len(JOBS)

    def test_jobs_are_read_lazily(self, executor):
        taken = []
        outcomes = executor.run(jobs.double, (taken.append(n) or n for n in range(100)))
        next(outcomes)
        assert len(taken) <= 2 * executor.workers + 1
        assert len(list(outcomes)) == 99

    def test_failure_is_reported_with_its_traceback(self, executor):
        outcomes = by_job(executor.run(jobs.fail_on_three, JOBS))
        assert_others_done(outcomes)
        assert outcomes[3].state == "failed"
        assert repr(outcomes[3].error) == "ValueError('job 3')"
        assert "in fail_on_three" in outcomes[3].traceback
        with pytest.raises(ValueError, match="job 3"):
            outcomes[3].result()

    def test_system_exit_is_a_failure(self, executor):
        outcomes = by_job(executor.run(jobs.exit_on_three, JOBS))
        assert_others_done(outcomes)
        assert outcomes[3].state == "failed"
        assert isinstance(outcomes[3].error, SystemExit)

    def test_cancelled_waiting_job_does_not_run(self, executor, tmp_path):
        paths = [str(tmp_path / name) for name in ("slow", "slow too", "c", "d", "e", "f")]
        cancelled = set(paths[3:])
        outcomes = by_job(
            executor.run(jobs.record, paths, cancelled=lambda path: path in cancelled)
        )
        assert [outcomes[path].state for path in paths] == ["done"] * 3 + ["cancelled"] * 3
        assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "slow", "slow too"]

    def test_map_yields_values(self, executor):
        assert sorted(executor.map(jobs.double, JOBS)) == [2 * job for job in JOBS]

    def test_map_raises_the_first_failure(self, executor):
        with pytest.raises(ValueError, match="job 3"):
            list(executor.map(jobs.fail_on_three, JOBS))

    def test_deadline_leaves_short_jobs_alone(self, executor):
        assert {o.state for o in executor.run(jobs.double, JOBS, deadline_s=60)} == {"done"}


class ProcessContract(ExecutorContract):
    """Tests of executors that run jobs in other processes."""

    @pytest.mark.parametrize(
        ("function", "reason"),
        [(jobs.die_on_three, "signal 9"), (jobs.leave_on_three, "exit code 0")],
    )
    def test_death_of_a_worker_is_the_outcome_of_its_job(self, executor, function, reason):
        outcomes = by_job(executor.run(function, JOBS))
        assert_others_done(outcomes)
        assert outcomes[3].state == "died"
        assert isinstance(outcomes[3].error, WorkerDied)
        assert reason in str(outcomes[3].error)

    def test_hanging_job_ends_at_its_deadline(self, executor):
        outcomes = by_job(executor.run(jobs.hang_on_three, JOBS, deadline_s=2))
        assert_others_done(outcomes)
        assert outcomes[3].state == "timed out"
        assert str(outcomes[3].error) == "Job took longer than its deadline of 2 s."

    def test_cancelled_running_job_is_ended(self, executor, tmp_path):
        path = tmp_path / "begun"
        outcomes = list(
            executor.run(
                jobs.record_and_hang, [str(path)], cancelled=lambda _: path.exists()
            )
        )
        assert [outcome.state for outcome in outcomes] == ["cancelled"]

    def test_function_that_cannot_be_imported_is_refused(self, executor):
        with pytest.raises(TypeError, match="imported from a module file"):
            list(executor.run(lambda job: job, JOBS))

    def test_job_that_cannot_be_pickled_fails_alone(self, executor):
        good, bad = 1, open(__file__)  # noqa: PTH123, SIM115
        with bad:
            outcomes = by_job(executor.run(jobs.double, [good, bad]))
        assert outcomes[good].state == "done"
        assert outcomes[bad].state == "failed"
        assert "Cannot send" in str(outcomes[bad].error)

    def test_result_that_cannot_be_pickled_is_a_failure(self, executor):
        (outcome,) = executor.run(jobs.return_lambda, [1])
        assert outcome.state == "failed"
        assert "pickle" in str(outcome.error)

    def test_exception_that_cannot_be_pickled_keeps_its_text(self, executor):
        (outcome,) = executor.run(jobs.raise_unpicklable, [1])
        assert outcome.state == "failed"
        assert str(outcome.error) == "UnpicklableError: two words"
        assert "in raise_unpicklable" in outcome.traceback

    def test_map_raises_the_death_of_a_worker(self, executor):
        with pytest.raises(WorkerDied):
            list(executor.map(jobs.die_on_three, JOBS))

    def test_map_replaces_an_item_that_kills_its_worker(self, executor):
        deaths = []

        def died(job):
            deaths.append(job)
            return [10, 11]

        values = executor.map(jobs.die_on_three, JOBS, died=died)
        assert sorted(values) == [*OTHERS, 10, 11]
        assert deaths == [3]
