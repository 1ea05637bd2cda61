"""Throughput and memory of Mesmer's network for image sizes, patch counts and budgets.

``python -m tests.benchmarks.mesmer_batching [--network full] [--repeat 1]``

For each of three patch sizes, three numbers of patches and three memory budgets
(segmentation.batch_memory_gb), a separate process segments the patches as independent
images, with a network of the size of Mesmer. Prints one line per case on stderr (tiles per
second, CPU seconds per tile, peak memory above the loaded model) and one JSON line with all
cases and the budget with the fewest CPU seconds per tile.
"""

import argparse
import json
import statistics
import subprocess
import sys
from itertools import product

from tests.benchmarks.common import ROOT, toy
from tests.benchmarks.mesmer_runtime import full_network

SIDES, COUNTS, BUDGETS_GB = (256, 512, 832), (1, 2, 4), (0.12, 0.5, 2.0)
RUN = """
import json, sys, time, threading
from pathlib import Path
import numpy as np, psutil
from codexseg.backends.base import SlideContext
from codexseg.backends.panoptic.backend import Panoptic
from codexseg.backends.networks.runtime import Batch, open_network
from codexseg.backends.networks.weights import resolve_weights
from codexseg.config.schema import SegmentationConfig
from codexseg.core.grid import Window
from codexseg.core.algorithms.tiles import TileGrid
from codexseg.execution.process import prepare_process
prepare_process()
path, side, count, budget = Path(sys.argv[1]), *map(float, sys.argv[2:])
side, count = int(side), int(count)
images = np.random.default_rng(0).integers(0, 5000, (count, 2, side, side), np.uint16)
config = SegmentationConfig(backend="panoptic", model_path=path, batch_memory_gb=budget)
backend = Panoptic(config, SlideContext((side, side), 0.5))
network = open_network(resolve_weights(path))
network.predict(np.zeros((1, 256, 256, 2), np.float32))
process, peak, done = psutil.Process(), [0], threading.Event()
loaded = process.memory_full_info().uss
def watch():
    while not done.wait(0.02):
        peak[0] = max(peak[0], process.memory_full_info().uss)
threading.Thread(target=watch, daemon=True).start()
wall, cpu = time.perf_counter(), time.process_time()
backend.predict(images, [Window(0, 0, side, side)] * count)
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
done.set()
rows, columns = TileGrid((side, side)).counts
tiles = count * rows * columns
print(json.dumps({
    "side": side, "patches": count, "budget_gb": budget, "batch": Batch(budget).size,
    "tiles": tiles, "tiles_per_s": round(tiles / wall, 3),
    "cpu_s_per_tile": round(cpu / tiles, 3),
    "above_model_mb": round((peak[0] - loaded) / 2**20),
}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=["toy", "full"], default="full")
    options = parser.parse_args()
    network = toy() / "toy.onnx" if options.network == "toy" else full_network()[1]
    rows = []
    for case in product(SIDES, COUNTS, BUDGETS_GB):
        words = [str(number) for number in case]
        command = [sys.executable, "-c", RUN, str(network), *words]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(done.stderr)
        line = done.stdout.splitlines()[-1]
        print(line, file=sys.stderr)
        rows.append(json.loads(line))
    per_budget = {
        str(gb): statistics.median(
            r["cpu_s_per_tile"] for r in rows if r["budget_gb"] == gb
        )
        for gb in BUDGETS_GB
    }
    peaks = {
        str(gb): max(r["above_model_mb"] for r in rows if r["budget_gb"] == gb)
        for gb in BUDGETS_GB
    }
    best = min(per_budget, key=lambda gb: per_budget[gb])
    print(
        json.dumps(
            {
                "cpu_s_per_tile": per_budget,
                "above_model_mb": peaks,
                "best_budget_gb": float(best),
                "rows": rows,
            }
        )
    )


if __name__ == "__main__":
    main()
