"""Histograms, percentiles, sums and block means of intensities; merging of channels."""

from collections.abc import Sequence

import numpy as np

from codexseg.arrays import Float32, Float64, Int64, Pixels
from codexseg.core.kernel import kernel
from codexseg.errors import InputError

N_BINS = 65536
"""Bins of a histogram: the intensities of uint8 and uint16, or steps of 0.8 %."""


def histogram(pixels: Pixels) -> Int64:
    """Count the pixels of an image by intensity. Histograms of windows add up.

    Parameters
    ----------
    pixels : (y, x) uint8, uint16 or float32
        Integers are counted exactly. Floats must be finite and not negative. They are
        counted by their upper 16 bits (sign, exponent, 7 bits of mantissa), in ascending
        bins that are at most 0.8 % of the value wide.

    Returns
    -------
    counts : (65536,) int64

    Raises
    ------
    InputError
        If the image has another dtype.
    """
    counts = np.zeros(N_BINS, np.int64)
    if pixels.dtype.kind == "f":
        bits = np.asarray(pixels, np.float32).view(np.uint32)
        _count(bits, 16, 0x7FFF, counts)  # without the sign: -0.0 is 0
    else:
        check_dtype(pixels)
        _count(pixels, 0, 0xFFFF, counts)
    return counts


def check_dtype(pixels: Pixels) -> None:
    """Check the dtype of an image.

    Raises
    ------
    InputError
        Unless it is uint8, uint16 or float32.
    """
    if pixels.dtype not in (np.uint8, np.uint16, np.float32):
        raise InputError(
            f"Pixels have dtype {pixels.dtype}, expected uint8, uint16 or float32. "
            f"Convert the image."
        )


@kernel
def _count(bits: Pixels, shift: int, mask: int, counts: Int64) -> None:
    height, width = bits.shape
    for y in range(height):
        for x in range(width):
            counts[(bits[y, x] >> shift) & mask] += 1


@kernel
def are_intensities(pixels: Pixels) -> bool:
    """Return whether all pixels of an image (y, x) are finite and at least 0."""
    invalid = 0
    height, width = pixels.shape
    for y in range(height):
        for x in range(width):
            invalid += not 0 <= pixels[y, x] < np.inf
    return invalid == 0


@kernel
def sum_intensities(pixels: Pixels) -> Float64:
    """Return range and sums of an image. Sums of windows add up.

    Parameters
    ----------
    pixels : (y, x) uint8, uint16 or float32

    Returns
    -------
    sums : (4,) float64
        Minimum, maximum, sum and sum of squares. Without pixels inf, -inf, 0 and 0.
    """
    height, width = pixels.shape
    # Column by column: the order is fixed, and the loops are vectorised.
    minima, maxima = np.full(width, np.inf), np.full(width, -np.inf)
    totals, squares = np.zeros(width), np.zeros(width)
    for y in range(height):
        for x in range(width):
            value = np.float64(pixels[y, x])
            minima[x] = min(minima[x], value)
            maxima[x] = max(maxima[x], value)
            totals[x] += value
            squares[x] += value * value
    sums = np.array([np.inf, -np.inf, 0.0, 0.0])
    for x in range(width):
        sums[0] = min(sums[0], minima[x])
        sums[1] = max(sums[1], maxima[x])
        sums[2] += totals[x]
        sums[3] += squares[x]
    return sums


def bin_values(dtype: np.dtype[np.generic]) -> Float64:
    """Return the intensity that represents each bin of :func:`histogram`.

    Parameters
    ----------
    dtype : dtype
        Of the pixels. Bins of floats are represented by their middle, bin 0 by 0.

    Returns
    -------
    values : (65536,) float64
    """
    bins = np.arange(N_BINS, dtype=np.uint32)
    if dtype.kind == "f":
        middle = (bins << np.uint32(16)) | np.uint32(0x8000)
        middle[0] = 0
        with np.errstate(invalid="ignore"):  # bins of NaN, always empty
            return middle.view(np.float32).astype(np.float64)
    return bins.astype(np.float64)


def percentile(counts: Int64, percent: float, dtype: np.dtype[np.generic]) -> float:
    """Return a percentile of the pixels of a histogram.

    It is the smallest intensity that at least `percent` % of the pixels do not exceed
    (numpy's method "inverted_cdf"), and NaN if the histogram is empty.

    Parameters
    ----------
    counts : (65536,) int64
        See :func:`histogram`.
    percent : float
        0 to 100.
    dtype : dtype
        Of the pixels.
    """
    total = int(counts.sum())
    if total == 0:
        return float("nan")
    rank = max(1, int(np.ceil(total * percent / 100)))
    return float(bin_values(dtype)[int(np.searchsorted(np.cumsum(counts), rank))])


def merge_channels(
    markers: Sequence[Pixels], scales: Sequence[float] | None = None
) -> Pixels:
    """Merge markers into one whole-cell channel by their maximum.

    Parameters
    ----------
    markers : sequence of (y, x) arrays
        At least one. A single marker is returned unchanged, without a copy.
    scales : sequence of float, optional
        Divisors of the markers, such as their slide-wide 99.9th percentiles.

    Returns
    -------
    merged : (y, x)
        Of the dtype of the markers; float32 with scales.
    """
    if len(markers) == 1:
        return markers[0]
    if scales is None:
        return np.asarray(np.maximum.reduce(list(markers)))
    merged = np.zeros(markers[0].shape, np.float32)
    for marker, scale in zip(markers, scales, strict=True):
        factor = np.float32(1 / scale if scale > 0 else 0)
        np.maximum(merged, marker.astype(np.float32) * factor, out=merged)
    return merged


def block_mean(pixels: Pixels, factor: int) -> Float32:
    """Average square blocks of pixels.

    Parameters
    ----------
    pixels : (y, x) uint8, uint16 or float32
    factor : int
        Side of a block, px. The lower and the right edge are repeated to complete the
        last blocks.

    Returns
    -------
    means : (ceil(y / factor), ceil(x / factor)) float32
        Summed in float32: the pixels of each column from the top, then the columns from
        the left. The order is fixed, as thresholds depend on the last digit.
    """
    height, width = pixels.shape
    means = np.empty((-(-height // factor), -(-width // factor)), np.float32)
    _average(pixels, factor, means)
    return means


@kernel
def _average(pixels: Pixels, factor: int, means: Float32) -> None:
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
