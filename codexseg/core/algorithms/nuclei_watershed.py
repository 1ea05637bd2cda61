"""Watershed segmentation of nuclei with local decisions only.

The label of a pixel depends on nearby pixels and on constants of the whole slide. It does
not depend on label numbers, on the origin of the window or on the scan order, so the patch
grid does not affect the result. Filters have finite support and a fixed order of
operations per pixel. Basins follow steepest ascent under a total order (toboggan,
Mortensen and Barrett 1999) instead of flooding from a queue. Over-segmentation is reduced
by merging pairs of whole basins.

The default values are the rounded optimum of a search on 7 crops of the left half of a
lung cancer slide (labels of InstanSeg), one crop of cultured cells and synthetic tissue.
"""

from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codexseg.arrays import Float32, Labels
from codexseg.core.algorithms.basins import (
    climb,
    connected,
    fill_enclosed_gaps,
    merge,
    trim,
)
from codexseg.core.kernel import kernel

# Lengths as shares of the nucleus diameter d. A Laplacian responds most strongly to a blob
# of diameter d at sigma = d / (2 sqrt(2)) = d / 2.8. The two Gaussians below bracket this
# value towards finer scales, as touching nuclei overlap within one diameter.
SMOOTHING = 0.14
SURROUND = 0.46
MERGE_DISTANCE = 0.75
REACH = 1.0
TRUNCATE = 3.0
# Constants that hardly affect the result within a factor of 2 are not options. Noise of
# standard deviation 1 has, after smoothing, a mean of 0.2 and a maximum of 0.4 (at
# 0.25 um/px) to 1.1 (at 1 um/px).
NOISE_FACTOR = 1.0
MIN_CONTRAST = 0.01  # minimum contrast with the surround, in square roots of the span
EDGE_LEVEL = 0.1  # contrast at the edge of a nucleus, as a share of its peak contrast
MERGE_LEVEL = 0.85  # basins merge from this saddle height, as a share of the lower peak


@dataclass(frozen=True)
class WatershedOptions:
    """Options of the watershed segmentation.

    Attributes
    ----------
    nucleus_diameter_um : float
        Diameter of a typical nucleus, um. All filter widths are proportional to it, so
        larger values split less.
    expansion_um : float
        Maximum distance from the nucleus to the boundary of its cell, um.
    min_nucleus_area_um2 : float
        Minimum area of a nucleus, um2. Smaller nuclei are removed.
    min_signal : float
        Minimum smoothed signal in a nucleus, as a share of the span from the background
        of the slide to its P99.9. At least one standard deviation of the noise is
        required.
    membrane_weight : float
        Weight of the whole-cell marker, which separates nuclei where it is bright. 0
        ignores the marker.
    """

    nucleus_diameter_um: float = 8.0
    expansion_um: float = 1.5
    min_nucleus_area_um2: float = 10.0
    min_signal: float = 0.05
    membrane_weight: float = 0.2


@dataclass(frozen=True)
class ChannelLevels:
    """Grey levels used to scale a channel.

    Attributes
    ----------
    background, noise : float
        Level and standard deviation of pixels without signal.
    top : float
        P99.9, or the maximum if P99.9 does not exceed the background.
    """

    background: float
    noise: float
    top: float

    @property
    def span(self) -> float:
        """Grey levels between background and top."""
        return self.top - self.background


def context_um(options: WatershedOptions) -> float:
    """Return the distance over which a cut edge can affect the label of a pixel, um.

    Sum of the radius of the widest filter, the maximum distance of a pixel to its peak, and
    the expansion of cells.
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
    """Segment nuclei.

    The steps are:

    1. Take the square root of the signal, which equalizes shot noise and the brightness of
       nuclei.
    2. Compute the contrast with the surround as a difference of Gaussians. A bright
       whole-cell marker lowers the contrast, as it marks membranes between nuclei.
    3. Assign pixels of sufficient contrast to peaks by steepest ascent (Mortensen and
       Barrett 1999).
    4. Merge close peaks without a valley between them.

    Parameters
    ----------
    nucleus : (y, x) uint8, uint16 or float32
        Nuclear channel.
    wholecell : (y, x) uint8, uint16 or float32, optional
        Whole-cell channel.
    levels : (ChannelLevels, ChannelLevels or None)
        Levels of the two channels, over the whole slide or over the patch.
    mpp : float
        Pixel size, um.
    options : WatershedOptions

    Returns
    -------
    nuclei : (y, x) uint32
        1..n in the raster order of the first pixels. Each nucleus is connected
        (4 neighbours).
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
    """Return the contrast of nuclei with their surround; -inf in the background.

    With the weighted signal u = sqrt(nucleus) - w sqrt(whole cell) and Gaussians G of
    widths s1 < s2, the contrast is G(s1) * u - G(s2) * u.
    """
    scale, marker_scale = levels
    root = square_root(nucleus, scale)
    smooth = gaussian(root, SMOOTHING * pixels)
    signal = max(options.min_signal, NOISE_FACTOR * scale.noise / scale.span)
    dim = smooth <= np.float32(np.sqrt(signal))
    if wholecell is not None and marker_scale is not None and marker_scale.span > 0:
        # the filters are linear, so the weighted difference is filtered only once
        marker = square_root(wholecell, marker_scale)
        marker *= np.float32(options.membrane_weight)
        root -= marker
        smooth = gaussian(root, SMOOTHING * pixels)
    smooth -= gaussian(root, SURROUND * pixels)
    smooth[dim | ~(smooth >= np.float32(MIN_CONTRAST))] = -np.inf
    return smooth


def square_root(channel: NDArray[Any], levels: ChannelLevels) -> Float32:
    """Return the square root of a channel, scaled to 0 at background and 1 at top."""
    out = channel.astype(np.float32)
    out -= np.float32(levels.background)
    out *= np.float32(1 / levels.span)
    np.maximum(out, 0, out=out)
    return np.sqrt(out, out=out)


def gaussian(image: Float32, sigma: float) -> Float32:
    """Smooth an image with a Gaussian truncated at 3 sigma; edge pixels are repeated.

    Each output pixel is the same sum in the same order for any origin of the array. Windows
    of an image therefore agree to the last bit, except within 3 sigma of their edges.

    Parameters
    ----------
    image : (y, x) float32
    sigma : float
        Standard deviation, px.

    Returns
    -------
    smoothed : (y, x) float32
    """
    radius = max(1, ceil(TRUNCATE * sigma))
    offsets = np.arange(radius + 1)
    taps = np.exp(-0.5 * (offsets / sigma) ** 2)
    taps /= taps[0] + 2 * taps[1:].sum()
    return _convolve(image, taps.astype(np.float32))


@kernel
def _convolve(image: Float32, taps: Float32) -> Float32:
    """Convolve rows and columns with a symmetric filter; `taps` starts at its centre."""
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
