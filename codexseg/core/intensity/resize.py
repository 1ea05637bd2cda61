"""Images and labels from one pixel size to another, window by window.

Each window is, to the last bit, that window of the whole image resized at once by
scikit-image (images, labels) or by OpenCV (labels), as `deepcell_toolbox.utils.resize`
calls them around a network of a fixed pixel size. Coordinates are counted from the
image's corner in float64 and only then moved to the window's, and sums and products
are in the order of `scipy.ndimage.zoom`: integer images are truncated at the end, where
the last bit of a sum can be a whole grey level.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import floor, isfinite
from typing import Any, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from codexseg.core.grid import Window
from codexseg.core.kernel import kernel
from codexseg.errors import InputError

Rule = Literal["skimage", "opencv"]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Pixel = TypeVar("Pixel", bound=np.number[Any])
Label = TypeVar("Label", bound=np.integer[Any])
Span = tuple[int, int]

TRUNCATE = 4.0  # sigmas, where scipy.ndimage.gaussian_filter ends its kernel


@dataclass(frozen=True)
class Scaling:
    """From an image at one pixel size to the same image at another.

    Parameters
    ----------
    source : (int, int)
        Height and width of the image, px.
    target : (int, int)
        Height and width of the resized image, px.

    Raises
    ------
    InputError
        A side is shorter than 1 px.
    """

    source: tuple[int, int]
    target: tuple[int, int]

    def __post_init__(self) -> None:
        if min(*self.source, *self.target) < 1:
            raise InputError(
                f"an image is resized from at least 1 px to at least 1 px on each axis, "
                f"got {self.source} to {self.target}."
            )

    @classmethod
    def by(cls, source: tuple[int, int], factor: float) -> "Scaling":
        """Scale both axes by a factor, truncating to whole pixels as deepcell does.

        Parameters
        ----------
        source : (int, int)
            Height and width of the image, px.
        factor : float
            Pixel size of the image over that of the resized image. What would be
            shorter than 1 px, on which deepcell fails, is 1 px.

        Raises
        ------
        InputError
            The factor is not a positive number.
        """
        if not (isfinite(factor) and factor > 0):
            raise InputError(
                f"an image cannot be scaled by {factor}: the factor is a positive number; "
                f"check the pixel sizes (mpp) that it comes from."
            )
        height, width = (max(1, int(side * factor)) for side in source)
        return cls(source, (height, width))

    @property
    def is_identity(self) -> bool:
        """Whether the resized image is the image."""
        return self.source == self.target

    def source_window(self, window: Window) -> Window:
        """Return what `resize` must read to make a window of the target.

        Parameters
        ----------
        window : Window
            Of the target, px.

        Returns
        -------
        Window
            Of the source, px: the neighbours between which is interpolated and the
            radius of the filter around them, clipped to the image.

        Raises
        ------
        InputError
            The window is empty or leaves the target.
        """
        _check_within(window, self.target, "target")
        spans = zip(_spans(window), self.source, self.target, strict=True)
        return _window(_needed(span, source, target) for span, source, target in spans)

    def target_window(self, window: Window) -> Window:
        """Return what `nearest` must be given to fill a window of the source.

        Parameters
        ----------
        window : Window
            Of the source, px.

        Returns
        -------
        Window
            The smallest of the target that serves both rules. Where the window lies at
            an edge of the image, it reaches the target's edge.

        Raises
        ------
        InputError
            The window is empty or leaves the source.
        """
        _check_within(window, self.source, "source")
        spans = zip(_spans(window), self.source, self.target, strict=True)
        return _window(_found(span, source, target) for span, source, target in spans)

    def resize(
        self,
        pixels: NDArray[Pixel],
        read: Window,
        window: Window,
        bounds: tuple[float, float],
    ) -> NDArray[Pixel]:
        """Make a window of the resized image.

        Source: scikit-image 0.22 to 0.26, `transform.resize(image, (H, W, c), order=1,
        mode="constant", preserve_range=True, anti_aliasing=True)` of the whole (y, x, c)
        image, cast back to its dtype. Axes that shrink are smoothed by a Gaussian of
        sigma (source / target - 1) / 2; beyond the image everything is 0, so its edge
        darkens until it is clipped to the image's range.

        Parameters
        ----------
        pixels : (c, y, x) uint8..uint32, int8..int32, float32 or float64
            The source under `read`, finite.
        read : Window
            Of the source, px: `source_window(window)`, or one that holds it.
        window : Window
            Of the target, px.
        bounds : (float, float)
            Smallest and largest grey level of the whole image, all channels together.

        Returns
        -------
        (c, y, x) of the dtype of `pixels`
            Integers are truncated, not rounded. float32 is filtered in float32.

        Raises
        ------
        InputError
            `read` lacks a pixel, or `pixels` has another shape or kind.
        """
        _check_pixels(pixels, read)
        _check_holds(read, self.source_window(window), window)
        if self.is_identity:
            return pixels[(slice(None), *window.within(read))].copy()
        factors = [s / t for s, t in zip(self.source, self.target, strict=True)]
        smooth: NDArray[Any] = np.ascontiguousarray(pixels)
        if max(factors) > 1:
            work = pixels.dtype if pixels.dtype.kind == "f" else np.dtype(np.float64)
            sigmas = [0.0, *map(_sigma, factors)]
            smooth = ndimage.gaussian_filter(
                smooth, sigmas, output=work, mode="grid-constant", truncate=TRUNCATE
            )
        made = np.empty((len(pixels), *window.shape), pixels.dtype)
        rows, columns = _spans(window)
        y = _taps(rows, self.source[0], self.target[0], read.y0)
        x = _taps(columns, self.source[1], self.target[1], read.x0)
        _interpolate(smooth, *y, *x, float(bounds[0]), float(bounds[1]), made)
        return made

    def nearest(
        self, labels: NDArray[Label], found: Window, window: Window, *, rule: Rule
    ) -> NDArray[Label]:
        """Bring labels of the resized image back to a window of the image.

        Parameters
        ----------
        labels : (y, x) integer
            Labels in the target under `found`.
        found : Window
            Of the target, px: `target_window(window)`, or one that holds it.
        window : Window
            Of the source, px.
        rule : {"skimage", "opencv"}
            Which pixel is nearest: "skimage" measures between centres of pixels
            (`skimage.transform.resize` of order 0, mode "constant", without
            anti-aliasing: deepcell for both compartments at once), "opencv" between
            their corners (`cv2.resize` with INTER_NEAREST: deepcell for one
            compartment). They differ by up to a pixel.

        Returns
        -------
        (y, x) of the dtype of `labels`
            Labels are not numbered anew; small ones may vanish where the image shrinks.

        Raises
        ------
        InputError
            `found` lacks a pixel, `labels` has another shape, or there is no such rule.
        """
        if rule not in get_args(Rule):
            raise InputError(f"rule {rule!r}: expected one of {', '.join(get_args(Rule))}.")
        if labels.shape != found.shape:
            raise InputError(
                f"labels of shape {labels.shape} do not cover {found}: expected (y, x) "
                f"{found.shape}."
            )
        _check_holds(found, self.target_window(window), window)
        rows, columns = _spans(window)
        y = _nearest(rows, self.source[0], self.target[0], rule) - found.y0
        x = _nearest(columns, self.source[1], self.target[1], rule) - found.x0
        return labels[y[:, None], x]


def _sigma(factor: float) -> float:
    """Width of the Gaussian, px of the source, at so many px of it per px of the target."""
    return max(0.0, (factor - 1) / 2)


def _centres(span: Span, source: int, target: int) -> Floats:
    """Where the centres of a span of target pixels lie in the source, px."""
    pixels = np.arange(*span, dtype=np.float64)
    return (pixels + 0.5) * (source / target) - 0.5


def _needed(span: Span, source: int, target: int) -> Span:
    """Source pixels that a span of target pixels is made of, on one axis."""
    if source == target:
        return span
    first, last = span
    radius = int(TRUNCATE * _sigma(source / target) + 0.5)
    start, stop = (_centres((i, i + 1), source, target)[0] for i in (first, last - 1))
    return max(0, floor(start) - radius), min(source, floor(stop) + 2 + radius)


def _found(span: Span, source: int, target: int) -> Span:
    """Target pixels that fill a span of source pixels by either rule, on one axis."""
    first, last = span
    ends = [
        int(_nearest((i, i + 1), source, target, rule)[0])
        for i in (first, last - 1)
        for rule in get_args(Rule)
    ]
    # the first pixel is always used, by OpenCV's rule; the last is not
    return min(ends), max(ends) + 1 if last < source else target


def _taps(span: Span, source: int, target: int, origin: int) -> tuple[Ints, Floats]:
    """Between which two pixels, counted from `origin`, and in what parts: (2, n) each."""
    centres = _centres(span, source, target)
    below = np.floor(centres)
    index = below.astype(np.int64) + np.array([[0], [1]])
    part = centres - below
    weights = np.stack([1.0 - part, part])
    weights[(index < 0) | (index >= source)] = 0.0
    # weightless where it is clipped: beyond the image, or an axis that is not resized
    first, last = _needed(span, source, target)
    return index.clip(first, last - 1) - origin, weights


def _nearest(span: Span, source: int, target: int, rule: Rule) -> Ints:
    """Target pixels that are nearest to a span of source pixels, on one axis."""
    if rule == "skimage":
        index = np.floor(_centres(span, target, source) + 0.5)
    else:  # OpenCV's scale is the inverse of an inverse, not target / source
        scale = 1.0 / (source / target)
        index = np.minimum(np.floor(np.arange(*span) * scale), target - 1)
    return index.astype(np.int64)


@kernel
def _interpolate(
    image: NDArray[Any],
    rows: Ints,
    row_weights: Floats,
    columns: Ints,
    column_weights: Floats,
    lowest: float,
    highest: float,
    out: NDArray[Any],
) -> None:
    """Interpolate between four pixels, clip, and cast to the dtype of `out`, (c, y, x).

    Clipping before the cast is clipping after it: both bounds are values of the dtype.
    scikit-image's wider range where its fill value (0) occurs in the result is not
    needed: no pixel is made of the fill value alone.
    """
    channels, height, width = out.shape
    for c in range(channels):
        for y in range(height):
            above, below = image[c, rows[0, y]], image[c, rows[1, y]]
            v0, v1 = row_weights[0, y], row_weights[1, y]
            for x in range(width):
                left, right = columns[0, x], columns[1, x]
                w0, w1 = column_weights[0, x], column_weights[1, x]
                value = 0.0 + above[left] * v0 * w0  # from +0.0, so never -0.0
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


def _check_within(window: Window, shape: tuple[int, int], what: str) -> None:
    (y0, y1), (x0, x1) = _spans(window)
    if not (0 <= y0 < y1 <= shape[0] and 0 <= x0 < x1 <= shape[1]):
        raise InputError(
            f"{window} is not a window of the {what}, which has {shape} px: expected at "
            f"least 1 px within it."
        )


def _check_holds(given: Window, needed: Window, window: Window) -> None:
    if given.intersection(needed) != needed:
        raise InputError(f"{given} does not hold {needed}, which {window} is made from.")


def _check_pixels(pixels: NDArray[Any], read: Window) -> None:
    if pixels.ndim != 3 or pixels.shape[1:] != read.shape:
        raise InputError(
            f"pixels of shape {pixels.shape} do not cover {read}: expected (c, y, x) with "
            f"y, x {read.shape}."
        )
    if pixels.dtype.name not in _DTYPES:
        raise InputError(
            f"pixels of {pixels.dtype} cannot be resized: expected {', '.join(_DTYPES)}."
        )


_DTYPES = ("uint8", "uint16", "uint32", "int8", "int16", "int32", "float32", "float64")
