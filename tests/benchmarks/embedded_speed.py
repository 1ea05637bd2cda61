"""CPU seconds per Mpx of the embedded network and of InstanSeg; prints one JSON line.

``python -m tests.benchmarks.embedded_speed [--model NET.onnx] [--side 1024] [--repeats 5]``

Both turn the same part of data/nsclc (DAPI and pan-cytokeratin, 0.5 um per px, full of
tissue) into labels of cells and nuclei, one after the other on the same machine. Seconds
are those of the process, threads included; the first run of each is not counted. Ours is
the median of the repeats, the whole backend from grey levels to labels (its `predict`).
InstanSeg is the median of two: the TorchScript file alone, on the scaled image at once,
without the tiles that overlap, with which it costs half as much again. ``--model`` times
another network of the same contract than the one that ships.

See instanseg_side.py for where InstanSeg runs.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from tests.benchmarks.common import shared
from tests.benchmarks.instanseg_side import with_instanseg

CORNER = (800, 1200)
"""Where the part begins, (y, x) px: tissue without glass."""
CHANNELS = [0, 3]
INSTANSEG_REPEATS = 2
THEIRS = """
import json, statistics, sys, time
from pathlib import Path
import numpy as np
from codexseg.backends.tiled.instanseg import InstansegNetwork as Network
network = Network(Path(sys.argv[1]), "cpu")
image = np.load(sys.argv[2])
network.segment(image[:, :256, :256])
seconds = []
for _ in range(int(sys.argv[3])):
    started = time.process_time()
    low, high = np.percentile(image, (0.1, 99.9), axis=(1, 2)).astype(np.float32)
    scaled = (image - low[:, None, None]) / (high - low)[:, None, None]
    labels = network.segment(scaled)
    seconds.append(time.process_time() - started)
cells, nuclei = (np.unique(plane).size - 1 for plane in labels)
print(json.dumps({"s": statistics.median(seconds), "cells": cells, "nuclei": nuclei}))
"""


def tissue(side: int) -> NDArray[Any]:
    slide = tifffile.imread(shared() / "data" / "nsclc" / "nsclc4301.ome.tif")
    y, x = CORNER
    part: NDArray[Any] = slide[CHANNELS, y : y + side, x : x + side]
    if part.shape[1:] != (side, side):
        raise SystemExit(f"--side {side}: the image ends after {part.shape[1:]} px.")
    return np.ascontiguousarray(part)


def ours(image: NDArray[Any], model: Path | None, repeats: int) -> dict[str, float]:
    from codexseg.backends.base import SlideContext
    from codexseg.backends.registry import create
    from codexseg.config.schema import SegmentationConfig
    from codexseg.core.grid import Window

    name = "embedded" if model is None else "panoptic"
    config = SegmentationConfig(backend=name, model_path=model, device="cpu")
    shape = (image.shape[1], image.shape[2])
    backend = create(config, SlideContext(shape, 0.5))
    seconds = []
    for _ in range(repeats + 1):
        started = time.process_time()
        labels = backend.predict(image[None], [Window(0, 0, *shape)])[0]
        seconds.append(time.process_time() - started)
    cells, nuclei = (float(np.unique(plane).size - 1) for plane in labels)
    return {"s": statistics.median(seconds[1:]), "cells": cells, "nuclei": nuclei}


def theirs(image: NDArray[Any]) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.npy"
        np.save(path, image.astype(np.float32))
        printed = with_instanseg(THEIRS, path, INSTANSEG_REPEATS)
    found: dict[str, float] = json.loads(printed.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    image = tissue(options.side)
    mpx = options.side**2 / 1e6
    mine = ours(image, options.model, options.repeats)
    other = theirs(image)
    figures = {
        "cpu_s_per_mpx": round(mine["s"] / mpx, 2),
        "instanseg_cpu_s_per_mpx": round(other["s"] / mpx, 2),
        "ratio": round(other["s"] / mine["s"], 1),
    }
    for who, found in (("", mine), ("instanseg_", other)):
        figures |= {f"{who}{name}": found[name] for name in ("cells", "nuclei")}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
