"""Grey levels: histograms that add up, percentiles of them, merging of channels."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codexseg.core.kernel import kernel
from codexseg.errors import InputError

N_BINS = 65536
"""Bins of every histogram: the grey levels of uint8 and uint16, or steps of 0.8 %."""


def histogram(pixels: NDArray[Any]) -> NDArray[np.int64]:
    """Count the grey levels of an image; histograms of windows add up to the slide's.

    Parameters
    ----------
    pixels : (y, x) uint8, uint16 or float32
        Integers are counted exactly. Floats, which must be finite and not negative,
        are counted by their upper 16 bits (sign, exponent, 7 bits of mantissa): steps
        of at most 0.8 % of the value, in the order of the values.

    Returns
    -------
    counts : (65536,) int64

    Raises
    ------
    InputError
        If the image is of another dtype.
    """
    counts = np.zeros(N_BINS, np.int64)
    if pixels.dtype.kind == "f":
        bits = np.asarray(pixels, np.float32).view(np.uint32)
        _count(bits, 16, 0x7FFF, counts)  # -0.0 is 0
    elif pixels.dtype in (np.uint8, np.uint16):
        _count(pixels, 0, 0xFFFF, counts)
    else:
        raise InputError(
            f"pixels of {pixels.dtype} cannot be counted, expected uint8, uint16 or "
            f"float32: convert them."
        )
    return counts


@kernel
def _count(bits: NDArray[Any], shift: int, mask: int, counts: NDArray[np.int64]) -> None:
    height, width = bits.shape
    for y in range(height):
        for x in range(width):
            counts[(bits[y, x] >> shift) & mask] += 1


@kernel
def are_grey_levels(pixels: NDArray[Any]) -> bool:
    """Whether all pixels of an image (y, x) are finite and at least 0."""
    others = 0
    height, width = pixels.shape
    for y in range(height):
        for x in range(width):
            others += not 0 <= pixels[y, x] < np.inf
    return others == 0


@kernel
def sum_levels(pixels: NDArray[Any]) -> NDArray[np.float64]:
    """Add up the grey levels of an image; the sums of windows add up to the slide's.

    Parameters
    ----------
    pixels : (y, x) uint8, uint16 or float32

    Returns
    -------
    sums : (4,) float64
        Minimum and maximum (infinite where there is no pixel), sum and sum of squares.
    """
    height, width = pixels.shape
    # Column by column, so that the order is fixed and yet the loops are vectorised.
    lowest, highest = np.full(width, np.inf), np.full(width, -np.inf)
    totals, squares = np.zeros(width), np.zeros(width)
    for y in range(height):
        for x in range(width):
            value = np.float64(pixels[y, x])
            lowest[x] = min(lowest[x], value)
            highest[x] = max(highest[x], value)
            totals[x] += value
            squares[x] += value * value
    sums = np.array([np.inf, -np.inf, 0.0, 0.0])
    for x in range(width):
        sums[0] = min(sums[0], lowest[x])
        sums[1] = max(sums[1], highest[x])
        sums[2] += totals[x]
        sums[3] += squares[x]
    return sums


def bin_values(dtype: np.dtype[np.generic]) -> NDArray[np.float64]:
    """Return the grey level that each bin of :func:`histogram` stands for."""
    bins = np.arange(N_BINS, dtype=np.uint32)
    if dtype.kind == "f":
        middle = (bins << np.uint32(16)) | np.uint32(0x8000)
        middle[0] = 0
        with np.errstate(invalid="ignore"):  # bins of NaN, which no image has
            return middle.view(np.float32).astype(np.float64)
    return bins.astype(np.float64)


def percentile(
    counts: NDArray[np.int64], percent: float, dtype: np.dtype[np.generic]
) -> float:
    """Return the smallest grey level that at least `percent` % of the pixels do not exceed.

    NaN where the histogram is empty.
    """
    total = int(counts.sum())
    if total == 0:
        return float("nan")
    rank = max(1, int(np.ceil(total * percent / 100)))
    return float(bin_values(dtype)[int(np.searchsorted(np.cumsum(counts), rank))])


def merge_channels(
    markers: Sequence[NDArray[Any]], scales: Sequence[float] | None = None
) -> NDArray[Any]:
    """Merge markers into one whole-cell channel: their maximum.

    Parameters
    ----------
    markers : sequence of (y, x) arrays
        At least one; one marker alone is returned as it is.
    scales : sequence of float, optional
        Each marker is divided by its scale (its slide-wide 99.9th percentile) first.

    Returns
    -------
    merged : (y, x)
        dtype of the markers; float32 where scales are given.
    """
    if len(markers) == 1:
        return markers[0]
    if scales is None:
        merged: NDArray[Any] = np.maximum.reduce(list(markers))
        return merged
    merged = np.zeros(markers[0].shape, np.float32)
    for marker, scale in zip(markers, scales, strict=True):
        factor = np.float32(1 / scale if scale > 0 else 0)
        np.maximum(merged, marker.astype(np.float32) * factor, out=merged)
    return merged


def block_mean(pixels: NDArray[Any], factor: int) -> NDArray[np.float32]:
    """Average squares of pixels.

    Parameters
    ----------
    pixels : (y, x) uint8, uint16 or float32
    factor : int
        Side of a square, px. The lower and the right edge are repeated until squares fit.

    Returns
    -------
    means : (ceil(y / factor), ceil(x / factor)) float32
        Summed in float32, first the pixels of a column, from above, then these sums,
        from the left: thresholds of finished runs hang on the last digit.
    """
    height, width = pixels.shape
    means = np.empty((-(-height // factor), -(-width // factor)), np.float32)
    _average(pixels, factor, means)
    return means


@kernel
def _average(pixels: NDArray[Any], factor: int, means: NDArray[np.float32]) -> None:
    height, width = pixels.shape
    rows, columns = means.shape
    line = np.empty(columns * factor, np.float32)
    for row in range(rows):
        line[:] = 0
        for offset in range(factor):
            y = min(row * factor + offset, height - 1)
            for x in range(width):
                line[x] += np.float32(pixels[y, x])
        for x in range(width, line.size):
            line[x] = line[width - 1]
        for column in range(columns):
            total = np.float32(0)
            for x in range(column * factor, (column + 1) * factor):
                total += line[x]
            means[row, column] = total / np.float32(factor * factor)
