"""CPU time of each stage for a slide of a million cells.

``python -m tests.benchmarks.million [--size 28672] [--workers 2]``

Runs the pipeline with the cheap segmenter and all default outputs, with compiled kernels.
Peak memory (MiB) is anonymous and shared memory of the process tree. driver_cpu_s is the
CPU of the process that distributes the work (with one worker, it does all of it). share is
relative to the CPU of the whole command; other_cpu_s is the CPU outside the stages, mainly
to start the processes.
"""

import argparse
import json
import tempfile
from pathlib import Path

from tests.benchmarks.common import (
    bench_image,
    cells_of,
    cheap_config,
    codexseg_run,
    measured,
    stage_times,
)

WARM_SIZE = 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=28672)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        warm = cheap_config(folder, bench_image(WARM_SIZE), WARM_SIZE // 2)
        measured(codexseg_run(warm, folder / "warm", options.workers))
        run, config = folder / "run", cheap_config(folder, bench_image(options.size))
        figures = measured(codexseg_run(config, run, options.workers))
        cells, stages = cells_of(run), stage_times(run, options.workers)
    for times in stages.values():
        times["share"] = round(times["cpu_s"] / figures["cpu_s"], 3)
    other = figures["cpu_s"] - sum(times["cpu_s"] for times in stages.values())
    result = {
        **figures,
        "cells": cells,
        "cells_per_s": round(cells / figures["wall_s"]),
        "stages": stages,
        "other_cpu_s": round(other, 2),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
