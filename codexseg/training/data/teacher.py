"""Labels from a teacher: what InstanSeg makes of a large image, crop by crop.

``python -m codexseg.training.data.teacher IMAGE MODEL.pt --out labels.npz [--channels 0 3]
[--columns 0 2752] [--turns 2]``

The crops overlap, so that each has room around its middle; sources of kind `crops` and the
validation of a recipe read the file. Other channels give other labels of the same cells:
a teacher that saw less. A crop that is turned gives labels with other chance errors.

InstanSeg: Goldsborough et al., arXiv:2408.15954; TorchScript files take any number of
channels at 0.5 um per px. It needs torch, and about 30 CPU seconds per megapixel.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codexseg.run.files import replacing

CROP_PX, STRIDE_PX = 512, 448
_PERCENTILES = 0.1, 99.9
_LEAST_SPREAD = 20
"""A crop whose 99th percentile of channel 0 is no more above its median holds no tissue."""


def label_crops(
    slide: NDArray[Any],
    model: Path,
    channels: Sequence[int] = (),
    columns: tuple[int, int] | None = None,
    turns: int = 0,
) -> dict[str, NDArray[Any]]:
    """Have a teacher label the crops of an image.

    Parameters
    ----------
    slide : (c, y, x) array
        Grey levels at 0.5 um per px; channel 0 shows nuclei.
    model : Path
        InstanSeg's TorchScript file.
    channels : sequence of int
        Those that the teacher sees; all by default.
    columns : (int, int), optional
        Only crops whose columns lie between these.
    turns : int
        Quarter turns by which a crop is shown; its labels are turned back.

    Returns
    -------
    dict
        `yx` (n, 2) int64 upper left corners; `nuclei` and `cells` (n, 512, 512) uint16,
        each numbered on its own.
    """
    import torch
    from tqdm import tqdm

    seen = [scale(slide[c]) for c in channels or range(len(slide))]
    # profile-guided fusion would take minutes before the first answer
    with torch.no_grad(), torch.jit.optimized_execution(False):  # noqa: FBT003
        network = torch.jit.load(model, map_location="cpu").eval()
        first, last = columns or (0, slide.shape[2])
        corners = [
            (y, x) for y, x in _corners(slide[0]) if first <= x and x + CROP_PX <= last
        ]
        found = []
        for y, x in tqdm(corners, unit="crop", disable=None):
            crop = np.stack([c[y : y + CROP_PX, x : x + CROP_PX] for c in seen])
            shown = np.ascontiguousarray(np.rot90(crop, turns, axes=(1, 2)))
            labels = network(torch.from_numpy(shown[None]))[0].numpy()
            found.append(np.rot90(labels, -turns, axes=(1, 2)).astype(np.uint16))
    made = np.stack(found)
    return {"yx": np.array(corners), "nuclei": made[:, 0], "cells": made[:, 1]}


def scale(channel: NDArray[Any]) -> NDArray[np.float32]:
    """Scale grey levels so that the 0.1th percentile becomes 0 and the 99.9th 1."""
    low, high = np.percentile(channel, _PERCENTILES)
    scaled = (channel.astype(np.float32) - low) / max(high - low, 1e-6)
    return np.asarray(scaled, np.float32)


def _corners(nucleus: NDArray[Any]) -> list[tuple[int, int]]:
    height, width = nucleus.shape
    every = [
        (y, x)
        for y in range(0, height - CROP_PX + 1, STRIDE_PX)
        for x in range(0, width - CROP_PX + 1, STRIDE_PX)
    ]
    return [corner for corner in every if _holds_tissue(nucleus, *corner)]


def _holds_tissue(nucleus: NDArray[Any], y: int, x: int) -> bool:
    low, high = np.percentile(nucleus[y : y + CROP_PX, x : x + CROP_PX], (50, 99))
    return bool(high - low > _LEAST_SPREAD)


def main() -> None:
    """Read an image, label it, write the labels."""
    import tifffile

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("image", type=Path, help="a TIFF (c, y, x) at 0.5 um per px")
    parser.add_argument("model", type=Path, help="InstanSeg's TorchScript file")
    parser.add_argument("--out", type=Path, required=True, help="the npz to write")
    parser.add_argument("--channels", type=int, nargs="*", default=[])
    parser.add_argument("--columns", type=int, nargs=2, metavar=("FROM", "TO"))
    parser.add_argument("--turns", type=int, default=0, help="quarter turns of a crop")
    options = parser.parse_args()
    slide = tifffile.imread(options.image)
    made = label_crops(
        slide, options.model, options.channels, options.columns, options.turns
    )
    with replacing(options.out) as part, part.open("wb") as file:
        np.savez_compressed(file, yx=made["yx"], nuclei=made["nuclei"], cells=made["cells"])


if __name__ == "__main__":
    main()
