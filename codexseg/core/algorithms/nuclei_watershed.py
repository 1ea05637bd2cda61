"""A watershed of nuclei in which every decision is local, so that patches do not show.

A pixel's fate depends on pixels near it and on constants of the whole slide only: never
on label numbers, on where the window starts or on the order of a scan. Filters have
finite support and one fixed order of operations per pixel; basins are found by steepest
ascent under a total order (Mortensen and Barrett 1999, toboggan), not by flooding from a
queue; over-segmentation is repaired by rules about pairs of whole basins.

The defaults are what a search found, rounded, on 7 crops of the left half of a lung
cancer slide (labels of InstanSeg), one crop of cultured cells and synthetic tissue.
"""

from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codexseg.arrays import Float32, Float64, Labels
from codexseg.core.algorithms.basins import (
    climb,
    connected,
    fill_enclosed_gaps,
    merge,
    trim,
)
from codexseg.core.kernel import kernel

# Lengths as shares of a nucleus's diameter. A blob of diameter d answers most strongly
# to a Laplacian of sigma d / 2.8; the pair of Gaussians below brackets that from the fine
# side, as touching nuclei overlap within one diameter.
SMOOTHING = 0.14
SURROUND = 0.46
MERGE_DISTANCE = 0.75
REACH = 1.0
TRUNCATE = 3.0
# What hardly changes the result within a factor of 2 is no option. Smoothed noise of
# standard deviation 1 is 0.2 on average; 0.4 (at 0.25 um/px) to 1.1 (at 1) at its highest.
NOISE_FACTOR = 1.0
MIN_CONTRAST = 0.01  # least contrast with the surround, in square roots of the span
EDGE_LEVEL = 0.1  # where a nucleus ends, as a share of its peak contrast
MERGE_LEVEL = 0.85  # a saddle above this share of the lower of two peaks divides nothing


@dataclass(frozen=True)
class WatershedOptions:
    """What the classical segmentation may be told.

    Attributes
    ----------
    nucleus_diameter_um : float
        Diameter of a typical nucleus, um. All filter widths derive from it: larger
        values split less.
    expansion_um : float
        How far a cell reaches beyond its nucleus, um.
    min_nucleus_area_um2 : float
        Smaller nuclei are dropped, um2.
    min_signal : float
        Smoothed nuclear signal that a nucleus must exceed, as a share of the span from
        the slide's background to its P99.9, or one standard deviation of the noise
        where that is more.
    membrane_weight : float
        How strongly a bright whole-cell marker counts as a border between nuclei;
        0 ignores it.
    """

    nucleus_diameter_um: float = 8.0
    expansion_um: float = 1.5
    min_nucleus_area_um2: float = 10.0
    min_signal: float = 0.05
    membrane_weight: float = 0.2


@dataclass(frozen=True)
class ChannelLevels:
    """Grey levels that scale a channel.

    Attributes
    ----------
    background, noise : float
        Level and spread of pixels without signal.
    top : float
        P99.9, or the maximum where that is background still.
    """

    background: float
    noise: float
    top: float

    @property
    def span(self) -> float:
        """Grey levels between background and top."""
        return self.top - self.background


def context_um(options: WatershedOptions) -> float:
    """Return how far a cut edge can change what single pixels are told, um.

    The widest filter, the farthest peak that a pixel may belong to, and the growth.
    """
    d = options.nucleus_diameter_um
    return (TRUNCATE * SURROUND + REACH) * d + options.expansion_um


