"""Mesmer's preprocessing, window by window: cap bright spots, equalise the contrast.

What deepcell does to a channel before its network sees it: values above the 99.9th
percentile of the non-zero pixels are cut, then the contrast is equalised locally
(CLAHE: Zuiderveld, Graphics Gems IV, 1994; bit for bit as scikit-image 0.22 to 0.26 do
it with blocks of 128 px). Only the percentile and the ranges before and after belong to
the whole channel, and add up over windows; blocks are anchored at the image's corner:

1. :func:`count_levels`, :func:`cap_bins`, :func:`count_fine`, :func:`cap_level` and the
   channel's minimum and maximum give its :class:`Levels`;
2. :func:`clahe_bins` and :func:`contrast_maps` give one map of grey levels per block;
3. :func:`equalize` interpolates between maps; its smallest and largest value go into
4. :func:`to_unit`. :func:`preprocess` does all of it for an image in memory.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from codexseg.core.kernel import kernel
from codexseg.errors import InputError

Pixels = NDArray[Any]  # uint8, uint16, or float32 that is finite and not negative
Float = NDArray[np.float32]
Counts = NDArray[np.int64]
Bins = NDArray[np.uint8]
Maps = NDArray[np.uint16]

BLOCK_PX = 128  # side of the blocks whose histograms are equalised, network px
N_BINS = 256  # of a block's histogram; clahe_bins uses the first 253
N_LEVELS = 65536  # bins of count_levels
PERCENT = 99.9  # the percentile of the non-zero pixels at which a channel is capped

_HALF = BLOCK_PX // 2
_MAX_GREY = 2**14 - 1
_BIN_WIDTH = 1 + 2**14 // N_BINS
_CLIP_LIMIT = int(0.01 * BLOCK_PX**2)


@dataclass(frozen=True)
class Levels:
    """A whole channel's cap (None: all zero), its smallest and largest level under it."""

    cap: float | None
    low: float
    high: float

    @classmethod
    def of(cls, cap: float | None, minimum: float, maximum: float) -> "Levels":
        """Make levels of the cap and of the channel's range before it is capped."""
        if cap is None:
            return cls(None, 0.0, 0.0)
        return cls(cap, min(float(minimum), cap), min(float(maximum), cap))

    @property
    def is_flat(self) -> bool:
        """Whether nothing is left to equalise: such a channel becomes zeros."""
        return self.cap is None or self.low == self.high


def count_levels(pixels: Pixels) -> Counts:
    """Count the non-zero pixels (y, x) by level; counts of windows add up.

    Returns
    -------
    counts : (65536,) int64
        By level for integers, by the upper 16 bits for float32, like
        :func:`codexseg.core.intensity.histogram.histogram`, but without 0, 0.0 and -0.0.
    """
    pixels, counts = _checked(pixels), np.zeros(N_LEVELS, np.int64)
    is_float = pixels.dtype.kind == "f"  # their bits rise with their values
    bits = pixels.view(np.uint32) if is_float else pixels
    _count(bits, 16 if is_float else 0, pixels, counts)
    return counts


def cap_bins(counts: Counts) -> tuple[int, int]:
    """Return the bins (0, 0: none) of the two order statistics around the percentile."""
    if not counts.any():
        return 0, 0
    below, above, _ = _ranks(int(counts.sum()))
    return _bin_of(counts, below)[0], _bin_of(counts, above)[0]


def count_fine(pixels: Float, bins: tuple[int, int]) -> Counts:
    """Count the non-zero pixels (y, x) of two bins by their lower 16 bits.

    Returns
    -------
    counts : (2, 65536) int64
        A row for each of `bins`, even where they are equal; counts of windows add up.
    """
    bits = _checked(pixels).view(np.uint32)
    found = (bits[(bits >> np.uint32(16) == one) & (bits != 0)] for one in bins)
    return np.stack([np.bincount(b & 0xFFFF, minlength=N_LEVELS) for b in found])


