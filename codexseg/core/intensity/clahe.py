"""Preprocessing of Mesmer, window by window: intensity cap and local contrast.

deepcell prepares each channel for its network in two steps (`mesmer_preprocess`). It caps
intensities at the 99.9th percentile of the non-zero pixels, and equalises the contrast
locally (CLAHE: Zuiderveld, Graphics Gems IV, 1994). Results are bit for bit those of
scikit-image 0.22 to 0.26 with blocks of 128 px. Blocks are anchored at the image's corner.
The percentile and the ranges before and after equalisation belong to the whole channel,
and their counts add up over windows:

1. :func:`count_levels`, :func:`cap_bins`, :func:`count_fine`, :func:`cap_level` and the
   range of the channel give its :class:`ChannelRange`.
2. :func:`clahe_bins` and :func:`contrast_maps` give one map of intensities per block.
3. :func:`equalize` interpolates between maps. The range of its results goes to step 4.
4. :func:`to_unit` stretches them to 0..1.

:func:`preprocess` runs all steps on an image in memory.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike, NDArray

from codexseg.arrays import Float32, Int64, Pixels
from codexseg.core.grid import Window
from codexseg.core.intensity.histogram import N_BINS as N_LEVELS
from codexseg.core.intensity.histogram import check_dtype, histogram
from codexseg.core.kernel import kernel
from codexseg.errors import InputError

Bins = NDArray[np.uint8]
Maps = NDArray[np.uint16]

BLOCK_PX = 128  # side of the blocks of CLAHE, px of the network
N_BINS = 256  # bins of the histogram of a block; clahe_bins uses the first 253
PERCENT = 99.9  # percentile of the non-zero pixels, the cap of a channel

_HALF = BLOCK_PX // 2
_MAX_LEVEL = 2**14 - 1  # scikit-image: NR_OF_GRAY - 1
_BIN_WIDTH = 1 + 2**14 // N_BINS
_CLIP_LIMIT = int(0.01 * BLOCK_PX**2)  # scikit-image's default clip_limit of 0.01


@dataclass(frozen=True)
class ChannelRange:
    """Cap and range of a whole channel.

    Attributes
    ----------
    cap : float or None
        Intensities above it are capped; None for a channel of zeros.
    low, high : float
        Minimum and maximum after the cap.
    """

    cap: float | None
    low: float
    high: float

    @classmethod
    def of(cls, cap: float | None, minimum: float, maximum: float) -> "ChannelRange":
        """Return the range after the cap from the range before it.

        Parameters
        ----------
        cap : float or None
            See :func:`cap_level`.
        minimum, maximum : float
            Range of the whole channel.
        """
        if cap is None:
            return cls(None, 0.0, 0.0)
        return cls(cap, min(float(minimum), cap), min(float(maximum), cap))

    @property
    def is_flat(self) -> bool:
        """Whether the channel is constant. It then becomes zeros."""
        return self.cap is None or self.low == self.high


def count_levels(pixels: Pixels) -> Int64:
    """Count the non-zero pixels by intensity. Int64 of windows add up.

    Parameters
    ----------
    pixels : (y, x) uint8, uint16 or float32
        Floats are finite and not negative.

    Returns
    -------
    counts : (65536,) int64
        As :func:`codexseg.core.intensity.histogram.histogram` without 0, 0.0 and -0.0:
        integers by value, float32 by their upper 16 bits.
    """
    counts = histogram(_checked(pixels))
    counts[0] -= pixels.size - np.count_nonzero(pixels)
    return counts


def cap_bins(counts: Int64) -> tuple[int, int]:
    """Return the bins of the two order statistics around the percentile.

    Parameters
    ----------
    counts : (65536,) int64
        See :func:`count_levels`, of the whole channel.

    Returns
    -------
    (int, int)
        (0, 0) for a channel of zeros.
    """
    if not counts.any():
        return 0, 0
    below, above, _ = _ranks(int(counts.sum()))
    return _bin_of(counts, below)[0], _bin_of(counts, above)[0]


def count_fine(pixels: Float32, bins: tuple[int, int]) -> Int64:
    """Count the non-zero pixels of two bins by their lower 16 bits.

    Parameters
    ----------
    pixels : (y, x) float32
    bins : (int, int)
        See :func:`cap_bins`.

    Returns
    -------
    counts : (2, 65536) int64
        One row per bin, also for equal bins. Int64 of windows add up.
    """
    bits = _checked(pixels).view(np.uint32)
    in_bin = (bits[(bits >> np.uint32(16) == index) & (bits != 0)] for index in bins)
    return np.stack([np.bincount(b & 0xFFFF, minlength=N_LEVELS) for b in in_bin])


def cap_level(counts: Int64, dtype: DTypeLike, fine: Int64 | None = None) -> float | None:
    """Return the cap of a channel, as deepcell's `percentile_threshold`.

    It is `numpy.percentile(nonzero, 99.9)` of numpy 1.26: rank and weight are float64,
    the difference of the two order statistics has the dtype of the channel, and the
    interpolation is float64. The result is cast to the dtype of the channel (integers are
    truncated). numpy 2 computes the rank of float32 in float32 and differs.

    Parameters
    ----------
    counts : (65536,) int64
        See :func:`count_levels`, of the whole channel.
    dtype : dtype
        Of the channel: uint8, uint16 or float32.
    fine : (2, 65536) int64, optional
        See :func:`count_fine`. Required for float32.

    Returns
    -------
    float or None
        None for a channel of zeros.

    Raises
    ------
    InputError
        If `fine` is missing for float32.
    """
    dtype, total = np.dtype(dtype), int(counts.sum())
    if total == 0:
        return None
    below, above, weight = _ranks(total)
    (first, below), (last, above) = _bin_of(counts, below), _bin_of(counts, above)
    if dtype.kind == "f":
        if fine is None:
            raise InputError("fine is None, expected counts for float32. Use count_fine.")
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


def clahe_bins(pixels: Pixels, levels: ChannelRange) -> Bins:
    """Return the bin of each pixel of a window in the histograms of CLAHE.

    Pixels are capped, scaled to 0..1 in float32, rounded to 16 and then to 14 bits, and
    divided into bins of 65 levels.

    Parameters
    ----------
    pixels : (y, x) uint8, uint16 or float32
    levels : ChannelRange
        Of the whole channel. All bins of a flat channel are 0.

    Returns
    -------
    bins : (y, x) uint8
        0..252.
    """
    bins = np.zeros(pixels.shape, np.uint8)
    if not levels.is_flat:
        scale = np.array([levels.low, levels.high, levels.high - levels.low], np.float32)
        level = np.round(np.arange(N_LEVELS) / (N_LEVELS - 1) * _MAX_LEVEL)
        _assign_bins(_checked(pixels), scale, (level // _BIN_WIDTH).astype(np.uint8), bins)
    return bins


def reflected(start: int, stop: int, size: int) -> Int64:
    """Return the indices of `numpy.pad(mode="reflect")` on an axis.

    Parameters
    ----------
    start, stop : int
        Half-open range of positions, also beyond the axis.
    size : int
        Length of the axis, px. The edge is not repeated. An axis of 1 px is repeated.

    Returns
    -------
    (stop - start,) int64
        0 to size - 1.
    """
    period = max(1, 2 * (size - 1))
    positions = np.arange(start, stop, dtype=np.int64) % period
    return np.minimum(positions, -positions % period)


def contrast_maps(bins: Bins) -> Maps:
    """Return the map of intensities of each block, its clipped cumulative histogram.

    Parameters
    ----------
    bins : (y, x) uint8
        Complete blocks of the image's grid. Beyond the lower and right edge of the image
        bins are mirrored, see :func:`reflected`.

    Returns
    -------
    maps : (y / 128, x / 128, 256) uint16
        Equalised level, 0..16383, of each bin.

    Raises
    ------
    InputError
        If a block is incomplete.
    """
    height, width = bins.shape
    if height % BLOCK_PX or width % BLOCK_PX:
        raise InputError(
            f"Bins have shape {bins.shape}, expected multiples of {BLOCK_PX}. Complete "
            f"the blocks by reflection."
        )
    maps = np.zeros((height // BLOCK_PX, width // BLOCK_PX, N_BINS), np.uint16)
    _map_blocks(np.ascontiguousarray(bins), maps)
    return maps


def blocks_needed(window: Window, n_blocks: tuple[int, int]) -> Window:
    """Return the blocks that :func:`equalize` needs for a window.

    Parameters
    ----------
    window : Window
        Of the image, px.
    n_blocks : (int, int)
        Rows and columns of blocks of the whole image.

    Returns
    -------
    Window
        Of the grid of blocks; its unit is a block.
    """
    y1 = min(n_blocks[0], (window.y1 - 1 + _HALF) // BLOCK_PX + 1)
    x1 = min(n_blocks[1], (window.x1 - 1 + _HALF) // BLOCK_PX + 1)
    y0 = min(max(0, (window.y0 - _HALF) // BLOCK_PX), y1 - 1)
    x0 = min(max(0, (window.x0 - _HALF) // BLOCK_PX), x1 - 1)
    return Window(y0, x0, y1, x1)


def equalize(
    bins: Bins,
    maps: Maps,
    corner: tuple[int, int],
    first_block: tuple[int, int],
    n_blocks: tuple[int, int],
) -> Maps:
    """Interpolate the equalised level of each pixel between the four nearest maps.

    Parameters
    ----------
    bins : (y, x) uint8
        Of a window, see :func:`clahe_bins`.
    maps : (by, bx, 256) uint16
        Of at least the blocks of :func:`blocks_needed`, from `first_block` on.
    corner : (int, int)
        Row and column of the first pixel of the window in the image.
    first_block : (int, int)
        Row and column of the first map in the grid of blocks.
    n_blocks : (int, int)
        Rows and columns of blocks of the whole image. The edge blocks are repeated
        beyond them.

    Returns
    -------
    equalized : (y, x) uint16
        0..16383, before stretching.

    Raises
    ------
    InputError
        If a map is missing.
    """
    equalized = np.zeros(bins.shape, np.uint16)
    (y, x), (height, width) = corner, bins.shape
    need = blocks_needed(Window(y, x, y + height, x + width), n_blocks)
    row, column = first_block
    given = Window(row, column, row + maps.shape[0], column + maps.shape[1])
    if given.intersection(need) != need:
        raise InputError(
            f"Maps {maps.shape[:2]} from block {first_block} on do not cover blocks "
            f"{need.y0}..{need.y1}, {need.x0}..{need.x1} of the window {bins.shape} at "
            f"{corner}. Pass the maps of blocks_needed."
        )
    near, bins = np.ascontiguousarray(maps[need.within(given)]), np.ascontiguousarray(bins)
    _blend(bins, near, y, x, need.y0, need.x0, equalized)
    return equalized


def to_unit(equalized: Maps, low: int, high: int) -> Float32:
    """Stretch equalised levels to 0..1.

    Parameters
    ----------
    equalized : (y, x) uint16
        A window, see :func:`equalize`.
    low, high : int
        Range of the whole image. If it is empty, levels are clipped to 0..1, as
        scikit-image does.

    Returns
    -------
    (y, x) float32
    """
    unit = equalized.astype(np.float32)
    if low == high:
        return np.minimum(unit, np.float32(1), out=unit)
    unit -= np.float32(low)
    unit /= np.float32(high - low)
    return unit


def preprocess(image: Pixels) -> Float32:
    """Prepare an image for the network, as deepcell's `mesmer_preprocess`.

    Parameters
    ----------
    image : (c, y, x) uint8, uint16 or float32
        Floats are finite and not negative.

    Returns
    -------
    (c, y, x) float32
        0..1. A channel that is constant after the cap becomes zeros.

    Raises
    ------
    InputError
        If the image has another dtype.
    """
    prepared = np.zeros(image.shape, np.float32)
    for pixels, out in zip(image, prepared, strict=True):
        counts = count_levels(pixels)
        is_float = pixels.dtype.kind == "f"
        fine = count_fine(pixels, cap_bins(counts)) if is_float else None
        cap = cap_level(counts, pixels.dtype, fine)
        levels = ChannelRange.of(cap, pixels.min(), pixels.max())
        if levels.is_flat:
            continue
        bins = clahe_bins(pixels, levels)
        padding = [(0, -n % BLOCK_PX) for n in bins.shape]
        maps = contrast_maps(np.pad(bins, padding, mode="reflect"))
        n_blocks = maps.shape[0], maps.shape[1]
        equalized = equalize(bins, maps, (0, 0), (0, 0), n_blocks)
        out[:] = to_unit(equalized, int(equalized.min()), int(equalized.max()))
    return prepared


def _checked(pixels: Pixels) -> Pixels:
    """Check the dtype of pixels and return them as a contiguous array."""
    check_dtype(pixels)
    return np.ascontiguousarray(pixels)


def _ranks(total: int) -> tuple[int, int, float]:
    """Return the ranks (from 0) around the percentile, and the weight of the upper one."""
    position = (total - 1) * (PERCENT / 100)
    below = int(position)
    return below, min(below + 1, total - 1), position - below


def _bin_of(counts: Int64, rank: int) -> tuple[int, int]:
    """Return the bin with the pixel of a rank (from 0), and its rank within the bin."""
    ends = np.cumsum(counts)
    index = int(np.searchsorted(ends, rank, side="right"))
    return index, rank - int(ends[index] - counts[index])


@kernel
def _assign_bins(pixels: Pixels, scale: Float32, bin_of_level: Bins, bins: Bins) -> None:
    """Cap and scale by `scale` (low, high, range) to 16 bits; look up the bin."""
    height, width = pixels.shape
    low, high, span = scale
    for y in range(height):
        for x in range(width):
            unit = (min(high, max(low, np.float32(pixels[y, x]))) - low) / span
            level = min(np.float32(65535), np.rint(unit * np.float32(65535)))
            bins[y, x] = bin_of_level[np.int32(level)]


@kernel
def _map_blocks(bins: Bins, maps: Maps) -> None:
    """Write the map of each block: the scaled cumulative sum of its clipped histogram.

    Zuiderveld (1994), MapHistogram.
    """
    histogram = np.empty(N_BINS, np.int64)
    scale = _MAX_LEVEL / (BLOCK_PX * BLOCK_PX)
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
                maps[by, bx, i] = np.uint16(min(total * scale, float(_MAX_LEVEL)))


@kernel
def _clip(histogram: Int64) -> None:
    """Clip a histogram in place, and redistribute the excess as scikit-image does.

    Zuiderveld (1994), ClipHistogram. The excess is first shared evenly, up to the limit.
    The rest is added one by one to every n-th bin below the limit, starting at bin 0, 1,
    2, ..., with n computed for each round, until no excess is left.
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

    Zuiderveld (1994), Interpolate, bilinear between the centres of four blocks. Sums are
    float32 in the order of scikit-image. The products before them are exact.
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
                    level = near[0] * (gx * gy) + near[1] * (fx * gy)
                    level = (level + near[2] * (gx * fy)) + near[3] * (fx * fy)
                    out[i, j] = np.uint16(level)
