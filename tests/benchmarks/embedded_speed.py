"""CPU seconds per Mpx of the embedded network and of InstanSeg; prints one JSON line.

``python -m tests.benchmarks.embedded_speed [--model NET.onnx] [--side 1024] [--repeats 5]``

Both segment cells and nuclei in the same window of data/nsclc (DAPI and pan-cytokeratin,
0.5 um per px, without glass), in sequence on the same machine. Times are CPU seconds of the
process with its threads; the first run of each is not counted. For the embedded network it
is the median of the repeats of `predict`, from intensities to labels. For InstanSeg it is
the median of two runs of the TorchScript file alone, on the whole scaled image; with
overlapping tiles it takes 50 % longer. ``--model`` measures another network with the same
contract.

See instanseg_side.py for the environment of InstanSeg.
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
"""Upper left corner of the window, (y, x) px: tissue without glass."""
CHANNELS = [0, 3]
INSTANSEG_REPEATS = 2
THEIRS = """
import json, statistics, sys, time
from pathlib import Path
import numpy as np
from codexseg.backends.tiled.instanseg import InstansegNetwork
network = InstansegNetwork(Path(sys.argv[1]), "cpu")
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
    window: NDArray[Any] = slide[CHANNELS, y : y + side, x : x + side]
    if window.shape[1:] != (side, side):
        raise SystemExit(f"--side {side}: the image ends after {window.shape[1:]} px.")
    return np.ascontiguousarray(window)


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
    result: dict[str, float] = json.loads(printed.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    image = tissue(options.side)
    mpx = options.side**2 / 1e6
    mine = ours(image, options.model, options.repeats)
    instanseg = theirs(image)
    metrics = {
        "cpu_s_per_mpx": round(mine["s"] / mpx, 2),
        "instanseg_cpu_s_per_mpx": round(instanseg["s"] / mpx, 2),
        "ratio": round(instanseg["s"] / mine["s"], 1),
    }
    for prefix, result in (("", mine), ("instanseg_", instanseg)):
        metrics |= {f"{prefix}{name}": result[name] for name in ("cells", "nuclei")}
    print(json.dumps(metrics))


if __name__ == "__main__":
    main()
