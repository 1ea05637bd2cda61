"""SIGTERM and Ctrl-C end a command by an exception, wherever they find it."""

import os
import signal
import sys
from threading import Timer
from typing import Any

_AGAIN_S = 0.1


class Terminated(BaseException):
    """SIGTERM: a scheduler's time limit, for instance."""


def listen() -> None:
    """Raise `Terminated` on SIGTERM; what gets lost on the way is sent again.

    A signal that finds Python in a callback of C code, such as those of numba's compiler,
    raises there, and C cannot pass it on: Python reports it as ignored.
    """
    signal.signal(signal.SIGTERM, _terminate)
    sys.unraisablehook = _send_again


def _terminate(*_: object) -> None:
    raise Terminated


def _send_again(ignored: Any) -> None:
    kind = ignored.exc_type
    for stop, number in (
        (Terminated, signal.SIGTERM),
        (KeyboardInterrupt, signal.SIGINT),
    ):
        if issubclass(kind, stop):
            Timer(_AGAIN_S, os.kill, (os.getpid(), number)).start()
            return
    sys.__unraisablehook__(ignored)
