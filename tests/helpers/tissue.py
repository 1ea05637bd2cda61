"""Small synthetic tissue, and backends that segment it."""

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from codexseg.arrays import Labels, Pixels
from codexseg.backends.base import SlideContext
from codexseg.core.grid import Window
from codexseg.core.labels.operations import relabel
from tests.helpers.images import write_ome_tiff

OFFSET = 200
THRESHOLD = 1000
NAMES = ("DAPI", "CD45", "PANCK")

LOCAL = "tests.helpers.tissue:Local"
"""Name of the simplest backend in a configuration."""


def tissue(
    shape: tuple[int, int] = (420, 460), n: int = 90, seed: int = 0, empty: int = 210
) -> NDArray[np.uint16]:
    """Draw n cells of 6 to 14 px, some touching, right of `empty` columns: (3, y, x)."""
    rng = np.random.default_rng(seed)
    image = rng.normal(OFFSET, 10, (3, *shape))
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    for _ in range(n):
        y, x = rng.uniform(0, shape[0]), rng.uniform(empty, shape[1])
        ry, rx, level = rng.uniform(3, 7), rng.uniform(3, 7), rng.uniform(3000, 9000)
        distance = ((yy - y) / ry) ** 2 + ((xx - x) / rx) ** 2
        image[0] += level * (distance < 1)
        image[1] += level / 2 * ((distance > 1) & (distance < 3))
        image[2] += level / 3 * (distance < 2) * (rng.random() < 0.5)
    return image.clip(0, 65535).astype(np.uint16)


def write_slide(folder: Path, image: NDArray[np.uint16] | None = None) -> Path:
    """Write tissue as slide.ome.tif at 0.5 um/px."""
    pixels = tissue() if image is None else image
    return write_ome_tiff(folder / "slide.ome.tif", pixels, NAMES[: len(pixels)], 0.5)


def write_config(
    folder: Path, backend: str = "Local", name: str = "my", **patching: object
) -> Path:
    """Write a configuration of slide.ome.tif with a backend of this module."""
    path = folder / f"{name}.yaml"
    keys = {"patch_height": 100, "patch_width": 120, "overlap": 0.0} | patching
    path.write_text(
        "data: {file_name: slide.ome.tif}\n"
        "channels: {nuclear_channel: DAPI, wholecell_channel: [CD45]}\n"
        f"patching: {{{', '.join(f'{k}: {v}' for k, v in keys.items())}}}\n"
        f'segmentation: {{backend: "tests.helpers.tissue:{backend}"}}\n'
    )
    return path


def segment_locally(pixels: Pixels) -> Labels:
    """Label pixels above a threshold, and expand by 1 px: (2, y, x) cells, nuclei."""
    nuclei, _ = ndi.label(pixels[0] > THRESHOLD)
    cells = ndi.grey_dilation(nuclei, footprint=ndi.generate_binary_structure(2, 1))
    return np.stack([np.where(nuclei > 0, nuclei, cells), nuclei]).astype(np.uint32)


def _has_special_pixel(window: Window) -> bool:
    """Return whether a window contains the pixel at which some backends fail."""
    return window.y0 <= 150 < window.y1 and window.x0 <= 300 < window.x1


class Local:
    """Backend with labels that depend only on nearby pixels."""

    name = "local"
    mpp = None
    halo_px = 24
    context_px = 3
    channels: tuple[str, ...] = ("nucleus",)

    def __init__(self, config: object, slide: SlideContext) -> None:
        self.config, self.slide = config, slide

    def fingerprint(self) -> str:
        """Return the name with a version."""
        return f"{self.name} 1"

    def predict(self, patches: Pixels, windows: Sequence[Window]) -> Labels:
        """Segment patches (n, channel, y, x): (n, 2, y, x) cells, nuclei."""
        return np.stack([self.one(*pair) for pair in zip(patches, windows, strict=True)])

    def one(self, pixels: Pixels, window: Window) -> Labels:
        """Segment one patch (channel, y, x): (2, y, x) cells, nuclei."""
        del window
        return segment_locally(pixels)


class Narrow(Local):
    """Backend with a smaller halo than its objects need."""

    name = "narrow"
    halo_px = 4
    context_px = 2


class Shuffled(Local):
    """Backend with other label values in each window, with gaps up to 2**32 - 1."""

    name = "shuffled"

    def one(self, pixels: Pixels, window: Window) -> Labels:
        labels = segment_locally(pixels)
        rng = np.random.default_rng(window.y0 * 10007 + window.x0)
        old = np.unique(labels)[1:]
        new = rng.choice(2**32 - 1, len(old), replace=False).astype(np.uint32) + np.uint32(
            1
        )
        return np.stack([relabel(image, old, new) for image in labels])


class Moody(Local):
    """Backend with conflicts at seams: it shifts labels by the position of the window."""

    name = "moody"

    def one(self, pixels: Pixels, window: Window) -> Labels:
        shift = (window.y0 // 7 + window.x0 // 5) % 3
        return np.roll(segment_locally(pixels), shift, axis=2)


class Failing(Local):
    """Backend that raises in windows with one pixel, while the file FAIL exists."""

    name = "failing"

    def one(self, pixels: Pixels, window: Window) -> Labels:
        if Path("FAIL").exists() and _has_special_pixel(window):
            raise ValueError("the model is out of sorts")
        return segment_locally(pixels)


class Wrong(Local):
    """Backend that returns labels of a wrong shape."""

    name = "wrong"

    def predict(self, patches: Pixels, windows: Sequence[Window]) -> Labels:
        return super().predict(patches, windows)[:, :1]


class Bare(Local):
    """Backend without a halo."""

    name = "bare"
    halo_px = 0
    context_px = 0


class Deadly(Local):
    """Backend that ends its process in windows with one pixel, while the file DIE exists.

    If its text is "exit", it raises SystemExit; otherwise it kills the process.
    """

    name = "deadly"

    def one(self, pixels: Pixels, window: Window) -> Labels:
        if Path("DIE").exists() and _has_special_pixel(window):
            if Path("DIE").read_text() == "exit":
                sys.exit(0)
            os.kill(os.getpid(), signal.SIGKILL)
        return segment_locally(pixels)


class Slow(Local):
    """Backend that takes half a second per patch."""

    name = "slow"

    def one(self, pixels: Pixels, window: Window) -> Labels:
        del window
        time.sleep(0.5)
        return segment_locally(pixels)
