"""Commands in other processes."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def run_captured(
    command: Sequence[str | Path], *, stderr: int = subprocess.PIPE, **options: Any
) -> "subprocess.CompletedProcess[str]":
    """Run a command without input, and capture its output as text.

    Parameters
    ----------
    command : sequence of str or Path
        Program and arguments.
    stderr : int
        As in :func:`subprocess.run`; by default it is captured apart from stdout.
    **options
        Further arguments of :func:`subprocess.run`, such as `cwd`, `env` and `timeout`.

    Raises
    ------
    OSError
        If the program cannot be started.
    subprocess.TimeoutExpired
        If it does not end within `timeout` seconds.
    """
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        errors="replace",
        check=False,
        **options,
    )
