"""Pixel scores of the semantic U-Net of seed 004 on test images; prints one JSON line.

``python -m tests.benchmarks.unet_seed004 [--width-divisor N] [--epochs N] [--out DIR]``

Trains with the recipe (BCE, Adam 1e-4, batch 2, height 256) on the first 80 % of
data/dsb2018_nuclei. A divisor narrows the levels, so that training takes about ten minutes
on two cores. The other 20 % are evaluated: precision, recall, F1, AuROC and mIoU of the
foreground, pooled over all pixels. For comparison, ``seed_bbbc039`` is the seed's result on
another set, BBBC039, with full width and 100 epochs. Needs the extra train.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from codexseg.backends.unet.network import open_unet
from codexseg.backends.unet.spec import THRESHOLD, read_spec
from codexseg.core.labels.overlaps import overlaps
from codexseg.core.metrics.pixels import (
    PixelCounts,
    auroc,
    count_pixels,
    probability_levels,
)
from codexseg.training.data.unet_images import UnetImages
from codexseg.training.recipe.schema import UnetRecipe
from codexseg.training.train import run_training
from tests.benchmarks.common import shared

WIDTHS = (64, 128, 256, 512, 1024)
SEED = {
    "precision": 0.9086,
    "recall": 0.9902,
    "f1": 0.9477,
    "auroc": 0.9989,
    "miou": 0.9006,
}
TRAINED_SHARE = 0.8


def write_split(folder: Path, limit: int | None) -> tuple[Path, Path]:
    """Write training and test images."""
    with np.load(shared() / "data" / "dsb2018_nuclei" / "fluorescence_256.npz") as file:
        images, labels = file["images"], file["labels"]
    first = int(len(images) * TRAINED_SHARE)
    paths = folder / "train.npz", folder / "test.npz"
    for path, part in zip(paths, (slice(first), slice(first, None)), strict=True):
        np.savez(path, images=images[part][:limit], labels=labels[part][:limit])
    return paths


def evaluate(network: Path, recipe: UnetRecipe, folder: Path) -> dict[str, float]:
    """Score the probabilities of the exported network over all pixels."""
    images = UnetImages(recipe.find(folder), recipe)
    weights, spec = read_spec(network)
    opened = open_unet(weights, spec.outputs, "cpu")
    counts, levels = PixelCounts(), None
    for number in range(len(images)):
        image, mask = images.batch([number])
        truth = mask[0, ..., 0] > 0
        probability = opened.predict(image)[0, 0]
        foreground = (probability > THRESHOLD).astype(np.uint32)
        table = overlaps(truth.astype(np.uint32), foreground)
        counts = counts + count_pixels(table)
        counted = probability_levels(truth, probability)
        levels = counted if levels is None else levels + counted
    return {
        "precision": counts.precision,
        "recall": counts.recall,
        "f1": counts.f1,
        "auroc": auroc(levels) if levels is not None else float("nan"),
        "miou": counts.iou,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width-divisor", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--images", type=int, help="limit of training and of test images")
    parser.add_argument("--out", type=Path, help="folder to keep network, log and figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_split(folder, options.images)
        recipe = UnetRecipe(
            preset="unet",
            images=Path("train.npz"),
            nuclei=Path("train.npz"),
            widths=tuple(max(1, width // options.width_divisor) for width in WIDTHS),
            epochs=options.epochs,
            learning_rate=options.learning_rate,
            split=0,
        )
        began = time.monotonic()
        network = run_training(recipe, folder, options.out or folder / "out")
        trained_s = time.monotonic() - began
        test = recipe.model_copy(
            update=dict.fromkeys(("images", "nuclei"), Path("test.npz"))
        )
        metrics = {k: round(v, 4) for k, v in evaluate(network, test, folder).items()}
    result = {
        **metrics,
        "seed_bbbc039": SEED,
        "width_divisor": options.width_divisor,
        "epochs": options.epochs,
        "train_s": round(trained_s),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
