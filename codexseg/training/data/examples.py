"""Sources of training examples.

An example is an image with labels: one nuclear channel and any number of membrane markers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from codexseg.arrays import Float32, Labels, Pixels
from codexseg.core.grid import Window
from codexseg.errors import InputError
from codexseg.samples.tissue import MARKERS, Tissue

Rng = np.random.Generator

_MEMBRANE = [MARKERS.index(name) + 1 for name in ("PANCK", "CD45", "CD3", "VIM")]
LabelledWindow = tuple[tuple[slice, slice], tuple[Labels | None, Labels | None]]
"""Slices in y and x, and the labels of cells and nuclei there."""

BRIGHT_PERCENT = 99.5
"""Percentile of the pixels above 0 that is scaled to 1."""
_SYNTHETIC_MPP = (0.32, 0.9)  # shown at 0.5: cells of 0.55 to 1.5 times their size
_SYNTHETIC_PX = 400


@dataclass(frozen=True)
class Example:
    """An image with labels.

    Attributes
    ----------
    nucleus : (y, x) float32
        Nuclear channel, at least 0; 1 is bright.
    markers : (m, y, x) float32
        Membrane markers, scaled alike; m is 0 for images of nuclei alone.
    cells : (y, x) uint32 or None
        None where cells are not annotated.
    nuclei : (y, x) uint32 or None
        None where nuclei are not annotated; cells are present then.
    together : bool
        Whether the labels require all markers: they were drawn with all markers in view,
        and a cell may be visible in only one of them.
    """

    nucleus: Float32
    markers: Float32
    cells: Labels | None
    nuclei: Labels | None
    together: bool = False

    @property
    def labels(self) -> tuple[Labels | None, Labels | None]:
        """Labels of cells and of nuclei."""
        return self.cells, self.nuclei


class ExampleSource(Protocol):
    """Source of random examples."""

    def draw(self, rng: Rng) -> Example:
        """Return a random example."""
        ...


class ScaledImages:
    """Scaled images by path, shared by sources that read the same file."""

    def __init__(self) -> None:
        self._images: dict[Path, Float32] = {}

    def read(self, path: Path) -> Float32:
        """Return a TIFF (c, y, x) with each channel scaled; it is read once.

        Raises
        ------
        InputError
            If the image contains negative or non-finite values.
        """
        if path not in self._images:
            import tifffile

            image = tifffile.imread(path)
            _check_values(path, image)
            self._images[path] = np.stack([scale_to_bright(channel) for channel in image])
        return self._images[path]


class Crops:
    """Labelled crops of one large image.

    Parameters
    ----------
    image : Path
        TIFF (c, y, x). Channel 0 shows nuclei, the others membranes.
    labels : Path
        npz file with `yx` (n, 2) upper left corners, `cells` and `nuclei` (n, y, x).
    columns : (int, int)
        Only crops inside this range of columns are drawn.
    channels : sequence of int, optional
        Channels that the labels were drawn from, nuclei first. Their markers are always
        shown together. By default any markers of the image are shown.
    images : ScaledImages, optional
        Images that are already loaded.

    Raises
    ------
    InputError
        If image, labels and channels do not match, or no crop is inside the columns.
    """

    def __init__(
        self,
        image: Path,
        labels: Path,
        columns: tuple[int, int],
        channels: Sequence[int] | None = None,
        images: ScaledImages | None = None,
    ) -> None:
        self._image = (images or ScaledImages()).read(image)
        self._channels = list(range(len(self._image)) if channels is None else channels)
        self._together = channels is not None
        with np.load(labels) as file:
            corners, cells, nuclei = file["yx"], file["cells"], file["nuclei"]
        self._check(image, labels, corners, cells, nuclei)
        width = cells.shape[2]
        inside = (corners[:, 1] >= columns[0]) & (corners[:, 1] + width <= columns[1])
        if not inside.any():
            raise InputError(
                f"{labels} has no crop inside the columns {columns}. Widen columns in the "
                f"recipe."
            )
        self._corners = corners[inside]
        self._cells, self._nuclei = cells[inside], nuclei[inside]
        # crops with few cells contribute little, so they are drawn less often
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
        """Check that channels, labels and image match."""
        shape = self._image.shape
        if self._image.ndim != 3:
            raise InputError(f"{image} has shape {shape}, expected (c, y, x).")
        count, chosen = len(self._image), self._channels
        if max(chosen) >= count or len({*chosen}) < len(chosen):
            raise InputError(
                f"channels are {chosen}, expected different numbers below {count}, the "
                f"number of channels of {image}. Correct them in the recipe."
            )
        are_whole = all(a.dtype.kind in "iu" for a in (corners, cells, nuclei))
        fits = cells.ndim == 3 and corners.shape == (len(cells), 2)
        if not (are_whole and fits and cells.shape == nuclei.shape):
            raise InputError(
                f"{labels} contains yx {corners.shape} {corners.dtype}, cells "
                f"{cells.shape} {cells.dtype}, nuclei {nuclei.shape} {nuclei.dtype}, "
                f"expected integers (n, 2), (n, y, x) and (n, y, x). Create it again."
            )
        ends = corners + cells.shape[1:]
        if (corners < 0).any() or (ends > shape[1:]).any():
            raise InputError(
                f"{labels} has crops outside of {image}, {shape[1:]} px. Name the image "
                f"that the labels belong to."
            )

    def draw(self, rng: Rng) -> Example:
        """Return a random crop; crops with many cells are more likely."""
        number = int(rng.choice(len(self._corners), p=self._shares))
        return self._example(number)

    def __len__(self) -> int:
        return len(self._corners)

    def every(self) -> Iterator[Example]:
        """Yield all crops in order."""
        for number in range(len(self)):
            yield self._example(number)

    def _example(self, number: int) -> Example:
        window, labels = self._labelled(number)
        crop = self._image[self._channels, *window]
        return Example(crop[0], crop[1:], *labels, self._together)

    def _labelled(
        self, number: int, origin: tuple[int, int] = (0, 0)
    ) -> tuple[tuple[slice, slice], tuple[Labels, Labels]]:
        """Return the window of a crop, relative to `origin`, and its labels."""
        (y, x), (height, width) = self._corners[number] - origin, self._cells.shape[1:]
        cells, nuclei = self._cells[number], self._nuclei[number]
        window = slice(y, y + height), slice(x, x + width)
        return window, (cells.astype(np.uint32), nuclei.astype(np.uint32))

    def region(self) -> tuple[Float32, list[LabelledWindow]]:
        """Return the part of the image that contains the crops, and their labels.

        Returns
        -------
        image : (c, y, x) float32
        truth : list of (slices in y and x, (cells, nuclei))
        """
        y0, x0 = self._corners.min(axis=0)
        y1, x1 = self._corners.max(axis=0) + self._cells.shape[1:]
        image = self._image[self._channels, y0:y1, x0:x1]
        return image, [self._labelled(number, (y0, x0)) for number in range(len(self))]


class Nuclei:
    """Images of nuclei: npz file with `images` and `labels`, (n, y, x).

    Parameters
    ----------
    path : Path
        The npz file.
    share : float
        Share of the images, from the first, that may be drawn.

    Raises
    ------
    InputError
        If shapes or values of images and labels are invalid.
    """

    def __init__(self, path: Path, share: float) -> None:
        with np.load(path) as file:
            images, labels = file["images"], file["labels"]
        if not (images.ndim == 3 and len(images) and images.shape == labels.shape):
            raise InputError(
                f"{path} contains images {images.shape} and labels {labels.shape}, "
                f"expected (n, y, x) for both."
            )
        _check_values(path, images, labels)
        count = max(1, int(len(images) * share))
        self._images, self._labels = images[:count], labels[:count]

    def draw(self, rng: Rng) -> Example:
        """Return a random image."""
        number = int(rng.integers(len(self._images)))
        image = scale_to_bright(self._images[number])
        markers = np.zeros((0, *image.shape), np.float32)
        return Example(image, markers, None, self._labels[number].astype(np.uint32))


class LabelledImage:
    """One image: npz file with `image` (c, y, x), `cells` and `nuclei` (y, x).

    Parameters
    ----------
    path : Path
        The npz file.
    nucleus : int
        The nuclear channel.

    Raises
    ------
    InputError
        If shapes or values of image and labels are invalid.
    """

    def __init__(self, path: Path, nucleus: int) -> None:
        with np.load(path) as file:
            image, cells, nuclei = (file[name] for name in ("image", "cells", "nuclei"))
        shapes = {image.shape[1:], cells.shape, nuclei.shape}
        if image.ndim != 3 or len(shapes) > 1 or nucleus >= len(image):
            raise InputError(
                f"{path} contains an image {image.shape}, cells {cells.shape} and nuclei "
                f"{nuclei.shape}, expected (c, y, x) with a channel {nucleus}, and labels "
                f"(y, x) of the same size."
            )
        _check_values(path, image, cells, nuclei)
        image = np.stack([scale_to_bright(channel) for channel in image])
        markers = np.delete(image, nucleus, axis=0)
        labels = cells.astype(np.uint32), nuclei.astype(np.uint32)
        self._example = Example(image[nucleus], markers, *labels)

    def draw(self, rng: Rng) -> Example:
        """Return the image."""
        del rng
        return self._example


class Synthetic:
    """Rendered tissue at random pixel sizes, a different slide for each example."""

    def draw(self, rng: Rng) -> Example:
        """Return a random window of a random slide."""
        mpp = float(np.exp(rng.uniform(*np.log(_SYNTHETIC_MPP))))
        side = 4 * _SYNTHETIC_PX
        tissue = Tissue((side, side), int(rng.integers(2**31)), mpp)
        y, x = (int(v) for v in rng.integers(0, side - _SYNTHETIC_PX, 2))
        rendered = tissue.render(Window(y, x, y + _SYNTHETIC_PX, x + _SYNTHETIC_PX))
        pixels = np.stack([scale_to_bright(channel) for channel in rendered.pixels])
        return Example(pixels[0], pixels[_MEMBRANE], rendered.cells, rendered.nuclei)


def _check_values(path: Path, image: Pixels, *labels: NDArray[Any]) -> None:
    """Check that intensities are finite and at least 0, and that labels are integers."""
    lowest, highest = float(image.min(initial=0)), float(image.max(initial=0))
    if not (lowest >= 0 and np.isfinite(highest)):
        raise InputError(
            f"{path} has intensities from {lowest:g} to {highest:g}, expected finite "
            f"numbers of at least 0. Correct the image."
        )
    wrong = [str(plane.dtype) for plane in labels if plane.dtype.kind not in "iu"]
    if wrong:
        raise InputError(f"{path} has labels of {wrong[0]}, expected integers.")


def scale_to_bright(channel: Pixels) -> Float32:
    """Scale intensities so that the 99.5th percentile of the pixels above 0 becomes 1."""
    values = np.asarray(channel, np.float32)
    lit = values[values > 0]
    top = float(np.percentile(lit, BRIGHT_PERCENT)) if lit.size else 1.0
    return values / np.float32(max(top, 1e-6))


def draw_window(shape: Sequence[int], max_px: int, rng: Rng) -> tuple[slice, slice]:
    """Return a random window of at most `max_px` a side in an image of `shape`, px."""
    starts = [int(rng.integers(0, max(0, side - max_px) + 1)) for side in shape]
    y, x = (slice(start, start + max_px) for start in starts)
    return y, x


def draw_example(
    sources: Sequence[ExampleSource], weights: Sequence[float], rng: Rng
) -> Example:
    """Draw from a random source; probabilities are proportional to the weights."""
    share = np.asarray(weights, np.float64)
    return sources[int(rng.choice(len(sources), p=share / share.sum()))].draw(rng)
