"""Jobs of the executor tests: functions that worker processes can import."""

import os
import signal
import time
from pathlib import Path

LONG_S = 60


def double(job: int) -> int:
    """Return twice the number."""
    return 2 * job


def fail_on_three(job: int) -> int:
    """Raise for job 3."""
    if job == 3:
        raise ValueError(f"job {job}")
    return job


def exit_on_three(job: int) -> int:
    """Raise SystemExit for job 3."""
    if job == 3:
        raise SystemExit(5)
    return job


def die_on_three(job: int) -> int:
    """Kill the process for job 3, as the system does when memory runs out."""
    if job == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return job


def leave_on_three(job: int) -> int:
    """End the process with exit code 0 for job 3."""
    if job == 3:
        os._exit(0)
    return job


def hang_on_three(job: int) -> int:
    """Sleep for a minute in job 3."""
    if job == 3:
        time.sleep(LONG_S)
    return job


def sleep(seconds: float) -> float:
    """Sleep, and return the duration."""
    time.sleep(seconds)
    return seconds


def record(path: str) -> str:
    """Create a file; wait a moment before if its name starts with "slow"."""
    time.sleep(1 if Path(path).name.startswith("slow") else 0)
    Path(path).touch()
    return path


def record_and_hang(path: str) -> str:
    """Create a file, then sleep for a minute."""
    Path(path).touch()
    time.sleep(LONG_S)
    return path


def process_id(_: object) -> int:
    """Return the id of the process after a moment, so that all workers get jobs."""
    time.sleep(0.05)
    return os.getpid()


def return_lambda(_: object) -> object:
    """Return an object that pickle refuses."""
    return lambda: 0


class UnpicklableError(Exception):
    """Exception that pickle cannot restore."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


def raise_unpicklable(_: object) -> None:
    """Raise an exception that pickle cannot restore."""
    raise UnpicklableError("two", "words")


def large(_: object) -> bytes:
    """Return more than a pipe holds."""
    return bytes(1 << 22)


def short(job: int) -> int:
    """Return the job after a moment."""
    time.sleep(0.05)
    return job
