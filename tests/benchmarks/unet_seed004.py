"""The semantic U-Net of seed 004 on nuclei it has not learnt from; one JSON line.

``python -m tests.benchmarks.unet_seed004 [--width-divisor N] [--epochs N] [--out DIR]``

Trains by the recipe (BCE, Adam 1e-4, batch 2, height 256) on the first 80 % of
data/dsb2018_nuclei, with levels that are narrower by a divisor so that it takes about ten
minutes on two cores, and judges the other 20 %: precision, recall, F1, AuROC and mIoU of
the foreground, pooled over all pixels. ``seed_bbbc039`` is the seed's row for another
set, BBBC039, with the full width and 100 epochs: for orientation. Needs the extra train.
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
from codexseg.training.train import make
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
    """Write the images that are learnt from, and those that are judged."""
    with np.load(shared() / "data" / "dsb2018_nuclei" / "fluorescence_256.npz") as file:
        images, labels = file["images"], file["labels"]
    first = int(len(images) * TRAINED_SHARE)
    paths = folder / "train.npz", folder / "test.npz"
    for path, part in zip(paths, (slice(first), slice(first, None)), strict=True):
        np.savez(path, images=images[part][:limit], labels=labels[part][:limit])
    return paths


def judge(network: Path, recipe: UnetRecipe, folder: Path) -> dict[str, float]:
    """Score the probabilities of the exported network, all pixels of all images."""
    images = UnetImages(recipe.find(folder), recipe)
    weights, _ = read_spec(network)
    opened = open_unet(weights, "cpu")
    counts, levels = PixelCounts(), None
    for number in range(len(images)):
        image, mask = images.batch([number])
        truth = mask[0, ..., 0] > 0
        found = opened.predict(image)[0, 0]
        table = overlaps(truth.astype(np.uint32), (found > THRESHOLD).astype(np.uint32))
        counts = counts + count_pixels(table)
        here = probability_levels(truth, found)
        levels = here if levels is None else levels + here
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
    parser.add_argument("--images", type=int, help="only so many of each part: a trial")
    parser.add_argument("--out", type=Path, help="keep network, log and pictures there")
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
        network = make(recipe, folder, options.out or folder / "out")
        trained_s = time.monotonic() - began
        test = recipe.model_copy(
            update=dict.fromkeys(("images", "nuclei"), Path("test.npz"))
        )
        figures = {k: round(v, 4) for k, v in judge(network, test, folder).items()}
    said = {
        **figures,
        "seed_bbbc039": SEED,
        "width_divisor": options.width_divisor,
        "epochs": options.epochs,
        "train_s": round(trained_s),
    }
    print(json.dumps(said))


if __name__ == "__main__":
    main()
