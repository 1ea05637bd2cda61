"""Signals that arrive while Python runs in a callback of C code."""

import subprocess
import sys

import pytest

from tests.helpers.runs import ROOT

SCRIPT = """
import ctypes, os, signal, sys, time
from codexseg.cli.interrupts import Terminated, listen

@ctypes.CFUNCTYPE(None)
def callback():
    os.kill(os.getpid(), signal.{name})
    for _ in range(1000):
        pass

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in background jobs
listen()
try:
    callback()
    time.sleep(20)
except (Terminated, KeyboardInterrupt) as stop:
    sys.exit({{"Terminated": 143, "KeyboardInterrupt": 130}}[type(stop).__name__])
"""


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_signal_in_a_callback_ends_the_command(name, code):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(name=name)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
