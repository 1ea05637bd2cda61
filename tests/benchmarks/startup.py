"""CPU seconds of ``codexseg --help``: the median of five."""

import json
import os
import statistics
import subprocess
import sys


def main() -> None:
    seconds = []
    for _ in range(5):
        before = os.times()
        subprocess.run(
            [sys.executable, "-m", "codexseg", "--help"], capture_output=True, check=True
        )
        after = os.times()
        used = after.children_user + after.children_system
        seconds.append(used - before.children_user - before.children_system)
    print(json.dumps({"cpu_s": round(statistics.median(seconds), 3)}))


if __name__ == "__main__":
    main()
