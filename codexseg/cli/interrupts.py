"""Stop a command on Ctrl-C (exit code 130) or SIGTERM (143)."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer
from typing import Any

import typer

_RESEND_S = 0.1


class Terminated(BaseException):
    """SIGTERM, for instance at the time limit of a scheduler."""


@contextmanager
def exit_when_stopped(message: str) -> Iterator[None]:
    """Print a message after Ctrl-C or SIGTERM, and exit with code 130 or 143."""
    signal.signal(signal.SIGTERM, _terminate)
    sys.unraisablehook = _resend
    try:
        yield
    except (KeyboardInterrupt, Terminated) as stop:
        typer.echo(f"\ncodexseg: {message}", err=True)
        raise typer.Exit(143 if isinstance(stop, Terminated) else 130) from None


def _terminate(*_: object) -> None:
    raise Terminated


def _resend(ignored: Any) -> None:
    """Send a signal again that Python has ignored.

    A signal handler that runs inside a C callback, such as those of numba's compiler,
    cannot raise through C: Python reports the exception as ignored.
    """
    for stop, number in ((Terminated, signal.SIGTERM), (KeyboardInterrupt, signal.SIGINT)):
        if issubclass(ignored.exc_type, stop):
            Timer(_RESEND_S, os.kill, (os.getpid(), number)).start()
            return
    sys.__unraisablehook__(ignored)
