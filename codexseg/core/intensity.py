"""Grey levels: histograms that add up, percentiles of them, merging of channels."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    """
    if pixels.dtype.kind == "f":
        bits = np.ascontiguousarray(pixels, np.float32).view(np.uint32) >> np.uint32(16)
        return np.bincount(bits.ravel(), minlength=N_BINS)
    return np.bincount(pixels.ravel(), minlength=N_BINS)


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


def block_mean(pixels: NDArray[np.generic], factor: int) -> NDArray[np.float32]:
    """Average squares of `factor` px; at the lower and right edge, of what is there."""
    height, width = pixels.shape
    pad = (-height % factor, -width % factor)
    if any(pad):
        pixels = np.pad(pixels, ((0, pad[0]), (0, pad[1])), mode="edge")
    rows, columns = pixels.shape[0] // factor, pixels.shape[1] // factor
    lines = np.zeros((rows, pixels.shape[1]), np.float32)
    for offset in range(factor):
        lines += pixels[offset::factor]
    means = np.zeros((rows, columns), np.float32)
    for offset in range(factor):
        means += lines[:, offset::factor]
    means /= np.float32(factor * factor)
    return means
