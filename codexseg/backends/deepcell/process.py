"""A process that answers a line of JSON with a line of JSON."""

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
    """The process is gone: how it ended, and what it said last."""


class JsonProcess:
    """A process that reads requests from stdin and writes answers to stdout.

    It is ended with this object, and with this process at the latest: its stdin is closed
    then. What it says on stderr is read all the time, and its last lines are kept.

    Parameters
    ----------
    command : sequence of str
        What to run.
    env : mapping
        Its environment, whole.
    keys : set of str
        An answer has one of them. Other lines on stdout, of a wrapper or a sitecustomize
        for instance, are treated like those on stderr.

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
                text=True,
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
        """Send a request and :meth:`hear` its answer."""
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):  # hear() says why
                self._process.stdin.write(json.dumps(request) + "\n")
                self._process.stdin.flush()
        return self.hear()

    def hear(self) -> dict[str, Any]:
        """Wait for the next answer, however long it takes.

        Where waiting is interrupted, the process is killed: its answer would be taken for
        that to the next request.

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
        said = "".join(f"\n  {line.rstrip()}" for line in tuple(self._tail))
        raise ProcessEnded(
            f"{_how(self._process.returncode)}. It said last:{said or ' nothing'}"
        )

    def kill(self) -> None:
        """End the process in the middle of what it does."""
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
    """Close stdin, at which the process ends, and wait until it has."""
    if os.getpid() != owner:
        return  # in a fork of the owner, who still needs it
    if process.stdin is not None:
        with suppress(BrokenPipeError):  # for what it has not read
            process.stdin.close()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _how(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    known = {member.value: member.name for member in signal.Signals}
    return f"was killed by signal {-code} ({known.get(-code, 'unknown')})"
