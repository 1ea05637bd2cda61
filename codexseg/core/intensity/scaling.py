"""At what scale, of lengths and of grey levels, a backend is shown an image.

The size of cells from what was found of them, where on a slide to look, and the ridge
regression that estimates it from a network's style vector: Stringer et al., Cellpose: a
generalist algorithm for cellular segmentation, Nature Methods 18, 2021.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

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


@dataclass(frozen=True, eq=False)
class SizeModel:
    """Ridge regression of the logarithm of the cells' diameter on a style vector.

    A style vector is what a network sums up of an image (the mean over all pixels of
    its deepest features, of length 1). Diameters are in the unit of the fit.

    Attributes
    ----------
    a : (d,) float64
        Weights.
    smean : (d,) float64
        Mean style of the fit.
    ymean : float
        Mean of the logarithm of diameters over `diam_mean` of the fit.
    diam_mean : float
        The diameter that the network was made for.
    """

    a: Floats
    smean: Floats
    ymean: float
    diam_mean: float

    @classmethod
    def fit(
        cls,
        styles: ArrayLike,
        diameters: ArrayLike,
        diam_mean: float,
        *,
        ridge: float = 1.0,
    ) -> "SizeModel":
        """Solve (X Xᵀ + r I) A = X Y, X and Y less their means, Y the logarithm.

        Parameters
        ----------
        styles : (n, d)
            Style vectors of n images, as the network saw them.
        diameters : (n,)
            Median diameter of their cells, at that scale; above 0.
        diam_mean : float
            The diameter that the network was made for.
        ridge : float
            r: how strongly weights are held back.

        Raises
        ------
        InputError
            If shapes do not fit, or a diameter is not above 0.
        """
        s, d = np.asarray(styles, np.float64), np.asarray(diameters, np.float64)
        if s.ndim != 2 or d.shape != s.shape[:1] or not len(d):
            raise InputError(
                f"styles of shape {s.shape} and diameters of shape {d.shape}: expected "
                f"(n, d) and (n,), n at least 1."
            )
        if not (np.isfinite(d).all() and (d > 0).all() and diam_mean > 0 <= ridge):
            raise InputError(
                "a diameter that is not above 0 (or a ridge below 0): leave out images "
                "without cells."
            )
        y = np.log(d) - np.log(diam_mean)
        smean, ymean = s.mean(axis=0), float(y.mean())
        x = (s - smean).T
        a = np.linalg.solve(x @ x.T + ridge * np.eye(len(x)), x @ (y - ymean))
        return cls(a, smean, ymean, float(diam_mean))

    def predict(self, styles: ArrayLike) -> Floats:
        """Estimate diameters (n,) from styles (n, d); what is no number is `diam_mean`."""
        s = np.asarray(styles, np.float64)
        if s.ndim != 2 or s.shape[1:] != self.smean.shape:
            raise InputError(f"styles of shape {s.shape}, expected (n, {len(self.smean)}).")
        with np.errstate(over="ignore", invalid="ignore"):
            found = np.exp((s - self.smean) @ self.a + np.log(self.diam_mean) + self.ymean)
        good = np.isfinite(found) & (found > 0)
        return np.where(good, found, self.diam_mean)

    def to_arrays(self) -> dict[str, Floats]:
        """Return A, smean, ymean and diam_mean, for a file."""
        numbers = {"ymean": self.ymean, "diam_mean": self.diam_mean}
        arrays = {"A": self.a, "smean": self.smean}
        return arrays | {name: np.array(value) for name, value in numbers.items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, ArrayLike]) -> "SizeModel":
        """Take up what :meth:`to_arrays` gave."""
        missing = [n for n in ("A", "smean", "ymean", "diam_mean") if n not in arrays]
        if missing:
            raise InputError(f"a size model without {', '.join(missing)}: fit it again.")
        a, smean = (np.asarray(arrays[name], np.float64) for name in ("A", "smean"))
        if a.ndim != 1 or a.shape != smean.shape:
            raise InputError(
                f"a size model with A of shape {a.shape} and smean of shape "
                f"{smean.shape}, expected the same (d,): fit it again."
            )
        return cls(a, smean, float(arrays["ymean"]), float(arrays["diam_mean"]))  # type: ignore[arg-type]


def median_diameter(diameters: Sequence[Floats], floor: float) -> float | None:
    """Return the median over all windows, at least `floor`; None where nothing is."""
    every = np.concatenate([np.zeros(0), *diameters])
    return max(float(np.median(every)), floor) if every.size else None
