"""Signals during callbacks from C code."""

import subprocess
import sys

import pytest

from tests.helpers.runs import ROOT

SCRIPT = """
import ctypes, os, signal, sys, time, typer
from codexseg.cli.interrupts import exit_when_stopped

@ctypes.CFUNCTYPE(None)
def callback():
    os.kill(os.getpid(), signal.{name})
    for _ in range(1000):
        pass

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
try:
    with exit_when_stopped("interrupted in a callback."):
        callback()
        time.sleep(20)
except typer.Exit as stop:
    sys.exit(stop.exit_code)
"""


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_signal_in_c_callback_stops_the_command(name, code):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(name=name)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert done.stderr == "\ncodexseg: interrupted in a callback.\n"
