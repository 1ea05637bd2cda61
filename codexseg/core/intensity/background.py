"""Which parts of a slide hold something: signal per block, statistics per patch.

Signal is looked for in blocks of 64 px on one grid anchored at the slide's corner, so
that the answer for a pixel never depends on how the slide is cut into patches.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codexseg.core.grid import Window
from codexseg.core.intensity.histogram import N_BINS, block_mean, histogram, percentile
from codexseg.core.kernel import kernel

BLOCK_PX = 64
"""Side of a block."""
BIN_PX = 4
"""Side of the squares that are averaged before a block is judged: noise falls by 4."""
NOISE_FACTOR = 8.0
"""How many standard deviations above the background signal begins."""
RANGE_FRACTION = 0.002
"""Signal rises above the background by at least this part of the slide's range."""
# Tissue may cover a block, and what is between the cells is then the darker and calmer
# part: the level comes from the darkest tenth, the noise from the smallest quarter of
# the steps between neighbours. Of an empty block both say what mean and spread would.
_DARK = 0.1
_CALM = 0.25
_DARK_Z = -1.2816  # 10th percentile of a standard normal
_CALM_STEP = 0.4506  # 25th percentile of |a - b|, a and b standard normal
_QUANTISATION_STD = 0.2887  # of a uniform error of one grey level

_SIDE = BLOCK_PX // BIN_PX

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Blocks:
    """One channel, block by block: arrays (block row, block column) float32.

    Of the means of 4 px squares: `level` the mean and `noise` the standard deviation
    between cells, if there are cells, and `peak` the maximum.
    """

    level: Floats
    noise: Floats
    peak: Floats


