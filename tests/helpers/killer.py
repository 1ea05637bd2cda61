"""Run codexseg and kill it (SIGKILL) before its n-th file is put in place.

``python -m tests.helpers.killer N ARGUMENTS...``. With N = 0 the command completes and
prints the number of files.
"""

import os
import pathlib
import signal
import sys
from itertools import count

from codexseg.cli.app import app


def main() -> None:
    """Replace `Path.replace`, which puts files in place, and run the command."""
    n, calls, replace = int(sys.argv[1]), count(1), pathlib.Path.replace

    def replace_or_die(self: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
        if next(calls) == n:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(self, target)

    pathlib.Path.replace = replace_or_die  # type: ignore[assignment,method-assign]
    app(sys.argv[2:], standalone_mode=False)
    sys.stdout.write(f"files {next(calls) - 1}\n")


if __name__ == "__main__":
    main()
