"""Resizing of images and labels between pixel sizes, window by window.

Each window is, to the last bit, that window of the whole image resized by scikit-image
(images, labels) or by OpenCV (labels), as `deepcell_toolbox.utils.resize` calls them around
a network with a fixed pixel size. Coordinates are computed from the image's corner in
float64 before they are moved to the window. Sums and products follow the order of
`scipy.ndimage.zoom`: integer images are truncated, so that the last bit of a sum can change
an intensity by 1.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import floor, isfinite
from typing import Any, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from codexseg.arrays import Float64, Int64, Pixels
from codexseg.core.grid import Window
from codexseg.core.kernel import kernel
from codexseg.errors import InputError

Rule = Literal["skimage", "opencv"]
Pixel = TypeVar("Pixel", bound=np.number[Any])
Label = TypeVar("Label", bound=np.integer[Any])
Span = tuple[int, int]

TRUNCATE = 4.0  # radius of the Gaussian in sigmas, scipy.ndimage.gaussian_filter
_DTYPES = ("uint8", "uint16", "uint32", "int8", "int16", "int32", "float32", "float64")


@dataclass(frozen=True)
class Scaling:
    """Transform between an image at one pixel size and at another.

    Parameters
    ----------
    source : (int, int)
        Height and width of the image, px.
    target : (int, int)
        Height and width of the resized image, px.

    Raises
    ------
    InputError
        If a side is shorter than 1 px.
    """

    source: tuple[int, int]
    target: tuple[int, int]

    def __post_init__(self) -> None:
        if min(*self.source, *self.target) < 1:
            raise InputError(
                f"Sizes are {self.source} and {self.target}, expected at least 1 px on "
                f"each axis. Check the image and the pixel sizes."
            )

    @classmethod
    def by(cls, source: tuple[int, int], factor: float) -> "Scaling":
        """Scale both axes by a factor, truncated to whole pixels as in deepcell.

        Parameters
        ----------
        source : (int, int)
            Height and width of the image, px.
        factor : float
            Pixel size of the image over that of the resized image. Sides are at least
            1 px; deepcell fails on shorter ones.

        Raises
        ------
        InputError
            If the factor is not a positive number.
        """
        if not (isfinite(factor) and factor > 0):
            raise InputError(
                f"The scale factor is {factor}, expected a positive number. Check the "
                f"pixel sizes (mpp)."
            )
        height, width = (max(1, int(side * factor)) for side in source)
        return cls(source, (height, width))

    @property
    def is_identity(self) -> bool:
        """Whether source and target have the same size."""
        return self.source == self.target

    def source_window(self, window: Window) -> Window:
        """Return the source window that `resize` needs for a window of the target.

        Parameters
        ----------
        window : Window
            Of the target, px.

        Returns
        -------
        Window
            Of the source, px: the interpolated pixels and the radius of the filter
            around them, clipped to the image.

        Raises
        ------
        InputError
            If the window is empty or extends beyond the target.
        """
        _check_within(window, self.target, "target")
        return _window(map(_needed, _spans(window), self.source, self.target))

    def target_window(self, window: Window) -> Window:
        """Return the target window that `nearest` needs for a window of the source.

        Parameters
        ----------
        window : Window
            Of the source, px.

        Returns
        -------
        Window
            Of the target, px: the smallest window that serves both rules. It reaches
            the target's edge if the given window is at an edge of the image.

        Raises
        ------
        InputError
            If the window is empty or extends beyond the source.
        """
        _check_within(window, self.source, "source")
        return _window(map(_labelled, _spans(window), self.source, self.target))

    def resize(
        self,
        pixels: NDArray[Pixel],
        read: Window,
        window: Window,
        bounds: tuple[float, float],
    ) -> NDArray[Pixel]:
        """Return a window of the resized image.

        Source: scikit-image 0.22 to 0.26, `transform.resize(image, (H, W, c), order=1,
        mode="constant", preserve_range=True, anti_aliasing=True)` of the whole (y, x, c)
        image, cast back to its dtype. Axes that shrink are smoothed by a Gaussian with
        sigma (source / target - 1) / 2. Pixels beyond the image are 0: its edge darkens
        and is then clipped to the image's range.

        Parameters
        ----------
        pixels : (c, y, x) uint8..uint32, int8..int32, float32 or float64
            Finite pixels of `read`.
        read : Window
            Of the source, px: `source_window(window)` or a window that contains it.
        window : Window
            Of the target, px.
        bounds : (float, float)
            Minimum and maximum of the whole image over all channels.

        Returns
        -------
        (c, y, x) of the dtype of `pixels`
            Integers are truncated. float32 is filtered in float32.

        Raises
        ------
        InputError
            If `read` is too small, or `pixels` has another shape or dtype.
        """
        _check_pixels(pixels, read)
        _check_contains(read, self.source_window(window), window)
        if self.is_identity:
            return pixels[(slice(None), *window.within(read))].copy()
        factors = [s / t for s, t in zip(self.source, self.target, strict=True)]
        smooth: Pixels = np.ascontiguousarray(pixels)
        if max(factors) > 1:
            work = pixels.dtype if pixels.dtype.kind == "f" else np.dtype(np.float64)
            sigmas = [0.0, *map(_sigma, factors)]
            smooth = ndimage.gaussian_filter(
                smooth, sigmas, output=work, mode="grid-constant", truncate=TRUNCATE
            )
        resized = np.empty((len(pixels), *window.shape), pixels.dtype)
        rows, columns = _spans(window)
        y = _taps(rows, self.source[0], self.target[0], read.y0)
        x = _taps(columns, self.source[1], self.target[1], read.x0)
        _interpolate(smooth, *y, *x, float(bounds[0]), float(bounds[1]), resized)
        return resized

    def nearest(
        self, labels: NDArray[Label], read: Window, window: Window, *, rule: Rule
    ) -> NDArray[Label]:
        """Return a window of the image filled with labels of the resized image.

        Parameters
        ----------
        labels : (y, x) integer
            Labels of the target in `read`.
        read : Window
            Of the target, px: `target_window(window)` or a window that contains it.
        window : Window
            Of the source, px.
        rule : {"skimage", "opencv"}
            Definition of the nearest pixel. "skimage" measures between centres of pixels
            (`skimage.transform.resize` with order 0, mode "constant", no anti-aliasing;
            deepcell uses it for two compartments). "opencv" measures between their
            corners (`cv2.resize` with INTER_NEAREST; deepcell uses it for one
            compartment). They differ by up to a pixel.

        Returns
        -------
        (y, x) of the dtype of `labels`
            Labels keep their numbers. Small objects may vanish if the image shrinks.

        Raises
        ------
        InputError
            If `read` is too small, `labels` has another shape, or the rule is unknown.
        """
        if rule not in get_args(Rule):
            rules = ", ".join(get_args(Rule))
            raise InputError(f"Unknown rule {rule!r}, expected one of {rules}.")
        if labels.shape != read.shape:
            raise InputError(
                f"Labels have shape {labels.shape}, expected (y, x) {read.shape} to cover "
                f"{read}."
            )
        _check_contains(read, self.target_window(window), window)
        rows, columns = _spans(window)
        y = _nearest(rows, self.source[0], self.target[0], rule) - read.y0
        x = _nearest(columns, self.source[1], self.target[1], rule) - read.x0
        return labels[y[:, None], x]


def _sigma(factor: float) -> float:
    """Return the sigma of the Gaussian, px of the source.

    `factor` is the number of source pixels per target pixel (skimage.transform.resize).
    """
    return max(0.0, (factor - 1) / 2)


def _centres(span: Span, source: int, target: int) -> Float64:
    """Return the source coordinates of the centres of target pixels, px."""
    pixels = np.arange(*span, dtype=np.float64)
    return (pixels + 0.5) * (source / target) - 0.5


def _needed(span: Span, source: int, target: int) -> Span:
    """Return the source pixels needed for a span of target pixels on one axis."""
    if source == target:
        return span
    first, last = span
    radius = int(TRUNCATE * _sigma(source / target) + 0.5)
    start, stop = (_centres((i, i + 1), source, target)[0] for i in (first, last - 1))
    return max(0, floor(start) - radius), min(source, floor(stop) + 2 + radius)


def _labelled(span: Span, source: int, target: int) -> Span:
    """Return the target pixels needed for a span of source pixels by either rule."""
    first, last = span
    ends = [
        int(_nearest((i, i + 1), source, target, rule)[0])
        for i in (first, last - 1)
        for rule in get_args(Rule)
    ]
    # OpenCV's rule always uses the first pixel, but not the last
    return min(ends), max(ends) + 1 if last < source else target


def _taps(span: Span, source: int, target: int, origin: int) -> tuple[Int64, Float64]:
    """Return indices (from `origin`) and weights of two source pixels each: (2, n)."""
    centres = _centres(span, source, target)
    below = np.floor(centres)
    index = below.astype(np.int64) + np.array([[0], [1]])
    fraction = centres - below
    weights = np.stack([1.0 - fraction, fraction])
    weights[(index < 0) | (index >= source)] = 0.0
    # clipped indices have weight 0: beyond the image, or on an axis of equal size
    first, last = _needed(span, source, target)
    return index.clip(first, last - 1) - origin, weights


def _nearest(span: Span, source: int, target: int, rule: Rule) -> Int64:
    """Return the target pixels that are nearest to a span of source pixels."""
    if rule == "skimage":
        index = np.floor(_centres(span, target, source) + 0.5)
    else:  # cv::resize computes inv_scale = dst / src and uses 1 / inv_scale
        scale = 1.0 / (source / target)
        index = np.minimum(np.floor(np.arange(*span) * scale), target - 1)
    return index.astype(np.int64)


@kernel
def _interpolate(
    image: Pixels,
    rows: Int64,
    row_weights: Float64,
    columns: Int64,
    column_weights: Float64,
    lowest: float,
    highest: float,
    out: Pixels,
) -> None:
    """Interpolate between four pixels, clip, and cast to the dtype of `out`, (c, y, x).

    Bilinear interpolation of scipy.ndimage.zoom (order 1). Both bounds are values of the
    dtype, so that clipping before the cast equals clipping after it. scikit-image widens
    the range if its fill value (0) occurs in the result. This is not needed here, as every
    pixel has a neighbour within the image.
    """
    channels, height, width = out.shape
    for c in range(channels):
        for y in range(height):
            above, below = image[c, rows[0, y]], image[c, rows[1, y]]
            v0, v1 = row_weights[0, y], row_weights[1, y]
            for x in range(width):
                left, right = columns[0, x], columns[1, x]
                w0, w1 = column_weights[0, x], column_weights[1, x]
                value = 0.0 + above[left] * v0 * w0  # starts at +0.0: never -0.0
                value += above[right] * v0 * w1
                value += below[left] * v1 * w0
                value += below[right] * v1 * w1
                if value < lowest:
                    value = lowest
                elif value > highest:
                    value = highest
                out[c, y, x] = value


def _spans(window: Window) -> tuple[Span, Span]:
    """Return the rows and the columns of a window, half-open."""
    return (window.y0, window.y1), (window.x0, window.x1)


def _window(spans: Iterable[Span]) -> Window:
    """Return the window of these rows and columns."""
    (y0, y1), (x0, x1) = spans
    return Window(y0, x0, y1, x1)


def _check_within(window: Window, shape: tuple[int, int], image: str) -> None:
    if window.intersection(Window(0, 0, *shape)) != window:
        raise InputError(
            f"{window} is not a window of the {image} {shape}, expected at least 1 px "
            f"within it."
        )


def _check_contains(read: Window, needed: Window, window: Window) -> None:
    if read.intersection(needed) != needed:
        raise InputError(f"{read} does not contain {needed}, which {window} depends on.")


def _check_pixels(pixels: Pixels, read: Window) -> None:
    if pixels.ndim != 3 or pixels.shape[1:] != read.shape:
        raise InputError(
            f"Pixels have shape {pixels.shape}, expected (c, y, x) with y, x {read.shape} "
            f"to cover {read}."
        )
    if pixels.dtype.name not in _DTYPES:
        raise InputError(
            f"Pixels have dtype {pixels.dtype}, expected one of {', '.join(_DTYPES)}. "
            f"Convert the image."
        )
