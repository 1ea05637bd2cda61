"""Threshold segmenter of the shared benchmarks, as a third-party backend.

``segmentation.backend: tests.benchmarks.cheap_backend:Cheap``
"""

import importlib.util
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from codexseg.arrays import Labels, Pixels
from codexseg.backends.base import SlideContext
from codexseg.core.grid import Window
from tests.benchmarks.common import shared


@cache
def cheap_segmenter() -> Any:
    """Load bench/cheap_segmenter.py."""
    path = shared() / "bench" / "cheap_segmenter.py"
    spec = importlib.util.spec_from_file_location("cheap_segmenter", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Cheap:
    """Nuclei above a fixed threshold, expanded by 4 px; depends only on nearby pixels."""

    name = "cheap"
    mpp = None
    halo_px = 48
    context_px = 12
    channels = ("nucleus",)

    def __init__(self, config: object, slide: SlideContext) -> None:
        del config, slide

    def fingerprint(self) -> str:
        return "cheap 1"

    def predict(self, patches: Pixels, windows: Sequence[Window]) -> Labels:
        del windows
        labels = np.empty(patches.shape, np.uint32)
        for patch, (cells, nuclei) in zip(patches, labels, strict=True):
            nuclei[:] = cheap_segmenter().nuclei(patch)
            cells[:] = expand(nuclei)
        return labels


def expand(nuclei: Labels) -> Labels:
    """Expand nuclei as cheap_segmenter.segment does."""
    from skimage.segmentation import expand_labels

    return expand_labels(nuclei, 4)
