"""F1 of a network on validation images; prints one JSON line.

``python -m tests.benchmarks.embedded_quality [--model NET.onnx] [--overlays DIR]``

Evaluates the network in the package, or another one.

expert1 and expert2: F1 at IoU 0.5 on data/codex_tile (nucleus + membrane), with those of
Mesmer 0.9.0 (its published masks) and of InstanSeg 0.1.1 (run here with
`segmentation.backend: instanseg`; see instanseg_side.py).
nsclc_cells, nsclc_nuclei: against the teacher on the validation half, mean over its crops
with more than 30 nuclei. dsb_nuclei: mean over the last fifth of the DSB images.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from codexseg.backends.base import SlideContext
from codexseg.backends.networks.weights import EMBEDDED
from codexseg.backends.panoptic.backend import Panoptic
from codexseg.config.schema import SegmentationConfig
from codexseg.core.grid import Window
from tests.benchmarks.common import shared
from tests.benchmarks.instanseg_side import with_instanseg
from tests.benchmarks.watershed_quality import f1, overlay, scaled

Image = NDArray[Any]
INSTANSEG = """
import sys
import numpy as np
from codexseg.backends.base import SlideContext
from codexseg.backends.registry import create
from codexseg.config.schema import SegmentationConfig
from codexseg.core.grid import Window
_, weights, image, mpp, labels = sys.argv
image = np.load(image)
config = SegmentationConfig(backend="instanseg", model_path=weights, device="cpu")
backend = create(config, SlideContext(image.shape[1:], float(mpp)))
np.save(labels, backend.predict(image[None], [Window(0, 0, *image.shape[1:])])[0])
"""
TILE_MPP = 0.377
VALIDATION_COLUMN = 2688
"""First column of the validation half of the NSCLC image."""
MIN_NUCLEI = 30


def network(model: Path, shape: tuple[int, int], mpp: float) -> Panoptic:
    config = SegmentationConfig(backend="panoptic", model_path=model)
    return Panoptic(config, SlideContext(shape, mpp))


def segment(model: Path, image: Image, mpp: float) -> Image:
    shape = (image.shape[1], image.shape[2])
    backend = network(model, shape, mpp)
    labels: Image = backend.predict(image[None], [Window(0, 0, *shape)])[0]
    return labels


def instanseg(image: Image, mpp: float) -> Image:
    """Segment an image with `segmentation.backend: instanseg`."""
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder) / "image.npy", Path(folder) / "labels.npy"
        np.save(source, image)
        with_instanseg(INSTANSEG, source, mpp, output)
        labels: Image = np.load(output)
        return labels


def codex_tile() -> tuple[Image, dict[str, Image]]:
    folder = shared() / "data" / "codex_tile"
    image = tifffile.imread(folder / "R001_X003_Y004.ome.tif")[:2]
    with np.load(folder / "cell_masks.npz") as masks:
        return image, {name: masks[name] for name in masks.files}


def nsclc() -> tuple[Image, list[tuple[int, int, Image, Image]]]:
    """Return the validation half, and (y, x, cells, nuclei) of its crops."""
    folder = shared() / "data" / "nsclc"
    slide = tifffile.imread(folder / "nsclc4301.ome.tif")
    merged, _ = scaled(slide[1:])
    pixels = np.stack([slide[0].astype(np.float32), merged])[:, :, VALIDATION_COLUMN:]
    with np.load(folder / "teacher_labels.npz") as teacher:
        labelled = zip(teacher["yx"], teacher["cells"], teacher["nuclei"], strict=True)
        crops = [
            (int(y), int(x) - VALIDATION_COLUMN, cells, nuclei)
            for (y, x), cells, nuclei in labelled
            if x >= VALIDATION_COLUMN and len(np.unique(nuclei)) > MIN_NUCLEI
        ]
    return pixels, crops


def dsb() -> tuple[Image, Image]:
    with np.load(shared() / "data" / "dsb2018_nuclei" / "fluorescence_256.npz") as file:
        first = len(file["images"]) * 4 // 5
        return file["images"][first:], file["labels"][first:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=EMBEDDED)
    parser.add_argument("--overlays", type=Path)
    options = parser.parse_args()
    metrics: dict[str, float] = {}

    image, masks = codex_tile()
    labels = segment(options.model, image, TILE_MPP)
    sides = {"": labels[0], "mesmer_": masks["mesmer_membrane"]}
    sides["instanseg_"] = instanseg(image, TILE_MPP)[0]
    for side, cells in sides.items():
        for expert in ("expert1", "expert2"):
            metrics[f"{side}{expert}"] = f1(masks[expert], cells)
    metrics["cells"] = float(labels[0].max())
    overlays = {"codex_tile": (image, labels)}

    image, crops = nsclc()
    labels = segment(options.model, image, 0.5)
    for c, name in enumerate(("cells", "nuclei")):
        scores = []
        for y, x, *truth in crops:
            scores.append(f1(truth[c], labels[c, y : y + 512, x : x + 512]))
        metrics[f"nsclc_{name}"] = float(np.mean(scores))
    overlays["nsclc"] = image[:, 900:1400, 900:1500], labels[:, 900:1400, 900:1500]

    scores = []
    for nucleus, truth in zip(*dsb(), strict=True):
        pair = np.stack([nucleus, np.zeros_like(nucleus)])
        nuclei = segment(options.model, pair, 0.5)[1]
        if truth.any():
            scores.append(f1(truth, nuclei))
    metrics["dsb_nuclei"] = float(np.mean(scores))

    if options.overlays:
        options.overlays.mkdir(parents=True, exist_ok=True)
        for name, (pixels, labels) in overlays.items():
            overlay(pixels, labels, options.overlays / f"{name}.png")
    print(json.dumps({name: round(float(value), 3) for name, value in metrics.items()}))


if __name__ == "__main__":
    main()
