"""The deep watershed compared with that of deepcell, on the same maps.

``python -m tests.benchmarks.mesmer_postprocess --size 2048``

The maps are those of the toy network on the image of bench/make_image.py. Prints the CPU
seconds of both compartments together (codexseg: median of three with compiled kernels;
deepcell: one call in its own environment), and whether all labels are identical. Slides use
ties "raster", `normalization: patch` uses "heap".
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import get_args

import numpy as np
import tifffile
from numpy.typing import NDArray

from codexseg.backends.base import SlideContext
from codexseg.backends.panoptic.backend import Panoptic
from codexseg.backends.panoptic.image import MAPS, Image
from codexseg.backends.panoptic.parameters import MESMER
from codexseg.backends.slide_pass import InMemory
from codexseg.config.schema import SegmentationConfig
from codexseg.core.algorithms.deep_watershed import deep_watershed
from codexseg.core.algorithms.flood import Ties
from codexseg.core.grid import Window
from tests.benchmarks.common import bench_image, deepcell_side, toy

ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=2048)
    size = parser.parse_args().size
    maps = toy_maps(tifffile.imread(bench_image(size), key=[0, 1]))
    ours = {ties: timed(maps, ties) for ties in get_args(Ties)}
    with tempfile.TemporaryDirectory() as folder:
        theirs = deepcell_side(Path(folder), maps=maps)
    deepcell_cpu_s = float(theirs["cpu_s"])
    figures: dict[str, object] = {"deepcell_cpu_s": round(deepcell_cpu_s, 2)}
    for ties, (cpu_s, labels) in ours.items():
        suffix = "" if ties == "raster" else f"_{ties}"
        identical = np.array_equal(np.moveaxis(labels, 0, -1), theirs["labels"])
        figures |= {
            f"cpu_s{suffix}": round(cpu_s, 3),
            f"ratio{suffix}": round(deepcell_cpu_s / cpu_s, 2),
            f"identical{suffix}": identical,
            "cells": int(labels[0].max()),
            "nuclei": int(labels[1].max()),
        }
    print(json.dumps(figures))


def timed(maps: NDArray[np.float32], ties: Ties) -> tuple[float, NDArray[np.uint32]]:
    postprocess(maps[:, :64, :64], ties)  # compiles
    seconds = []
    for _ in range(ROUNDS):
        started = time.process_time()
        labels = postprocess(maps, ties)
        seconds.append(time.process_time() - started)
    return statistics.median(seconds), labels


def toy_maps(image: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return the toy network's four maps of an image (2, y, x) of 0.5 um per px."""
    config = SegmentationConfig(backend="panoptic", model_path=toy() / "toy.onnx")
    view = InMemory(image)
    for slide_pass in Panoptic(config, SlideContext(view.shape, 0.5)).slide_passes:
        view.execute(slide_pass)
    maps = Image.of(view.shape, 0.5).maps(Window(0, 0, *view.shape), MAPS, view)
    if maps is None:
        raise SystemExit("The network predicted no signal.")
    return maps


def postprocess(maps: NDArray[np.float32], ties: Ties) -> NDArray[np.uint32]:
    pairs = zip(((maps[0], maps[1]), (maps[2], maps[3])), MESMER, strict=True)
    return np.stack(
        [deep_watershed(*pair, h=found.h, ties=ties)[0] for pair, found in pairs]
    )


if __name__ == "__main__":
    main()
