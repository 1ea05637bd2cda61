"""The whole pipeline with a cheap segmenter: the cost of the framework.

python -m tests.benchmarks.pipeline --size 4096 --workers 1 [--patch 1000] [--peer sopa]
                                    [--same-bytes] [--against CHECKOUT --rounds 3]

Prints CPU seconds and peak memory of the whole command (with imports; anonymous and shared
memory of the process tree), its cells, the cells of the same segmentation of the untiled
image, and how many of these the run has with exactly the same pixels.

total_cpu_s is the CPU of the stages from segment to profile, serial_cpu_s the share of the
driver (null with one worker, which is the driver), stage_cpu_s the CPU of every stage.
``--against`` runs this and another checkout alternately; against has the figures of each
round and side, and the ratio of the medians of total_cpu_s (other / this).
``--same-bytes`` with several workers repeats the run with one: same_bytes is true if all
outputs without times are identical; differences are listed on stderr. ``--peer sopa`` runs
sopa 2.2.11 on the same slide, in a separate environment.
"""

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import tifffile
import zarr
from numpy.typing import NDArray

from tests.benchmarks.cheap_backend import cheap_segmenter
from tests.benchmarks.common import (
    ROOT,
    bench_image,
    cheap_config,
    codexseg_run,
    environment,
    measured,
    shared,
    stage_times,
)

PEER = ["sopa==2.2.11", "setuptools<81"]
STAGES = ("segment", "stitch", "repair", "profile")
HAVE_TIMES = {"timings.csv", "run.log", "report.html", ".lock", "work", "stages"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--patch", type=int, default=2048)
    parser.add_argument("--peer", choices=["sopa"])
    parser.add_argument("--same-bytes", action="store_true")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    image = bench_image(options.size)
    with tempfile.TemporaryDirectory() as folder:
        config = cheap_config(Path(folder), image, options.patch)
        figures = ours(image, config, Path(folder), options.workers)
        if options.same_bytes and options.workers > 1:
            measured(codexseg_run(config, Path(folder) / "one", 1))
            figures["same_bytes"] = same_bytes(Path(folder) / "run", Path(folder) / "one")
        if options.against:
            sides = {"this": ROOT, "other": options.against.resolve()}
            figures["against"] = alternately(config, sides, options)
        if options.peer:
            peer = theirs(image, Path(folder))
            figures |= {f"peer_{key}": value for key, value in peer.items()}
            figures["ratio"] = round(peer["cpu_s"] / figures["cpu_s"], 2)
    print(json.dumps(figures))


def ours(image: Path, config: Path, folder: Path, workers: int) -> dict[str, Any]:
    """Run codexseg twice, first to compile, and compare with the untiled image."""
    run = folder / "run"
    measured(codexseg_run(config, folder / "warm", workers))
    figures = measured(codexseg_run(config, run, workers))
    by_stage = stage_times(run, workers)
    times = [by_stage[stage] for stage in STAGES]
    serial_cpu_s = sum(stage["driver_cpu_s"] for stage in times)
    labels = np.asarray(
        zarr.open_array(run / "segmentation.ome.zarr/labels/cell/0", mode="r")
    )
    untiled = cheap_segmenter().segment(tifffile.imread(image, key=0)[None])
    return {
        **figures,
        "serial_cpu_s": round(serial_cpu_s, 2) if workers > 1 else None,
        "total_cpu_s": round(sum(stage["cpu_s"] for stage in times), 2),
        "stage_cpu_s": {stage: used["cpu_s"] for stage, used in by_stage.items()},
        "cells": int(labels.max()),
        "cells_untiled": int(untiled.max()),
        "identical_cells": identical(labels, untiled),
    }


def alternately(
    config: Path, sides: dict[str, Path], options: argparse.Namespace
) -> dict[str, Any]:
    """Run each checkout in turn, after one run of each to compile."""
    rounds: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for number in range(options.rounds + 1):
        for side, root in sides.items():
            run = config.parent / f"{side}_{number}"
            figures = measured(codexseg_run(config, run, options.workers), root)
            times = stage_times(run, options.workers)
            stages = {stage: times[stage]["cpu_s"] for stage in STAGES}
            total = round(sum(stages.values()), 2)
            rounds[side].append({**figures, "total_cpu_s": total, "stage_cpu_s": stages})
            shutil.rmtree(run)
    kept = {side: figures[1:] for side, figures in rounds.items()}
    medians = {side: median(f["total_cpu_s"] for f in kept[side]) for side in sides}
    return {**kept, "ratio": round(medians["other"] / medians["this"], 2)}


def theirs(image: Path, folder: Path) -> dict[str, float]:
    """Run sopa; make its environment on first use."""
    python = environment("sopa", PEER)
    script = shared() / "bench" / "run_sopa.py"
    return measured([str(python), str(script), str(image), str(folder / "sopa")])


def same_bytes(run: Path, other: Path) -> bool:
    """Return whether two runs are identical but for times; list differences on stderr."""
    first, second = digests(run), digests(other)
    differ = [name for name in first | second if first.get(name) != second.get(name)]
    for name in differ:
        print(f"differs: {name}", file=sys.stderr)
    return not differ


def digests(run: Path) -> dict[str, str]:
    """Hash every file without times, and the result part of manifest.json."""
    hashes = {}
    for path in sorted(run.rglob("*")):
        name = path.relative_to(run)
        if path.is_file() and name.parts[0] not in HAVE_TIMES:
            with path.open("rb") as file:
                hashes[str(name)] = hashlib.file_digest(file, "sha256").hexdigest()
    manifest = json.loads((run / "manifest.json").read_text("utf-8"))
    return hashes | {"manifest.json": json.dumps(manifest["result"], sort_keys=True)}


def identical(labels: NDArray[np.uint32], reference: NDArray[np.int32]) -> int:
    """Count the objects of the reference that `labels` has with exactly the same pixels."""
    width = int(reference.max()) + 1
    joint = labels.astype(np.int64) * width + reference
    pairs, shared_px = np.unique(joint[joint > 0], return_counts=True)
    pairs = np.stack(np.divmod(pairs, width))
    area = [np.bincount(image.ravel()) for image in (labels, reference)]
    same = (shared_px == area[0][pairs[0]]) & (shared_px == area[1][pairs[1]])
    return int(np.count_nonzero(same & (pairs > 0).all(axis=0)))


if __name__ == "__main__":
    main()
