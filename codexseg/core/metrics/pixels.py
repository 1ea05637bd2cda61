"""Pixel-based metrics of the foreground, regardless of objects.

Counts are summed over all images before division, as in published evaluations of semantic
segmentation. IoU and Dice refer to the foreground.
"""

from dataclasses import dataclass

import numpy as np

from codexseg.arrays import Float32, Float64, Int64, Mask
from codexseg.core.labels.overlaps import Overlaps
from codexseg.core.metrics.objects import Counts, quotient
from codexseg.errors import InputError

LEVELS = 2**20
"""Number of steps of a probability. The AuROC ignores differences within a step."""


@dataclass(frozen=True)
class PixelCounts(Counts):
    """Foreground pixels; counts of images and windows add up with ``+``.

    Attributes
    ----------
    tp, fp, fn : int
        Foreground pixels of both images, of the prediction only, of the truth only.
    """

    tp: int = 0
    fp: int = 0
    fn: int = 0

    def __add__(self, other: "PixelCounts") -> "PixelCounts":
        return PixelCounts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn)

    @property
    def iou(self) -> float:
        """Intersection over union, tp / (tp + fp + fn) = f1 / (2 - f1)."""
        return quotient(self.tp, self.tp + self.fp + self.fn)

    @property
    def dice(self) -> float:
        """Dice coefficient, equal to f1."""
        return self.f1


def count_pixels(table: Overlaps) -> PixelCounts:
    """Count the foreground pixels, with objects of any label as foreground."""
    truth, pred, shared = table.truth > 0, table.pred > 0, table.shared
    return PixelCounts(
        tp=int(shared[truth & pred].sum()),
        fp=int(shared[~truth].sum()),
        fn=int(shared[~pred].sum()),
    )


def probability_levels(foreground: Mask, probability: Float32 | Float64) -> Int64:
    """Count pixels by probability. Counts of windows and images add up.

    Parameters
    ----------
    foreground : (y, x) bool
        True foreground.
    probability : (y, x) float
        Predicted probability, 0 to 1.

    Returns
    -------
    (2, LEVELS + 1) int64
        Pixels of the background and the foreground by probability, in steps of
        1 / LEVELS.

    Raises
    ------
    InputError
        If the shapes differ, or a probability is not in 0 to 1.
    """
    if foreground.shape != probability.shape:
        raise InputError(
            f"Truth and prediction have shapes {foreground.shape} and "
            f"{probability.shape}, expected equal shapes. Check the pairs of images."
        )
    if not ((probability >= 0) & (probability <= 1)).all():  # rejects NaN
        raise InputError(
            f"Probabilities are {probability.min()} to {probability.max()}, expected 0 to "
            f"1. Scale them, or store labels as integers."
        )
    level = np.rint(probability.astype(np.float64) * LEVELS).astype(np.int64)
    return np.stack(
        [
            np.bincount(level[region], minlength=LEVELS + 1)
            for region in (~foreground, foreground)
        ]
    )


def auroc(levels: Int64) -> float:
    """Compute the area under the receiver operating characteristic.

    It is the probability that a random foreground pixel ranks above a random background
    pixel (Mann-Whitney U statistic); ties count one half.

    Parameters
    ----------
    levels : (2, n) int64
        See :func:`probability_levels`.

    Returns
    -------
    float
        NaN if the truth is all foreground or all background.
    """
    background, foreground = levels.astype(np.float64)
    pairs = background.sum() * foreground.sum()
    below = np.cumsum(background) - background
    wins = float((foreground * (below + background / 2)).sum())
    return wins / float(pairs) if pairs else float("nan")
