"""Background and signal of a channel: statistics per block, slide and patch.

Signal is detected in blocks of 64 px on one grid that is anchored at the slide's corner.
The result for a pixel therefore does not depend on the patch grid.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codexseg.arrays import Float32, Int64, Mask, Pixels
from codexseg.core.grid import Window
from codexseg.core.intensity.histogram import N_BINS, block_mean, histogram, percentile
from codexseg.core.kernel import kernel

BLOCK_PX = 64
"""Side of a block, px."""
BIN_PX = 4
"""Side of the bins that a block is averaged over, px. Averaging divides noise by 4."""
NOISE_FACTOR = 8.0
"""Distance of the signal threshold from the background, in standard deviations."""
RANGE_FRACTION = 0.002
"""Minimum distance of the threshold from the background, as a fraction of the range."""
# Tissue may cover a whole block. The gaps between its cells are then the darkest and
# calmest part: the level comes from the lowest tenth of the bins, the noise from the
# lowest quarter of the steps between neighbours. In an empty block both quantiles
# convert to the mean and the standard deviation of a normal distribution.
_DARK = 0.1
_CALM = 0.25
_DARK_Z = -1.2816  # 10th percentile of a standard normal distribution
_CALM_STEP = 0.4506  # 25th percentile of |a - b|, a and b standard normal
_QUANTISATION_STD = 0.2887  # of a uniform rounding error of width 1, 1 / sqrt(12)

_SIDE = BLOCK_PX // BIN_PX


@dataclass(frozen=True)
class Blocks:
    """Statistics of the blocks of one channel, in intensities.

    Attributes
    ----------
    level : (block rows, block columns) float32
        Mean of the 4 px bins between cells.
    noise : (block rows, block columns) float32
        Standard deviation of the 4 px bins between cells.
    peak : (block rows, block columns) float32
        Maximum of the 4 px bins.
    """

    level: Float32
    noise: Float32
    peak: Float32


def measure_blocks(pixels: Pixels) -> Blocks:
    """Measure the blocks of a window with its corner on the block grid.

    Parameters
    ----------
    pixels : (y, x) uint8, uint16 or float32
        Intensities of at least 0. Blocks at the lower and right edge are completed by
        mirroring their bins.

    Returns
    -------
    Blocks
    """
    means = block_mean(pixels, BIN_PX)
    pad = (-means.shape[0] % _SIDE, -means.shape[1] % _SIDE)
    if any(pad):
        means = np.pad(means, ((0, pad[0]), (0, pad[1])), mode="symmetric")
    dark, calm, peak = _measure(means)
    noise = calm / np.float32(_CALM_STEP)
    return Blocks(dark - np.float32(_DARK_Z) * noise, noise, peak)


@kernel
def _measure(means: Float32) -> tuple[Float32, Float32, Float32]:
    """Return the dark level, the calm step and the maximum of each block of bins."""
    shape = (means.shape[0] // _SIDE, means.shape[1] // _SIDE)
    dark, calm = np.empty(shape, np.uint32), np.empty(shape, np.uint32)
    peak = np.empty(shape, np.float32)
    steps = np.empty((_SIDE, _SIDE - 1), np.float32)
    step_bits = steps.ravel().view(np.uint32)
    for row in range(shape[0]):
        for column in range(shape[1]):
            y, x = row * _SIDE, column * _SIDE
            block = means[y : y + _SIDE, x : x + _SIDE].copy()
            for i in range(_SIDE):
                for j in range(_SIDE - 1):
                    steps[i, j] = abs(block[i, j + 1] - block[i, j])
            block_bits = block.ravel().view(np.uint32)
            dark[row, column] = _order_statistic(block_bits, int(_DARK * block_bits.size))
            calm[row, column] = _order_statistic(step_bits, int(_CALM * step_bits.size))
            peak[row, column] = block.max()
    return dark.view(np.float32), calm.view(np.float32), peak


@kernel
def _order_statistic(bits: NDArray[np.uint32], rank: int) -> np.uint32:
    """Return the bits of the value with a rank (from 0) among float32 of at least 0.

    The bits of such floats increase with their values. The result is the highest pattern
    with at most `rank` values below it. It is built bit by bit, without a branch that
    depends on a value, so that the inner loop is vectorised.
    """
    pattern = np.uint32(0)
    for position in range(31, -1, -1):
        candidate = np.uint32(pattern | np.uint32(1 << position))
        below = np.int32(0)  # as wide as the bits: vectorises best
        for i in range(bits.size):
            if bits[i] < candidate:
                below = np.int32(below + 1)
        if below <= rank:
            pattern = candidate
    return pattern


@dataclass(frozen=True)
class Background:
    """Background of a channel where there is no tissue, in intensities.

    Attributes
    ----------
    level : float
        Mean.
    noise : float
        Standard deviation of a pixel.
    threshold : float
        The mean of a 4 px bin above this is signal.
    """

    level: float
    noise: float
    threshold: float


def estimate_background(blocks: Blocks, p999: float, *, integer: bool) -> Background:
    """Estimate the background of a slide from its darkest blocks.

    The background of a slide without empty blocks is its darkest tissue. The estimate
    is then too high for that tissue only.

    Parameters
    ----------
    blocks : Blocks
        All blocks of the channel.
    p999 : float
        99.9th percentile of the channel.
    integer : bool
        Whether intensities are integers. Their rounding adds noise.
    """
    level = float(np.percentile(blocks.level, 1))
    darkest = blocks.level <= np.percentile(blocks.level, 5)
    noise = BIN_PX * float(np.median(blocks.noise[darkest]))
    threshold = signal_threshold(level, noise, p999, integer=integer)
    return Background(level, noise, threshold)


def signal_threshold(level: float, noise: float, p999: float, *, integer: bool) -> float:
    """Return the signal threshold of a channel.

    Parameters
    ----------
    level, noise, p999 : float
        Background, its standard deviation per pixel, and 99.9th percentile, see
        :func:`channel_statistics`.
    integer : bool
        Whether intensities are integers.

    Returns
    -------
    float
        The mean of a 4 px bin above this is signal.
    """
    rounding = _QUANTISATION_STD if integer else 0.0
    rise = NOISE_FACTOR * max(noise, rounding) / BIN_PX
    return level + max(rise, RANGE_FRACTION * (p999 - level))


def channel_statistics(pixels: Pixels) -> tuple[float, float, float, float, float]:
    """Return the statistics of the load stage for a channel in memory.

    Parameters
    ----------
    pixels : (y, x) uint8, uint16 or float32

    Returns
    -------
    minimum, maximum, background, noise, p999 : float
        Intensities, in the order of `ChannelStatistics`.
    """
    accumulator = ChannelAccumulator()
    accumulator.add(pixels)
    return accumulator.levels()


class ChannelAccumulator:
    """Statistics of one channel, accumulated over images in memory.

    It measures what the load stage measures on a slide. Each image is measured when it
    is added and is not kept.

    Attributes
    ----------
    histogram : (65536,) int64
        Pixels of all images by intensity, see
        :func:`codexseg.core.intensity.histogram.histogram`.
    minimum, maximum : float
        Range of all images; inf and -inf before the first one.
    """

    def __init__(self) -> None:
        self.histogram: Int64 = np.zeros(N_BINS, np.int64)
        self.minimum, self.maximum = np.inf, -np.inf
        self._blocks: list[Blocks] = []
        self._dtype: np.dtype[Any] = np.dtype(np.uint8)

    def add(self, pixels: Pixels) -> None:
        """Add an image, (y, x) uint8, uint16 or float32. All images have one dtype."""
        self.histogram += histogram(pixels)
        self._blocks.append(measure_blocks(pixels))
        self.minimum = min(self.minimum, float(pixels.min()))
        self.maximum = max(self.maximum, float(pixels.max()))
        self._dtype = pixels.dtype

    def percentile(self, percent: float) -> float:
        """Return a percentile of all pixels; NaN before the first image."""
        return percentile(self.histogram, percent, self._dtype)

    def blocks(self) -> Blocks:
        """Return the blocks of all images: arrays (n,), image by image, row by row.

        Raises
        ------
        ValueError
            If no image was added.
        """
        names = ("level", "noise", "peak")
        columns = ([getattr(b, name).ravel() for b in self._blocks] for name in names)
        return Blocks(*map(np.concatenate, columns))

    def background(self) -> Background:
        """Estimate the background over all images, see :func:`estimate_background`.

        Raises
        ------
        ValueError
            If no image was added.
        """
        integer = self._dtype.kind != "f"
        return estimate_background(self.blocks(), self.percentile(99.9), integer=integer)

    def levels(self) -> tuple[float, float, float, float, float]:
        """Return minimum, maximum, background, noise and 99.9th percentile.

        The order is that of `ChannelStatistics`, as in :func:`channel_statistics`.

        Raises
        ------
        ValueError
            If no image was added.
        """
        background, p999 = self.background(), self.percentile(99.9)
        return self.minimum, self.maximum, background.level, background.noise, p999


def has_signal(signal: Mask, window: Window) -> bool:
    """Return whether any block that overlaps the window holds signal.

    Parameters
    ----------
    signal : (block rows, block columns) bool
        Blocks of the slide that hold signal.
    window : Window
        Of the slide, px.
    """
    return bool(_blocks_under(signal, window).any())


def signal_pixels(signal: Mask, window: Window) -> Mask:
    """Return which pixels of a window are in blocks with signal, (y, x) bool.

    Parameters
    ----------
    signal : (block rows, block columns) bool
        Blocks of the slide that hold signal.
    window : Window
        Of the slide, px.
    """
    y0, x0 = window.y0 // BLOCK_PX * BLOCK_PX, window.x0 // BLOCK_PX * BLOCK_PX
    blocks = _blocks_under(signal, window)
    pixels = np.repeat(np.repeat(blocks, BLOCK_PX, axis=0), BLOCK_PX, axis=1)
    covered = Window(y0, x0, y0 + pixels.shape[0], x0 + pixels.shape[1])
    return pixels[window.within(covered)]


def _blocks_under(signal: Mask, window: Window) -> Mask:
    return signal[
        window.y0 // BLOCK_PX : (window.y1 - 1) // BLOCK_PX + 1,
        window.x0 // BLOCK_PX : (window.x1 - 1) // BLOCK_PX + 1,
    ]


def patch_statistics(patch: Pixels) -> dict[str, float]:
    """Return the statistics of a patch that the specification defines.

    Parameters
    ----------
    patch : (2, y, x) uint8, uint16 or float32
        Channel 0 nucleus, channel 1 whole cell.

    Returns
    -------
    statistics : dict
        ``{channel}_mean``, ``{channel}_std`` (intensities) and
        ``{channel}_non_zero_perc`` (fraction of the pixels, 0 to 1).
    """
    statistics: dict[str, float] = {}
    for name, pixels in zip(("nucleus", "wholecell"), patch, strict=True):
        mean, variance, non_zero = _moments(pixels)
        statistics |= {
            f"{name}_mean": mean,
            f"{name}_std": float(np.sqrt(variance)),
            f"{name}_non_zero_perc": non_zero / pixels.size,
        }
    return statistics


@kernel
def _moments(pixels: Pixels) -> tuple[float, float, int]:
    """Return mean, variance and number of non-zero pixels, in two passes.

    Sums are float64, which holds the sum of 2**37 integers exactly. They run column by
    column: the order is fixed, and the loops are vectorised.
    """
    height, width = pixels.shape
    totals, squares, non_zero = np.zeros(width), np.zeros(width), 0
    for y in range(height):
        for x in range(width):
            totals[x] += pixels[y, x]
            non_zero += pixels[y, x] != 0
    mean = totals.sum() / pixels.size
    for y in range(height):
        for x in range(width):
            squares[x] += (pixels[y, x] - mean) ** 2
    return mean, squares.sum() / pixels.size, non_zero
