"""At what scale, of lengths and of grey levels, a backend is shown an image.

The size of cells from what was found of them, and where on a slide to look.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codexseg.core.grid import Window
from codexseg.core.intensity.background import BLOCK_PX
from codexseg.core.intensity.histogram import percentile
from codexseg.errors import InputError

ENOUGH_SIGNAL = 0.75
"""A window is looked at if it holds this fraction of the signal of the fullest."""

Floats = NDArray[np.float64]


# -- grey levels --------------------------------------------------------------------------


@dataclass(frozen=True)
class IntensityScaling:
    """The grey levels of a channel that become 0 and 1."""

    low: float
    high: float

    @classmethod
    def of(
        cls,
        counts: NDArray[np.int64],
        percentiles: tuple[float, float],
        dtype: np.dtype[Any],
    ) -> "IntensityScaling":
        """Take them from a histogram of `core.intensity`, of pixels of `dtype`."""
        low, high = (percentile(counts, percent, dtype) for percent in percentiles)
        return cls(low, high)

    @property
    def is_flat(self) -> bool:
        """Whether there is nothing between them: the channel stays as it is."""
        return not self.high > self.low

    def level(self, grey: float) -> float:
        """Return what becomes of a grey level; at least 0."""
        return grey if self.is_flat else max(0.0, (grey - self.low) / self.step)

    @property
    def step(self) -> float:
        """How many grey levels become 1; 1 where the channel stays as it is."""
        return 1.0 if self.is_flat else self.high - self.low

    def apply(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """Scale pixels (y, x): 0 at `low` and below, 1 at `high`, more above; float32."""
        if self.is_flat:
            return pixels.astype(np.float32)
        scaled = pixels.astype(np.float32)
        scaled -= np.float32(self.low)
        scaled *= np.float32(1 / self.step)
        return np.maximum(scaled, np.float32(0), out=scaled)


# -- lengths ------------------------------------------------------------------------------


def equivalent_diameters(
    labels: NDArray[np.integer], signal: NDArray[np.bool_] | None = None
) -> Floats:
    """Return the diameters of the circles that have the objects' areas, px.

    Parameters
    ----------
    labels : (y, x) integer
        0 is background. Objects at the edge of the image are left out: they may be cut.
    signal : (y, x) bool, optional
        Objects without any pixel in it are left out.

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
    diameters: Floats = 2 * np.sqrt(areas[kept] / np.pi)
    return diameters


def choose_windows(
    signal: NDArray[np.bool_], shape: tuple[int, int], side_px: int, most: int
) -> list[Window]:
    """Choose where to look for the size of cells: full of signal, and spread evenly.

    The first window is the one with most signal, each further one that which lies
    farthest from those before it, among those that hold nearly as much.

    Parameters
    ----------
    signal : (rows, columns) bool
        Which blocks of 64 px of the slide hold signal.
    shape : (int, int)
        Of the slide, px.
    side_px : int
        Side of a window: a multiple of 64. At the lower and the right edge of the slide
        windows are smaller.
    most : int
        At most so many windows.

    Returns
    -------
    windows : list of Window
        Of the slide, in the order in which they were chosen; none without signal.

    Raises
    ------
    InputError
        If `side_px` is no multiple of 64.
    """
    if side_px < BLOCK_PX or side_px % BLOCK_PX:
        raise InputError(f"a window of {side_px} px: expected a multiple of {BLOCK_PX}.")
    blocks = side_px // BLOCK_PX
    padding = [(0, -n % blocks) for n in signal.shape]
    padded = np.pad(signal, padding)
    rows, columns = (n // blocks for n in padded.shape)
    scores = padded.reshape(rows, blocks, columns, blocks).sum(axis=(1, 3))
    places = np.argwhere(scores >= max(1, ENOUGH_SIGNAL * scores.max(initial=0)))
    chosen: list[Window] = []
    found = scores[*places.T]
    distance = np.full(len(places), np.inf)
    while len(chosen) < most and distance.max(initial=0) > 0:
        # farthest first, then most signal, then the first in reading order
        at = int(np.lexsort((-np.arange(len(places)), found, distance))[-1])
        y, x = (int(n) * side_px for n in places[at])
        chosen.append(Window(y, x, min(y + side_px, shape[0]), min(x + side_px, shape[1])))
        distance = np.minimum(distance, np.hypot(*(places - places[at]).T))
    return chosen


def median_diameter(diameters: Sequence[Floats], floor: float) -> float | None:
    """Return the median over all windows, at least `floor`; None where nothing is."""
    every = np.concatenate([np.zeros(0), *diameters])
    return max(float(np.median(every)), floor) if every.size else None
