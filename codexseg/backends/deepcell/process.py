"""Process that answers a line of JSON with a line of JSON."""

import json
import os
import signal
import subprocess
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from threading import Thread
from typing import Any, TextIO

_TAIL_LINES = 20
_END_S = 10


class ProcessEnded(Exception):
    """The process has ended; the message contains the exit code and its last output."""


class JsonProcess:
    """Process that reads requests from stdin and writes answers to stdout.

    It ends when its stdin is closed: with this object, at the latest with this process.
    Its stderr is read continuously, and the last lines are kept.

    Parameters
    ----------
    command : sequence of str
        Program and arguments.
    env : mapping
        Complete environment.
    keys : set of str
        An answer has one of them. Other lines on stdout, from a wrapper or a
        sitecustomize, are treated as stderr.

    Raises
    ------
    ProcessEnded
        If it cannot be started.
    """

    def __init__(
        self, command: Sequence[str], env: Mapping[str, str], keys: set[str]
    ) -> None:
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                env=env,
            )
        except OSError as error:
            raise ProcessEnded(f"cannot be started: {error}") from error
        self._keys = keys
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        stderr = self._process.stderr
        self._drain = Thread(target=_drain, args=(stderr, self._tail), daemon=True)
        self._drain.start()
        self._end = weakref.finalize(self, _end, self._process, os.getpid())

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send a request and :meth:`receive` its answer."""
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):  # receive() raises the reason
                self._process.stdin.write(json.dumps(request) + "\n")
                self._process.stdin.flush()
        return self.receive()

    def receive(self) -> dict[str, Any]:
        """Wait for the next answer, without a time limit.

        An interruption kills the process, as its answer would be mistaken for that to the
        next request.

        Raises
        ------
        ProcessEnded
            If the process ends instead.
        """
        try:
            for line in self._process.stdout or ():
                if answer := self._parsed(line):
                    return answer
                self._tail.append(line)
        except BaseException:
            self.kill()
            raise
        self._end()
        self._drain.join(_END_S)
        output = "".join(f"\n  {line.rstrip()}" for line in tuple(self._tail))
        raise ProcessEnded(
            f"{_exit_reason(self._process.returncode)}. Last output:{output or ' none'}"
        )

    def kill(self) -> None:
        """Kill the process."""
        if self._end.alive:
            self._process.kill()
            self._end()

    def _parsed(self, line: str) -> dict[str, Any] | None:
        try:
            answer = json.loads(line)
        except json.JSONDecodeError:
            return None
        is_answer = isinstance(answer, dict) and not self._keys.isdisjoint(answer)
        return answer if is_answer else None


def _drain(stream: TextIO, tail: deque[str]) -> None:
    with stream:
        tail.extend(stream)


def _end(process: "subprocess.Popen[str]", owner: int) -> None:
    """Close stdin, which ends the process, and wait for it."""
    if os.getpid() != owner:
        return  # in a fork; the owner still needs the process
    if process.stdin is not None:
        with suppress(BrokenPipeError):  # unread requests
            process.stdin.close()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _exit_reason(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    known = {member.value: member.name for member in signal.Signals}
    return f"was killed by signal {-code} ({known.get(-code, 'unknown')})"
