"""Label the crops of a large image with InstanSeg, as a teacher.

``python -m codexseg.training.data.teacher IMAGE MODEL.pt --out labels.npz [--channels 0 3]
[--columns 0 2752] [--turns 2]``

Crops overlap, so that each has context around its centre. Recipes read the file as a source
of kind `crops` and as validation images. Other channels give other labels of the same
cells, as from a teacher with less information. A rotated crop gives labels with independent
random errors.

InstanSeg: Goldsborough et al., arXiv:2408.15954. TorchScript files take any number of
channels at 0.5 um per px. Needs torch, and about 30 CPU seconds per megapixel.
"""

import argparse
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codexseg.arrays import Float32, Pixels
from codexseg.run.files import replacing

CROP_PX, STRIDE_PX = 512, 448
_PERCENTILES = 0.1, 99.9
_MIN_CONTRAST = 20
"""A crop is glass if P99 minus P50 of channel 0 is not above this."""


def label_crops(
    slide: Pixels,
    model: Path,
    channels: Sequence[int] = (),
    columns: tuple[int, int] | None = None,
    turns: int = 0,
) -> dict[str, NDArray[Any]]:
    """Label all crops of an image that contain tissue.

    Parameters
    ----------
    slide : (c, y, x) array
        Intensities at 0.5 um per px. Channel 0 shows nuclei.
    model : Path
        TorchScript file of InstanSeg.
    channels : sequence of int
        Input channels of the teacher; all by default.
    columns : (int, int), optional
        Only crops inside this range of columns.
    turns : int
        Quarter turns of a crop before it is labelled; its labels are turned back.

    Returns
    -------
    dict
        `yx` (n, 2) int64 upper left corners; `nuclei` and `cells` (n, 512, 512) uint16,
        numbered independently.
    """
    import torch
    from tqdm import tqdm

    scaled = [scale_percentiles(slide[c]) for c in channels or range(len(slide))]
    # profile-guided fusion delays the first result by minutes
    with torch.no_grad(), torch.jit.optimized_execution(False):  # noqa: FBT003
        network = torch.jit.load(model, map_location="cpu").eval()
        first, last = columns or (0, slide.shape[2])
        corners = [
            (y, x) for y, x in _corners(slide[0]) if first <= x and x + CROP_PX <= last
        ]
        labelled = []
        for y, x in tqdm(corners, unit="crop", disable=None):
            crop = np.stack([c[y : y + CROP_PX, x : x + CROP_PX] for c in scaled])
            turned = np.ascontiguousarray(np.rot90(crop, turns, axes=(1, 2)))
            labels = network(torch.from_numpy(turned[None]))[0].numpy()
            labelled.append(np.rot90(labels, -turns, axes=(1, 2)).astype(np.uint16))
    stacked = np.stack(labelled)
    return {"yx": np.array(corners), "nuclei": stacked[:, 0], "cells": stacked[:, 1]}


def scale_percentiles(channel: Pixels) -> Float32:
    """Scale intensities so that the 0.1th percentile becomes 0 and the 99.9th 1."""
    low, high = np.percentile(channel, _PERCENTILES)
    scaled = (channel.astype(np.float32) - low) / max(high - low, 1e-6)
    return np.asarray(scaled, np.float32)


def _corners(nucleus: Pixels) -> list[tuple[int, int]]:
    height, width = nucleus.shape
    rows, columns = (range(0, n - CROP_PX + 1, STRIDE_PX) for n in (height, width))
    return [(y, x) for y, x in product(rows, columns) if _has_tissue(nucleus, y, x)]


def _has_tissue(nucleus: Pixels, y: int, x: int) -> bool:
    low, high = np.percentile(nucleus[y : y + CROP_PX, x : x + CROP_PX], (50, 99))
    return bool(high - low > _MIN_CONTRAST)


def main() -> None:
    """Label an image from the command line."""
    import tifffile

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("image", type=Path, help="TIFF (c, y, x) at 0.5 um per px")
    parser.add_argument("model", type=Path, help="TorchScript file of InstanSeg")
    parser.add_argument("--out", type=Path, required=True, help="npz file to write")
    parser.add_argument("--channels", type=int, nargs="*", default=[])
    parser.add_argument("--columns", type=int, nargs=2, metavar=("FROM", "TO"))
    parser.add_argument("--turns", type=int, default=0, help="quarter turns of each crop")
    options = parser.parse_args()
    slide = tifffile.imread(options.image)
    arrays = label_crops(
        slide, options.model, options.channels, options.columns, options.turns
    )
    with replacing(options.out) as part, part.open("wb") as file:
        yx, nuclei, cells = arrays["yx"], arrays["nuclei"], arrays["cells"]
        np.savez_compressed(file, yx=yx, nuclei=nuclei, cells=cells)


if __name__ == "__main__":
    main()