def measure_blocks(pixels: NDArray[Any]) -> Blocks:
    """Measure the blocks of an image whose corner lies on the block grid.

    Parameters
    ----------
    pixels : (y, x) uint8, uint16 or float32
        Grey levels of at least 0. Blocks at the lower and right edge are filled up with
        the mirror image of their squares.

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
def _measure(means: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the dark level, the calm step and the maximum of each block of squares."""
    shape = (means.shape[0] // _SIDE, means.shape[1] // _SIDE)
    dark, calm = np.empty(shape, np.uint32), np.empty(shape, np.uint32)
    peak = np.empty(shape, np.float32)
    steps = np.empty((_SIDE, _SIDE - 1), np.float32)
    changes = steps.ravel().view(np.uint32)
    for row in range(shape[0]):
        for column in range(shape[1]):
            y, x = row * _SIDE, column * _SIDE
            block = means[y : y + _SIDE, x : x + _SIDE].copy()
            for i in range(_SIDE):
                for j in range(_SIDE - 1):
                    steps[i, j] = abs(block[i, j + 1] - block[i, j])
            levels = block.ravel().view(np.uint32)
            dark[row, column] = _ranked(levels, int(_DARK * levels.size))
            calm[row, column] = _ranked(changes, int(_CALM * changes.size))
            peak[row, column] = block.max()
    return dark.view(np.float32), calm.view(np.float32), peak


@kernel
def _ranked(bits: NDArray[np.uint32], rank: int) -> np.uint32:
    """Return which of these bits of float32 of at least 0 has the rank (from 0).

    They rise with the values, so it is the highest pattern that no more than `rank` of
    them lie below: built bit by bit, with no branch that depends on a value.
    """
    found = np.uint32(0)
    for place in range(31, -1, -1):
        tried = np.uint32(found | np.uint32(1 << place))
        below = np.int32(0)  # of the width of the bits, which is vectorised best
        for i in range(bits.size):
            if bits[i] < tried:
                below = np.int32(below + 1)
        if below <= rank:
            found = tried
    return found


@dataclass(frozen=True)
class Background:
    """What a channel shows where there is no tissue, in grey levels.

    `noise` is the standard deviation of a pixel, `threshold` the level above which the
    mean of a 4 px square is signal.
    """

    level: float
    noise: float
    threshold: float


def estimate_background(blocks: Blocks, p999: float, *, integer: bool) -> Background:
    """Estimate the background of a slide from its darkest blocks.

    A slide without empty places has no better background than its darkest tissue: the
    estimate is then too high for nothing but that tissue.

    Parameters
    ----------
    blocks : Blocks
        All blocks of the channel.
    p999 : float
        99.9th percentile of the channel.
    integer : bool
        Whether grey levels are integers, whose rounding is noise too.
    """
    level = float(np.percentile(blocks.level, 1))
    darkest = blocks.level <= np.percentile(blocks.level, 5)
    noise = float(np.median(blocks.noise[darkest]))
    floor = _QUANTISATION_STD / BIN_PX if integer else 0.0
    rise = max(NOISE_FACTOR * max(noise, floor), RANGE_FRACTION * (p999 - level))
    return Background(level, noise * BIN_PX, level + rise)


def channel_statistics(
    pixels: NDArray[np.generic],
) -> tuple[float, float, float, float, float]:
    """Return what the load stage finds for a slide, for an image held in memory.

    Parameters
    ----------
    pixels : (y, x) uint8, uint16 or float32

    Returns
    -------
    minimum, maximum, background, noise, p999 : float
        Grey levels, in the order of `ChannelStatistics`.
    """
    tally = ChannelAccumulator()
    tally.add(pixels)
    return tally.levels()


class ChannelAccumulator:
    """What images of one channel, held one at a time, tell of it together."""

    def __init__(self) -> None:
        self._counts = np.zeros(N_BINS, np.int64)
        self._blocks: list[Blocks] = []
        self._lowest, self._highest = np.inf, -np.inf
        self._dtype: np.dtype[Any] = np.dtype(np.uint8)

    def add(self, pixels: NDArray[Any]) -> None:
        """Add an image (y, x) uint8, uint16 or float32; all of one dtype."""
        self._counts += histogram(pixels)
        self._blocks.append(measure_blocks(pixels))
        self._lowest = min(self._lowest, float(pixels.min()))
        self._highest = max(self._highest, float(pixels.max()))
        self._dtype = pixels.dtype

    def levels(self) -> tuple[float, float, float, float, float]:
        """Return what :func:`channel_statistics` returns, of all images together."""
        names = ("level", "noise", "peak")
        parts = ([getattr(b, name).ravel() for b in self._blocks] for name in names)
        p999 = percentile(self._counts, 99.9, self._dtype)
        background = estimate_background(
            Blocks(*map(np.concatenate, parts)), p999, integer=self._dtype.kind != "f"
        )
        return self._lowest, self._highest, background.level, background.noise, p999


def has_signal(signal: NDArray[np.bool_], window: Window) -> bool:
    """Whether a block that shares a pixel with the window holds signal."""
    return bool(_blocks_under(signal, window).any())


def signal_pixels(signal: NDArray[np.bool_], window: Window) -> NDArray[np.bool_]:
    """Spread the blocks' answer over the pixels of a window, (y, x) bool."""
    y0, x0 = window.y0 // BLOCK_PX * BLOCK_PX, window.x0 // BLOCK_PX * BLOCK_PX
    blocks = _blocks_under(signal, window)
    pixels = np.repeat(np.repeat(blocks, BLOCK_PX, axis=0), BLOCK_PX, axis=1)
    covered = Window(y0, x0, y0 + pixels.shape[0], x0 + pixels.shape[1])
    return pixels[window.within(covered)]


def _blocks_under(signal: NDArray[np.bool_], window: Window) -> NDArray[np.bool_]:
    return signal[
        window.y0 // BLOCK_PX : (window.y1 - 1) // BLOCK_PX + 1,
        window.x0 // BLOCK_PX : (window.x1 - 1) // BLOCK_PX + 1,
    ]


def patch_statistics(patch: NDArray[Any]) -> dict[str, float]:
    """Return the specification's statistics of a patch.

    Parameters
    ----------
    patch : (2, y, x) uint8, uint16 or float32
        Channel 0 nucleus, channel 1 whole cell.

    Returns
    -------
    statistics : dict
        ``{channel}_mean``, ``{channel}_std`` (grey levels) and
        ``{channel}_non_zero_perc`` (a fraction of the pixels, 0 to 1).
    """
    statistics = {}
    for name, pixels in zip(("nucleus", "wholecell"), patch, strict=True):
        mean, variance, non_zero = _moments(pixels)
        statistics[f"{name}_mean"] = mean
        statistics[f"{name}_std"] = float(np.sqrt(variance))
        statistics[f"{name}_non_zero_perc"] = non_zero / pixels.size
    return statistics


@kernel
def _moments(pixels: NDArray[Any]) -> tuple[float, float, int]:
    """Return mean, variance about it, and the number of pixels that are not 0.

    In float64, which holds the sum of 2**37 integers exactly, column by column: so the
    order is fixed, and yet the loops are vectorised.
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
