"""F1 of the cells of the watershed backend on real images; prints one JSON line.

Run as `python -m tests.benchmarks.watershed_quality [--overlays DIR]`. The keys expert1,
expert2 and mesmer_membrane are F1 at IoU 0.5 on data/codex_tile (nucleus + membrane), which
was not used to choose parameters. The others compare with the labels of InstanSeg: the
defaults were chosen on nsclc_left and more (data/more_tissue); nsclc_right was held out.
Channel statistics are those of the whole image, as in `codexseg run`. `cpu_s_per_mpx` is
measured with compiled kernels.
"""

import argparse
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from codexseg.backends.base import ChannelStatistics, SlideContext
from codexseg.backends.watershed import Watershed
from codexseg.core.algorithms.nuclei_watershed import WatershedOptions
from codexseg.core.grid import Window
from codexseg.core.intensity.background import channel_statistics
from codexseg.core.intensity.histogram import merge_channels
from tests.benchmarks.common import shared

Image = NDArray[Any]
CONFIG = SimpleNamespace(normalization="slide", watershed=WatershedOptions())


def f1(truth: Image, labels: Image) -> float:
    """Return the F1 of objects with an IoU above 0.5; such pairs are one-to-one."""
    overlap = (truth > 0) & (labels > 0)
    pairs, shared_px = np.unique(
        np.stack([truth[overlap], labels[overlap]]).astype(np.int64),
        axis=1,
        return_counts=True,
    )
    areas = [np.bincount(image.ravel()) for image in (truth, labels)]
    union = areas[0][pairs[0]] + areas[1][pairs[1]] - shared_px
    hits = np.count_nonzero(2 * shared_px > union)
    return float(2 * hits / sum(np.count_nonzero(area[1:]) for area in areas))


def statistics(channel: Image) -> ChannelStatistics:
    return ChannelStatistics(*channel_statistics(channel))


def backend(
    image: Image, mpp: float, wholecell: ChannelStatistics | None = None
) -> Watershed:
    second = statistics(image[1]) if wholecell is None else wholecell
    slide = SlideContext(image.shape[1:], mpp, statistics(image[0]), second)
    return Watershed(CONFIG, slide)


def scaled(markers: Image) -> tuple[Image, ChannelStatistics]:
    """Merge markers as `wholecell_merge: scaled` does; return pixels and statistics."""
    levels = np.array([channel_statistics(marker) for marker in markers])
    scales = levels[:, 4]
    levels = levels / scales[:, None]
    merged = merge_channels(list(markers), scales.tolist())
    return merged, ChannelStatistics(levels[:, 0].min(), *levels[:, 1:].max(axis=0))


def segment(made: Watershed, image: Image) -> Image:
    labels: Image = made.predict(image[None], [Window(0, 0, *image.shape[1:])])[0]
    return labels


def codex_tile(folder: Path) -> tuple[dict[str, float], Image, Image]:
    image = tifffile.imread(folder / "codex_tile/R001_X003_Y004.ome.tif")[:2]
    made = backend(image, 0.377)
    segment(made, image)
    start = time.process_time()
    labels = segment(made, image)
    seconds = time.process_time() - start
    with np.load(folder / "codex_tile/cell_masks.npz") as masks:
        keys = "expert1", "expert2", "mesmer_membrane"
        figures = {key: f1(masks[key], labels[0]) for key in keys}
    figures["cells"] = float(labels.max())
    figures["cpu_s_per_mpx"] = seconds / labels[0].size * 1e6
    return figures, image, labels


def nsclc(folder: Path) -> tuple[dict[str, float], Image, Image]:
    image = tifffile.imread(folder / "nsclc/nsclc4301.ome.tif")
    merged, levels = scaled(image[1:])
    pair = np.stack([image[0].astype(np.float32), merged])
    made = backend(image[:2], 0.5, levels)
    scores: dict[str, list[tuple[float, float]]] = {"left": [], "right": []}
    crop = labels = pair
    with np.load(folder / "nsclc/teacher_labels.npz") as teacher:
        truth = list(zip(teacher["yx"], teacher["cells"], teacher["nuclei"], strict=True))
    for (y, x), cells, nuclei in truth:
        if len(np.unique(nuclei)) > 30:
            crop = pair[:, y : y + 512, x : x + 512]
            labels = segment(made, crop)
            side = scores["left" if x <= 2240 else "right"]
            side.append((f1(cells, labels[0]), f1(nuclei, labels[1])))
    figures: dict[str, float] = {}
    for side_name, side in scores.items():
        means = np.mean(side, axis=0)
        figures |= {
            f"nsclc_{side_name}_cells": means[0],
            f"nsclc_{side_name}_nuclei": means[1],
        }
    return figures, crop, labels


def more_tissue(folder: Path) -> tuple[dict[str, float], Image, Image]:
    with np.load(folder / "more_tissue/fluorescence_example.npz") as example:
        image, cells, nuclei = example["image"][::-1], example["cells"], example["nuclei"]
    labels = segment(backend(image, 0.5), image)
    return (
        {"more_cells": f1(cells, labels[0]), "more_nuclei": f1(nuclei, labels[1])},
        image,
        labels,
    )


def overlay(image: Image, labels: Image, path: Path) -> None:
    from PIL import Image as Picture
    from skimage.segmentation import find_boundaries
    from skimage.transform import rescale

    view = np.s_[..., 200:500, 100:500]
    tops = [np.quantile(c, 0.99) for c in image]
    nucleus, marker = (
        np.clip(rescale(c[view] / top, 3, order=1), 0, 1)
        for c, top in zip(image.astype(float), tops, strict=True)
    )
    cells, nuclei = (np.kron(part[view], np.ones((3, 3), int)) for part in labels)
    picture = np.stack([0.6 * marker, 0.5 * nucleus, nucleus], -1)
    for part, colour in ((nuclei, (0, 1, 0)), (cells, (1, 1, 0))):
        border: Image = find_boundaries(part, mode="inner")  # type: ignore[no-untyped-call]
        picture[border] = colour
    Picture.fromarray((picture * 255).astype(np.uint8)).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--overlays", type=Path, help="folder for pictures")
    overlays = parser.parse_args().overlays
    figures: dict[str, float] = {}
    for source in (codex_tile, nsclc, more_tissue):
        scores, image, labels = source(shared() / "data")
        figures |= scores
        if overlays is not None:
            overlay(image, labels, overlays / f"{source.__name__}.png")
    print(json.dumps({key: round(float(value), 3) for key, value in figures.items()}))


if __name__ == "__main__":
    main()