def cap_level(counts: Counts, dtype: DTypeLike, fine: Counts | None = None) -> float | None:
    """Return the level at which deepcell's `percentile_threshold` cuts a channel.

    It is `numpy.percentile(nonzero, 99.9)` of numpy 1.26: rank and weight in float64, the
    difference of the two order statistics in the channel's dtype, their interpolation in
    float64, cast to the channel's dtype in the end (integers: truncated). numpy 2 takes
    the rank of float32 in float32, and differs. None where no pixel is non-zero.

    Parameters
    ----------
    counts : (65536,) int64
        By :func:`count_levels`, of the whole channel, however many pixels it has.
    dtype : dtype
        The channel's: uint8, uint16 or float32, which needs `fine`.
    fine : (2, 65536) int64
        By :func:`count_fine`.
    """
    dtype, total = np.dtype(dtype), int(counts.sum())
    if total == 0:
        return None
    below, above, weight = _ranks(total)
    (first, below), (last, above) = _bin_of(counts, below), _bin_of(counts, above)
    if dtype.kind == "f":
        if fine is None:
            message = "fine=None, expected the counts of a float32 channel by count_fine."
            raise InputError(message)
        first = first << 16 | _bin_of(fine[0], below)[0]
        last = last << 16 | _bin_of(fine[1], above)[0]
        lower, upper = np.array([first, last], np.uint32).view(np.float32)
    else:
        lower, upper = np.array([first, last], dtype)
    difference = float(upper - lower)
    value = float(lower) + difference * weight
    if weight >= 0.5:
        value = float(upper) - difference * (1 - weight)
    return float(np.float32(value)) if dtype.kind == "f" else float(int(value))


