"""The toy network with Mesmer's contract, and deepcell's results with it."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codexseg.backends.base import SlideContext
from codexseg.backends.panoptic.backend import Panoptic
from codexseg.config.schema import SegmentationConfig

DATA = Path(__file__).parents[1] / "data" / "mesmer"
TOY = DATA / "toy.onnx"
SAVED_MODEL = DATA / "toy_MultiplexSegmentation"


@cache
def golden() -> dict[str, NDArray[np.generic]]:
    """Return the file of make_golden.py: images, maps and labels of deepcell."""
    with np.load(DATA / "golden.npz") as file:
        return {name: file[name] for name in file.files}


def panoptic(shape: tuple[int, int], mpp: float = 0.5, **settings: Any) -> Panoptic:
    """Return the backend with the toy network for a slide of `shape`."""
    keys: dict[str, Any] = {"backend": "panoptic", "model_path": TOY} | settings
    return Panoptic(SegmentationConfig(**keys), SlideContext(shape, mpp))


def blobs(
    shape: tuple[int, int], seed: int = 0, density: float = 1 / 500
) -> NDArray[np.uint16]:
    """Draw (2, y, x): nuclei, and rings around them, on an offset."""
    rng = np.random.default_rng(seed)
    image = rng.normal(300, 30, (2, *shape))
    for _ in range(int(shape[0] * shape[1] * density)):
        cy, cx = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        radius, level = rng.uniform(3, 5), rng.uniform(3000, 9000)
        y0, x0 = max(0, int(cy) - 16), max(0, int(cx) - 16)
        y, x = np.mgrid[y0 : min(shape[0], y0 + 33), x0 : min(shape[1], x0 + 33)]
        distance = np.hypot(y - cy, x - cx)
        image[0, y, x] += level * np.exp(-((distance / radius) ** 2))
        image[1, y, x] += level * np.exp(-(((distance - 1.5 * radius) / 2) ** 2))
    return image.clip(0, 65535).astype(np.uint16)


def same_objects(labels: NDArray[np.integer], expected: NDArray[np.integer]) -> bool:
    """Return whether two label images have the same objects, with any numbers."""
    if not np.array_equal(labels > 0, expected > 0):
        return False
    pairs = np.unique(np.stack([labels[labels > 0], expected[labels > 0]]), axis=1)
    n = pairs.shape[1]
    return all(len(np.unique(row)) == n for row in pairs)
