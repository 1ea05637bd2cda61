"""Peak memory of runs on slides of several sizes; it must not grow with the slide.

``python -m tests.benchmarks.memory --sizes 4096 8192 16384 [--workers 2]``

Runs the whole pipeline with the cheap segmenter and all default outputs. Peaks (MiB) are
anonymous and shared memory of the process tree; mapped file pages do not count. Tables may
grow: allowance_mb is 100 bytes per cell and channel. flat is the peak minus the allowance,
relative to the smallest size.
"""

import argparse
import json
import tempfile
from pathlib import Path

import tifffile

from tests.benchmarks.common import (
    bench_image,
    cells_of,
    cheap_config,
    codexseg_run,
    measured,
)

BYTES_PER_CELL_AND_CHANNEL = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[4096, 8192, 16384])
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    sizes = sorted(options.sizes)
    peaks, allowances, cells = [], [], []
    for size in (sizes[0], *sizes):
        peak, allowance, count = run_of(size, options.workers)
        peaks.append(peak)
        allowances.append(allowance)
        cells.append(count)
    left = [peak - table for peak, table in zip(peaks[1:], allowances[1:], strict=True)]
    figures = {
        "sizes": sizes,
        "peak_mb": peaks[1:],  # without the first run, which compiles
        "allowance_mb": allowances[1:],
        "flat": [round(peak / left[0], 3) for peak in left],
        "cells": cells[1:],
    }
    print(json.dumps(figures))


def run_of(size: int, workers: int) -> tuple[float, float, int]:
    """Return the peak of a run (MiB), the allowance of its tables (MiB), and its cells."""
    image = bench_image(size)
    with tifffile.TiffFile(image) as file:
        channels = len(file.pages)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = cheap_config(folder, image)
        peak = measured(codexseg_run(config, folder / "run", workers))["peak_mb"]
        cells = cells_of(folder / "run")
    allowance = BYTES_PER_CELL_AND_CHANNEL * cells * channels / 2**20
    return peak, round(allowance, 1), cells


if __name__ == "__main__":
    main()
