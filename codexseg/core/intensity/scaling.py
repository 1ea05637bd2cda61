"""Scaling of intensities, and the size of cells in windows of a slide."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codexseg.arrays import Float32, Float64, Int64, Mask, Pixels
from codexseg.core.grid import Window
from codexseg.core.intensity.background import BLOCK_PX
from codexseg.core.intensity.histogram import percentile
from codexseg.errors import InputError

MIN_SIGNAL = 0.75
"""Minimum signal of a window, as a fraction of the window with the most signal."""


# -- intensities --------------------------------------------------------------------------


@dataclass(frozen=True)
class IntensityScaling:
    """Linear scaling of a channel to the unit range.

    Attributes
    ----------
    low, high : float
        Intensities that become 0 and 1.
    """

    low: float
    high: float

    @classmethod
    def of(
        cls, counts: Int64, percentiles: tuple[float, float], dtype: np.dtype[Any]
    ) -> "IntensityScaling":
        """Scale between two percentiles of a histogram.

        Parameters
        ----------
        counts : (65536,) int64
            See :func:`codexseg.core.intensity.histogram.histogram`.
        percentiles : (float, float)
            Lower and upper percentile, 0 to 100.
        dtype : dtype
            Of the pixels.
        """
        low, high = (percentile(counts, percent, dtype) for percent in percentiles)
        return cls(low, high)

    @property
    def is_flat(self) -> bool:
        """Whether the range is empty; the channel is then left unscaled."""
        return not self.high > self.low

    def level(self, intensity: float) -> float:
        """Scale one intensity; the result is at least 0."""
        if self.is_flat:
            return intensity
        return max(0.0, (intensity - self.low) / self.step)

    @property
    def step(self) -> float:
        """Difference of intensities that becomes 1; 1 for an empty range."""
        return 1.0 if self.is_flat else self.high - self.low

    def apply(self, pixels: Pixels) -> Float32:
        """Scale pixels: 0 up to `low`, 1 at `high`, above 1 beyond it.

        Parameters
        ----------
        pixels : (y, x) uint8, uint16 or float32

        Returns
        -------
        (y, x) float32
        """
        scaled = pixels.astype(np.float32)
        if self.is_flat:
            return scaled
        scaled -= np.float32(self.low)
        scaled *= np.float32(1 / self.step)
        return np.maximum(scaled, np.float32(0), out=scaled)


# -- lengths ------------------------------------------------------------------------------


def equivalent_diameters(
    labels: NDArray[np.integer], signal: Mask | None = None
) -> Float64:
    """Return the diameters of circles with the areas of the objects, px.

    Parameters
    ----------
    labels : (y, x) integer
        0 is background. Objects at the edge of the image may be cut and are excluded.
    signal : (y, x) bool, optional
        Objects without a pixel of it are excluded.

    Returns
    -------
    diameters : (n,) float64
        In the order of the labels.
    """
    names, areas = np.unique(labels, return_counts=True)
    edges = (labels[0], labels[-1], labels[:, 0], labels[:, -1])
    kept = (names > 0) & ~np.isin(names, np.concatenate(edges))
    if signal is not None:
        kept &= np.isin(names, np.unique(labels[signal]))
    return np.asarray(2 * np.sqrt(areas[kept] / np.pi))


def choose_windows(
    signal: Mask, shape: tuple[int, int], side_px: int, max_windows: int
) -> list[Window]:
    """Choose windows with much signal, spread evenly over a slide.

    The first window has the most signal. Each further window has nearly as much signal
    and the largest distance from the windows before it (farthest point sampling).

    Parameters
    ----------
    signal : (block rows, block columns) bool
        Blocks of 64 px that hold signal.
    shape : (int, int)
        Of the slide, px.
    side_px : int
        Side of a window, a multiple of 64. Windows at the lower and right edge of the
        slide may be smaller.
    max_windows : int
        Maximum number of windows.

    Returns
    -------
    windows : list of Window
        In the order of choice; empty without signal.

    Raises
    ------
    InputError
        If `side_px` is not a multiple of 64.
    """
    if side_px < BLOCK_PX or side_px % BLOCK_PX:
        raise InputError(
            f"The side of a window is {side_px} px, expected a multiple of {BLOCK_PX}. "
            f"Choose a multiple."
        )
    blocks = side_px // BLOCK_PX
    padding = [(0, -n % blocks) for n in signal.shape]
    padded = np.pad(signal, padding)
    rows, columns = (n // blocks for n in padded.shape)
    scores = padded.reshape(rows, blocks, columns, blocks).sum(axis=(1, 3))
    candidates = np.argwhere(scores >= max(1, MIN_SIGNAL * scores.max(initial=0)))
    score = scores[*candidates.T]
    distance = np.full(len(candidates), np.inf)
    order = -np.arange(len(candidates))
    chosen: list[Window] = []
    while len(chosen) < max_windows and distance.max(initial=0) > 0:
        # farthest first, then most signal, then the first in reading order
        best = int(np.lexsort((order, score, distance))[-1])
        y, x = (int(n) * side_px for n in candidates[best])
        chosen.append(Window(y, x, min(y + side_px, shape[0]), min(x + side_px, shape[1])))
        step = candidates - candidates[best]
        distance = np.minimum(distance, np.hypot(*step.T))
    return chosen


def median_diameter(diameters: Sequence[Float64], floor: float) -> float | None:
    """Return the median over all windows, at least `floor`; None without a diameter."""
    pooled = np.concatenate([np.zeros(0), *diameters])
    return max(float(np.median(pooled)), floor) if pooled.size else None
