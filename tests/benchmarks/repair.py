"""Repair of 4096 x 4096 px with 18,860 cells, compared with a plain numpy reference.

python -m tests.benchmarks.repair
prints {"cpu_s", "bytes_per_px", "cells", "cells_per_s", "reference_cpu_s", "ratio"}.
CPU seconds are the minimum of three runs with compiled kernels. Bytes per pixel are the
peak of a new process minus its memory after loading and compiling.
"""

import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from codexseg.repair_masks import repair_masks_batch
from tests.benchmarks.common import shared

ROUNDS = 3


def tile(labels):
    """Repeat a label image 2 x 2, each copy with labels of its own."""
    step = int(labels.max())
    copies = [np.where(labels > 0, labels + np.uint32(i * step), 0) for i in range(4)]
    return np.block([copies[:2], copies[2:]]).astype(np.uint32)


def cpu_seconds(function, *arguments):
    seconds = []
    for _ in range(ROUNDS):
        start = time.process_time()
        function(*arguments)
        seconds.append(time.process_time() - start)
    return min(seconds)


def memory(field):
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split(f"{field}:")[1].split()[0])


def measure_bytes(folder):
    """Print the bytes per pixel of one repair; called in a separate process."""
    cells, nuclei = (np.load(Path(folder) / f"{name}.npy") for name in ("cell", "nucleus"))
    repair_masks_batch([{"cell": cells[:64, :64], "nucleus": nuclei[:64, :64]}])
    before = memory("VmRSS")
    repaired = repair_masks_batch([{"cell": cells, "nucleus": nuclei}])
    print((memory("VmHWM") - before) / repaired[0]["cell_matched_mask"].size)


def main():
    given = np.load(shared() / "oracles" / "repair" / "t5k.input.npz")
    cells, nuclei = tile(given["cell"]), tile(given["nucleus"])
    path = shared() / "prototypes" / "repair_reference.py"
    spec = importlib.util.spec_from_file_location("repair_reference", path)
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)

    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "cell.npy", cells)
        np.save(Path(folder) / "nucleus.npy", nuclei)
        command = [sys.executable, "-m", "tests.benchmarks.repair", "--bytes", folder]
        size = float(subprocess.check_output(command, text=True))

    batch = [{"cell": cells, "nucleus": nuclei}]
    repair_masks_batch(batch)
    cpu_s = cpu_seconds(repair_masks_batch, batch)
    reference_cpu_s = cpu_seconds(reference.repair_reference, cells, nuclei)
    n_cells = len(np.unique(cells)) - 1
    figures = {
        "cpu_s": round(cpu_s, 3),
        "bytes_per_px": round(size, 1),
        "cells": n_cells,
        "cells_per_s": round(n_cells / cpu_s),
        "reference_cpu_s": round(reference_cpu_s, 3),
        "ratio": round(reference_cpu_s / cpu_s, 1),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--bytes"]:
        measure_bytes(sys.argv[2])
    else:
        main()