def segment_nuclei(
    nucleus: NDArray[Any],
    wholecell: NDArray[Any] | None,
    levels: tuple[ChannelLevels, ChannelLevels | None],
    mpp: float,
    options: WatershedOptions,
) -> Labels:
    """Find nuclei.

    The square root of the signal (it evens out shot noise, and bright and dim nuclei) is
    compared with its surround by a difference of Gaussians; where this contrast is
    positive enough, pixels climb to its peaks; peaks that are close and without a valley
    between them are one nucleus. A whole-cell marker lowers the contrast where it is
    bright, as membranes lie between nuclei.

    Parameters
    ----------
    nucleus : (y, x) uint8, uint16 or float32
    wholecell : (y, x) of the same kind, or None
    levels : (ChannelLevels, ChannelLevels or None)
        Of the two channels, over the whole slide or the patch.
    mpp : float
        um per pixel.
    options : WatershedOptions

    Returns
    -------
    nuclei : (y, x) uint32
        Numbered 1..n by first pixel in raster order; each is connected (4 neighbours).
    """
    if levels[0].span <= 0:
        return np.zeros(nucleus.shape, np.uint32)
    pixels = options.nucleus_diameter_um / mpp
    contrast = _contrast(nucleus, wholecell, levels, pixels, options)
    basins, peaks = climb(contrast)
    trim(basins, contrast, peaks, EDGE_LEVEL, REACH * pixels)
    objects = merge(basins, contrast, peaks, MERGE_LEVEL, MERGE_DISTANCE * pixels)
    smallest = ceil(options.min_nucleus_area_um2 / mpp**2)
    return fill_enclosed_gaps(connected(objects, smallest), smallest)


def _contrast(
    nucleus: NDArray[Any],
    wholecell: NDArray[Any] | None,
    levels: tuple[ChannelLevels, ChannelLevels | None],
    pixels: float,
    options: WatershedOptions,
) -> Float32:
    """Contrast of nuclei with their surround; -inf where there is no nucleus."""
    scale, marker_scale = levels
    root = square_root(nucleus, scale)
    smooth = gaussian(root, SMOOTHING * pixels)
    signal = max(options.min_signal, NOISE_FACTOR * scale.noise / scale.span)
    dim = smooth <= np.float32(np.sqrt(signal))
    if wholecell is not None and marker_scale is not None and marker_scale.span > 0:
        # both filters are linear: one pass over the weighted difference does for two
        marker = square_root(wholecell, marker_scale)
        marker *= np.float32(options.membrane_weight)
        root -= marker
        smooth = gaussian(root, SMOOTHING * pixels)
    smooth -= gaussian(root, SURROUND * pixels)
    smooth[dim | ~(smooth >= np.float32(MIN_CONTRAST))] = -np.inf
    return smooth


def square_root(channel: NDArray[Any], levels: ChannelLevels) -> Float32:
    """Return the square root of a channel scaled to 0 at background and 1 at top."""
    out = channel.astype(np.float32)
    out -= np.float32(levels.background)
    out *= np.float32(1 / levels.span)
    np.maximum(out, 0, out=out)
    return np.sqrt(out, out=out)


def gaussian(image: Float32, sigma: float) -> Float32:
    """Smooth by a Gaussian that ends after 3 sigma, edges repeated.

    Each pixel is the same sum in the same order wherever the array starts, so windows
    agree to the last bit away from their edges.
    """
    radius = max(1, ceil(TRUNCATE * sigma))
    offsets = np.arange(radius + 1)
    taps = np.exp(-0.5 * (offsets / sigma) ** 2)
    taps /= taps[0] + 2 * taps[1:].sum()
    smoothed: Float32 = _convolve(image, taps.astype(np.float32))
    return smoothed


@kernel
def _convolve(image: Float32, taps: Float64) -> Float32:
    height, width = image.shape
    radius = taps.size - 1
    out = np.empty((height, width), np.float32)
    row = np.empty(width + 2 * radius, np.float32)
    for y in range(height):
        for x in range(width):
            row[radius + x] = taps[0] * image[y, x]
        for k in range(1, radius + 1):
            above, below = max(0, y - k), min(height - 1, y + k)
            for x in range(width):
                row[radius + x] += taps[k] * (image[above, x] + image[below, x])
        row[:radius] = row[radius]
        row[radius + width :] = row[radius + width - 1]
        for x in range(width):
            out[y, x] = taps[0] * row[radius + x]
        for k in range(1, radius + 1):
            for x in range(width):
                out[y, x] += taps[k] * (row[radius + x - k] + row[radius + x + k])
    return out
