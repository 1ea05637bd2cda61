"""Run codexseg and die (SIGKILL) at the n-th file that would be put in place.

``python -m tests.killer N WORDS...``; N = 0 lives, and prints how many files there were.
"""

import os
import pathlib
import signal
import sys
from itertools import count

from codexseg.cli.app import app


def main() -> None:
    n, calls, replace = int(sys.argv[1]), count(1), pathlib.Path.replace

    def deadly(self: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
        if next(calls) == n:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(self, target)

    pathlib.Path.replace = deadly
    app(sys.argv[2:], standalone_mode=False)
    sys.stdout.write(f"files {next(calls) - 1}\n")


if __name__ == "__main__":
    main()
