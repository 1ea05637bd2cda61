"""Where training images come from: each source draws examples of one kind.

An example is an image with labels: one nuclear channel, any number of membrane markers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from codexseg.core.grid import Window
from codexseg.errors import InputError
from codexseg.samples.tissue import MARKERS, Tissue

Rng = np.random.Generator
Labels = NDArray[np.uint32]

_MEMBRANE = [MARKERS.index(name) + 1 for name in ("PANCK", "CD45", "CD3", "VIM")]
BRIGHT_PERCENT = 99.5
"""The percentile of what is lit at which a channel is bright: it becomes 1."""
_SYNTHETIC_MPP = (0.32, 0.9)  # of images shown at 0.5: cells from 0.55 to 1.5 of their size
_SYNTHETIC_PX = 400


@dataclass(frozen=True)
class Example:
    """An image with labels.

    Attributes
    ----------
    nucleus : (y, x) float32
        Grey levels from 0; 1 is bright.
    markers : (m, y, x) float32
        Membrane markers, scaled alike; none for images of nuclei.
    cells : (y, x) uint32 or None
        None where nobody has drawn the cells.
    nuclei : (y, x) uint32 or None
        None where nobody has drawn the nuclei; cells are there then.
    together : bool
        The labels were drawn with all markers in view, and hold for all of them together:
        what one of them shows is not in another.
    """

    nucleus: NDArray[np.float32]
    markers: NDArray[np.float32]
    cells: Labels | None
    nuclei: Labels | None
    together: bool = False


class Source(Protocol):
    """Draws examples."""

    def draw(self, rng: Rng) -> Example:
        """Return one, as the random numbers will have it."""
        ...


class Crops:
    """Labelled crops of one large image.

    Parameters
    ----------
    image : Path
        A TIFF (c, y, x); channel 0 shows nuclei, the others membranes.
    labels : Path
        npz with `yx` (n, 2) upper left corners, `cells` and `nuclei` (n, y, x).
    columns : (int, int)
        Only crops whose columns lie between these are drawn.
    channels : sequence of int, optional
        Those of the image that the labels were drawn by, nuclei first: its markers are
        shown together. By default all channels, of which any markers may be shown.
    """

    def __init__(
        self,
        image: Path,
        labels: Path,
        columns: tuple[int, int],
        channels: Sequence[int] | None = None,
    ) -> None:
        self._slide = _scaled_slide(image)
        self._channels = list(range(len(self._slide)) if channels is None else channels)
        self._together = channels is not None
        with np.load(labels) as file:
            corners, cells, nuclei = file["yx"], file["cells"], file["nuclei"]
        self._check(image, labels, corners, cells, nuclei)
        width = cells.shape[2]
        inside = (corners[:, 1] >= columns[0]) & (corners[:, 1] + width <= columns[1])
        if not inside.any():
            raise InputError(f"{labels} has no crop between the columns {columns}.")
        self._corners = corners[inside]
        self._cells, self._nuclei = cells[inside], nuclei[inside]
        # Crops of empty glass teach little.
        counts = np.array([len(np.unique(labels)) for labels in self._cells])
        self._shares = np.sqrt(counts) / np.sqrt(counts).sum()

    def _check(
        self,
        image: Path,
        labels: Path,
        corners: NDArray[Any],
        cells: NDArray[Any],
        nuclei: NDArray[Any],
    ) -> None:
        """Check that channels, labels and image fit."""
        if self._slide.ndim != 3:
            shape = self._slide.shape
            raise InputError(f"{image} has the shape {shape}, expected (c, y, x).")
        count, chosen = len(self._slide), self._channels
        if max(chosen) >= count or len({*chosen}) < len(chosen):
            raise InputError(
                f"channels are {chosen}, expected different numbers below {count}, as "
                f"{image} has so many channels: correct them in the recipe."
            )
        are_whole = all(a.dtype.kind in "iu" for a in (corners, cells, nuclei))
        fits = cells.ndim == 3 and corners.shape == (len(cells), 2)
        if not (are_whole and fits and cells.shape == nuclei.shape):
            raise InputError(
                f"{labels} holds yx {corners.shape} {corners.dtype}, cells {cells.shape} "
                f"{cells.dtype}, nuclei {nuclei.shape} {nuclei.dtype}, expected integers "
                f"(n, 2), (n, y, x) and the same: make it again."
            )
        ends = corners + cells.shape[1:]
        if (corners < 0).any() or (ends > self._slide.shape[1:]).any():
            raise InputError(
                f"{labels} has crops outside of {image}, {self._slide.shape[1:]} px: they "
                f"are of another image; name theirs."
            )

    def draw(self, rng: Rng) -> Example:
        """Return one crop."""
        number = int(rng.choice(len(self._corners), p=self._shares))
        return self._example(number)

    def __len__(self) -> int:
        return len(self._corners)

    def every(self) -> Iterator[Example]:
        """Yield all crops, in their order."""
        for number in range(len(self)):
            yield self._example(number)

    def _example(self, number: int) -> Example:
        y, x = self._corners[number]
        cells, nuclei = (
            labels[number].astype(np.uint32) for labels in (self._cells, self._nuclei)
        )
        rows, columns = (
            slice(n, n + side) for n, side in zip((y, x), cells.shape, strict=True)
        )
        part = self._slide[self._channels, rows, columns]
        return Example(part[0], part[1:], cells, nuclei, self._together)

    def region(
        self,
    ) -> tuple[
        NDArray[np.float32], list[tuple[tuple[slice, slice], tuple[Labels, Labels]]]
    ]:
        """Return the part of the image that holds the crops, and their labels in it.

        Returns
        -------
        image : (c, y, x) float32
        truth : list of (slices in y and x, (cells, nuclei))
        """
        low = self._corners.min(axis=0)
        size = np.array(self._cells.shape[1:])
        high = self._corners.max(axis=0) + size
        truth = []
        for corner, cells, nuclei in zip(
            self._corners - low, self._cells, self._nuclei, strict=True
        ):
            (y, x), (height, width) = corner, size
            place = slice(y, y + height), slice(x, x + width)
            truth.append((place, (cells.astype(np.uint32), nuclei.astype(np.uint32))))
        image = self._slide[self._channels, low[0] : high[0], low[1] : high[1]]
        return image, truth


class Nuclei:
    """Images of nuclei: npz with `images` and `labels`, (n, y, x).

    Parameters
    ----------
    path : Path
        The npz file.
    share : float
        How many of them, from the first, may be drawn; the others are held back.
    """

    def __init__(self, path: Path, share: float) -> None:
        with np.load(path) as file:
            images, labels = file["images"], file["labels"]
        if not (images.ndim == 3 and len(images) and images.shape == labels.shape):
            raise InputError(
                f"{path} holds images {images.shape} and labels {labels.shape}, expected "
                f"(n, y, x) and the same."
            )
        _check_values(path, images, labels)
        count = max(1, int(len(images) * share))
        self._images, self._labels = images[:count], labels[:count]

    def draw(self, rng: Rng) -> Example:
        """Return one image."""
        number = int(rng.integers(len(self._images)))
        image = scaled(self._images[number])
        none = np.zeros((0, *image.shape), np.float32)
        return Example(image, none, None, self._labels[number].astype(np.uint32))


class Pair:
    """One image: npz with `image` (2, y, x), `cells` and `nuclei` (y, x).

    Parameters
    ----------
    path : Path
        The npz file.
    nucleus : int
        Which channel of the image shows nuclei.
    """

    def __init__(self, path: Path, nucleus: int) -> None:
        with np.load(path) as file:
            image, cells, nuclei = (file[name] for name in ("image", "cells", "nuclei"))
        shapes = {image.shape[1:], cells.shape, nuclei.shape}
        if image.ndim != 3 or len(shapes) > 1 or nucleus >= len(image):
            raise InputError(
                f"{path} holds an image {image.shape}, cells {cells.shape} and nuclei "
                f"{nuclei.shape}, expected (c, y, x) with a channel {nucleus}, and twice "
                f"(y, x)."
            )
        _check_values(path, image, cells, nuclei)
        image = np.stack([scaled(channel) for channel in image])
        others = np.delete(image, nucleus, axis=0)
        both = cells.astype(np.uint32), nuclei.astype(np.uint32)
        self._example = Example(image[nucleus], others, *both)

    def draw(self, rng: Rng) -> Example:
        """Return the image."""
        del rng
        return self._example


class Synthetic:
    """Tissue that is drawn anew each time, at pixel sizes all about."""

    def draw(self, rng: Rng) -> Example:
        """Return a window of a slide of its own."""
        mpp = float(np.exp(rng.uniform(*np.log(_SYNTHETIC_MPP))))
        side = 4 * _SYNTHETIC_PX
        tissue = Tissue((side, side), int(rng.integers(2**31)), mpp)
        y, x = (int(v) for v in rng.integers(0, side - _SYNTHETIC_PX, 2))
        scene = tissue.render(Window(y, x, y + _SYNTHETIC_PX, x + _SYNTHETIC_PX))
        pixels = np.stack([scaled(channel) for channel in scene.pixels])
        nuclei = scene.nuclei
        return Example(pixels[0], pixels[_MEMBRANE], scene.cells, nuclei)


@lru_cache(maxsize=1)
def _scaled_slide(path: Path) -> NDArray[np.float32]:
    """Read a TIFF (c, y, x) and scale each channel; sources of one image share it."""
    import tifffile

    slide = tifffile.imread(path)
    _check_values(path, slide)
    return np.stack([scaled(channel) for channel in slide])


def _check_values(path: Path, image: NDArray[Any], *labels: NDArray[Any]) -> None:
    """Check that grey levels are numbers from 0 on, and labels integers."""
    lowest, highest = float(image.min(initial=0)), float(image.max(initial=0))
    if not (lowest >= 0 and np.isfinite(highest)):
        raise InputError(
            f"{path} has grey levels from {lowest:g} to {highest:g}, expected numbers from "
            f"0 on: correct the image."
        )
    wrong = [str(plane.dtype) for plane in labels if plane.dtype.kind not in "iu"]
    if wrong:
        raise InputError(f"{path} has labels of {wrong[0]}, expected integers.")


def scaled(channel: NDArray[Any]) -> NDArray[np.float32]:
    """Scale grey levels so that the 99.5th percentile of what is not 0 becomes 1."""
    values = np.asarray(channel, np.float32)
    lit = values[values > 0]
    top = float(np.percentile(lit, BRIGHT_PERCENT)) if lit.size else 1.0
    return values / np.float32(max(top, 1e-6))


def choose(sources: Sequence[Source], weights: Sequence[float], rng: Rng) -> Example:
    """Draw from one of the sources, the likelier the greater its weight."""
    share = np.asarray(weights, np.float64)
    return sources[int(rng.choice(len(sources), p=share / share.sum()))].draw(rng)