def clahe_bins(pixels: Pixels, levels: Levels) -> Bins:
    """Sort the pixels (y, x) of a window into the bins that contrast maps work on.

    Cap, rescale to 0..1 in float32, round to 16 and then to 14 bits, bins of 65 levels.
    The levels are the whole channel's; where it is flat, all bins are 0.

    Returns
    -------
    bins : (y, x) uint8
        0..252.
    """
    bins = np.zeros(pixels.shape, np.uint8)
    if not levels.is_flat:
        scale = np.array([levels.low, levels.high, levels.high - levels.low], np.float32)
        grey = np.round(np.arange(N_LEVELS) / (N_LEVELS - 1) * _MAX_GREY)
        _sort(_checked(pixels), scale, (grey // _BIN_WIDTH).astype(np.uint8), bins)
    return bins


def reflected(start: int, stop: int, size: int) -> NDArray[np.int64]:
    """Return which pixels of an axis `numpy.pad(mode="reflect")` puts at start..stop.

    The half-open range may lie at any distance from the axis, 0..size; the edge is not
    repeated, and an axis of 1 px shows pixel 0 everywhere.
    """
    period = max(1, 2 * (size - 1))
    positions = np.arange(start, stop, dtype=np.int64) % period
    return np.minimum(positions, -positions % period)


def contrast_maps(bins: Bins) -> Maps:
    """Make the map of grey levels of each block: its clipped cumulative histogram.

    Parameters
    ----------
    bins : (y, x) uint8
        Whole blocks of the image's grid; beyond its lower and right edge the bins are
        continued by reflection (:func:`reflected`).

    Returns
    -------
    maps : (y / 128, x / 128, 256) uint16
        The equalised level, 0..16383, of each bin.
    """
    height, width = bins.shape
    if height % BLOCK_PX or width % BLOCK_PX:
        raise InputError(
            f"got bins {bins.shape}, expected multiples of {BLOCK_PX}: reflect them."
        )
    maps = np.zeros((height // BLOCK_PX, width // BLOCK_PX, N_BINS), np.uint16)
    _map_blocks(np.ascontiguousarray(bins), maps)
    return maps


def blocks_needed(
    y0: int, y1: int, x0: int, x1: int, n_blocks: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Return the range of blocks by0, by1, bx0, bx1 that :func:`equalize` needs.

    Ranges are half-open, the window's y0..y1 and x0..x1 in px of the image; `n_blocks`
    counts the rows and columns of blocks of the whole image.
    """
    first = [max(0, (start - _HALF) // BLOCK_PX) for start in (y0, x0)]
    last = [(stop - 1 + _HALF) // BLOCK_PX for stop in (y1, x1)]
    by1, bx1 = (min(block + 1, n) for block, n in zip(last, n_blocks, strict=True))
    return min(first[0], by1 - 1), by1, min(first[1], bx1 - 1), bx1


def equalize(
    bins: Bins,
    maps: Maps,
    corner: tuple[int, int],
    first_block: tuple[int, int],
    n_blocks: tuple[int, int],
) -> NDArray[np.uint16]:
    """Interpolate each pixel's equalised level between the four nearest block maps.

    Parameters
    ----------
    bins : (y, x) uint8
        Of a window whose first pixel lies at row and column `corner` of the image.
    maps : (by, bx, 256) uint16
        Of the blocks from `first_block` on, at least those of :func:`blocks_needed`.
    n_blocks : (int, int)
        Rows and columns of blocks of the whole image; beyond them its edge blocks serve.

    Returns
    -------
    equalized : (y, x) uint16
        0..16383, not yet stretched to that range.
    """
    equalized = np.zeros(bins.shape, np.uint16)
    (y, x), (height, width) = corner, bins.shape
    by0, by1, bx0, bx1 = blocks_needed(y, y + height, x, x + width, n_blocks)
    row, column = by0 - first_block[0], bx0 - first_block[1]
    near = maps[max(row, 0) :, max(column, 0) :][: by1 - by0, : bx1 - bx0]
    if min(row, column) < 0 or near.shape[:2] != (by1 - by0, bx1 - bx0):
        raise InputError(
            f"the window {bins.shape} at {corner} needs the maps of blocks {by0}..{by1}, "
            f"{bx0}..{bx1}, got {maps.shape[:2]} maps from {first_block} on: pass those "
            "that blocks_needed names."
        )
    near, bins = np.ascontiguousarray(near), np.ascontiguousarray(bins)
    _blend(bins, near, y, x, by0, bx0, equalized)
    return equalized


def to_unit(equalized: NDArray[np.uint16], low: int, high: int) -> Float:
    """Stretch a window of equalised levels to 0..1, float32.

    `low` and `high` are the smallest and largest of the whole image; where they are equal
    levels are cut to 0..1 instead, as scikit-image does.
    """
    unit = equalized.astype(np.float32)
    if low == high:
        return np.minimum(unit, np.float32(1), out=unit)
    unit -= np.float32(low)
    unit /= np.float32(high - low)
    return unit


def preprocess(image: Pixels) -> Float:
    """Prepare an image (channel, y, x) for the network: deepcell's `mesmer_preprocess`.

    Returns the same shape in float32, 0..1; a channel that is constant once it is capped
    becomes zeros.
    """
    prepared = np.zeros(image.shape, np.float32)
    for pixels, out in zip(image, prepared, strict=True):
        counts = count_levels(pixels)
        is_float = pixels.dtype.kind == "f"
        fine = count_fine(pixels, cap_bins(counts)) if is_float else None
        cap = cap_level(counts, pixels.dtype, fine)
        levels = Levels.of(cap, pixels.min(), pixels.max())
        if levels.is_flat:
            continue
        bins = clahe_bins(pixels, levels)
        padding = [(0, -n % BLOCK_PX) for n in bins.shape]
        maps = contrast_maps(np.pad(bins, padding, mode="reflect"))
        level = equalize(bins, maps, (0, 0), (0, 0), (maps.shape[0], maps.shape[1]))
        out[:] = to_unit(level, int(level.min()), int(level.max()))
    return prepared


def _checked(pixels: Pixels) -> Pixels:
    """Pixels as the kernels take them."""
    if pixels.dtype not in (np.uint8, np.uint16, np.float32):
        raise InputError(
            f"pixels of {pixels.dtype} cannot be equalised, expected uint8, uint16 or "
            "float32: convert them."
        )
    return np.ascontiguousarray(pixels)


def _ranks(total: int) -> tuple[int, int, float]:
    """Ranks (from 0) of the statistics around the percentile; weight of the upper one."""
    position = (total - 1) * (PERCENT / 100)
    below = int(position)
    return below, min(below + 1, total - 1), position - below


def _bin_of(counts: Counts, rank: int) -> tuple[int, int]:
    """Bin that holds the pixel of a rank (from 0), and its rank within the bin."""
    ends = np.cumsum(counts)
    found = int(np.searchsorted(ends, rank, side="right"))
    return found, rank - int(ends[found] - counts[found])


@kernel
def _count(bits: NDArray[Any], shift: int, pixels: Pixels, counts: Counts) -> None:
    height, width = bits.shape
    for y in range(height):
        for x in range(width):
            counts[bits[y, x] >> shift] += pixels[y, x] != 0


@kernel
def _sort(pixels: Pixels, scale: Float, bin_of_grey: Bins, bins: Bins) -> None:
    """Cap and rescale by `scale` (low, high, range) to 16 bits; look up the bin."""
    height, width = pixels.shape
    low, high, span = scale
    for y in range(height):
        for x in range(width):
            unit = (min(high, max(low, np.float32(pixels[y, x]))) - low) / span
            grey = min(np.float32(65535), np.rint(unit * np.float32(65535)))
            bins[y, x] = bin_of_grey[np.int32(grey)]


@kernel
def _map_blocks(bins: Bins, maps: Maps) -> None:
    """Write the map of each block, the clipped histogram summed up and scaled."""
    histogram = np.empty(N_BINS, np.int64)
    scale = _MAX_GREY / (BLOCK_PX * BLOCK_PX)
    for by in range(maps.shape[0]):
        for bx in range(maps.shape[1]):
            histogram[:] = 0
            for y in range(by * BLOCK_PX, (by + 1) * BLOCK_PX):
                for x in range(bx * BLOCK_PX, (bx + 1) * BLOCK_PX):
                    histogram[bins[y, x]] += 1
            _clip(histogram)
            total = 0
            for i in range(N_BINS):
                total += histogram[i]
                maps[by, bx, i] = np.uint16(min(total * scale, float(_MAX_GREY)))


@kernel
def _clip(histogram: Counts) -> None:
    """Cut a histogram at the limit, in place, and spread the excess as scikit-image does.

    Evenly at first, bins near the limit being filled; then what is left by one in every
    n-th bin below the limit, from bin 0, 1, 2 ... on, n anew each time, until none is left.
    """
    excess = np.maximum(histogram - _CLIP_LIMIT, 0).sum()
    share = excess // N_BINS
    for i in range(N_BINS):
        histogram[i] = min(histogram[i], _CLIP_LIMIT)
        if histogram[i] < _CLIP_LIMIT - share:
            histogram[i] += share
            excess -= share
        if histogram[i] >= _CLIP_LIMIT - share:
            excess -= _CLIP_LIMIT - histogram[i]
            histogram[i] = _CLIP_LIMIT
    start = 0
    while excess > 0:
        below = histogram < _CLIP_LIMIT
        for i in range(start, N_BINS, max(1, below.sum() // excess)):
            histogram[i] += below[i]
            excess -= below[i]
        start = (start + 1) % N_BINS


@kernel
def _blend(bins: Bins, maps: Maps, y: int, x: int, by: int, bx: int, out: Maps) -> None:
    """Interpolate in a window at (y, x) between maps of the blocks from (by, bx) on.

    Square by square between the centres of four blocks. Float32 sums in the order of
    scikit-image; all products before them are exact.
    """
    height, width = bins.shape
    rows, columns = maps.shape[0] - 1, maps.shape[1] - 1
    corners = np.empty((N_BINS, 4), np.float32)
    for sy in range((y + _HALF) // BLOCK_PX, (y + height - 1 + _HALF) // BLOCK_PX + 1):
        top = sy * BLOCK_PX - _HALF - y
        for sx in range((x + _HALF) // BLOCK_PX, (x + width - 1 + _HALF) // BLOCK_PX + 1):
            left = sx * BLOCK_PX - _HALF - x
            for k in range(4):
                row = min(max(sy - 1 + k // 2 - by, 0), rows)
                column = min(max(sx - 1 + k % 2 - bx, 0), columns)
                corners[:, k] = maps[row, column]
            for i in range(max(top, 0), min(top + BLOCK_PX, height)):
                fy = np.float32((i - top) / BLOCK_PX)
                gy = np.float32(1) - fy
                for j in range(max(left, 0), min(left + BLOCK_PX, width)):
                    fx = np.float32((j - left) / BLOCK_PX)
                    gx = np.float32(1) - fx
                    near = corners[bins[i, j]]
                    grey = near[0] * (gx * gy) + near[1] * (fx * gy)
                    grey = (grey + near[2] * (gx * fy)) + near[3] * (fx * fy)
                    out[i, j] = np.uint16(grey)
