"""Judging the foreground pixel by pixel, whatever objects it is made of.

The counts of all images are added up before anything is divided, as in the published
evaluations of semantic networks; IoU and Dice are those of the foreground alone.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codexseg.arrays import Int64, Mask
from codexseg.core.labels.overlaps import Overlaps
from codexseg.core.metrics.objects import quotient
from codexseg.errors import InputError

LEVELS = 2**20
"""Probabilities that lie closer together than 1 / LEVELS count as equal in an AuROC."""


@dataclass(frozen=True)
class PixelCounts:
    """Pixels of the foreground; those of several images or windows add up with ``+``.

    Attributes
    ----------
    tp, fp, fn : int
        Pixels that are foreground in both, in the prediction, in the truth only.
    """

    tp: int = 0
    fp: int = 0
    fn: int = 0

    def __add__(self, other: "PixelCounts") -> "PixelCounts":
        return PixelCounts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn)

    @property
    def precision(self) -> float:
        """Right share of the predicted foreground."""
        return quotient(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """Found share of the true foreground."""
        return quotient(self.tp, self.tp + self.fn)

    @property
    def f1(self) -> float:
        """2 tp / (2 tp + fp + fn)."""
        return quotient(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def iou(self) -> float:
        """Intersection over union, tp / (tp + fp + fn): the same as f1 / (2 - f1)."""
        return quotient(self.tp, self.tp + self.fp + self.fn)

    @property
    def dice(self) -> float:
        """Another name of f1."""
        return self.f1


def count_pixels(table: Overlaps) -> PixelCounts:
    """Count the pixels of the foreground, objects of any label."""
    truth, pred, shared = table.truth > 0, table.pred > 0, table.shared
    return PixelCounts(
        tp=int(shared[truth & pred].sum()),
        fp=int(shared[~truth].sum()),
        fn=int(shared[~pred].sum()),
    )


def probability_levels(foreground: Mask, probability: NDArray[Any]) -> Int64:
    """Count pixels by probability; counts of windows and images add up.

    Parameters
    ----------
    foreground : (y, x) bool
        The truth.
    probability : (y, x) float
        Predicted, from 0 to 1.

    Returns
    -------
    (2, LEVELS + 1) int64
        Pixels at each probability, in steps of 1 / LEVELS: background, foreground.

    Raises
    ------
    InputError
        If the shapes differ, or a probability is not from 0 to 1.
    """
    if foreground.shape != probability.shape:
        raise InputError(
            f"truth and prediction must cover the same pixels, got {foreground.shape} and "
            f"{probability.shape}."
        )
    if not ((probability >= 0) & (probability <= 1)).all():  # NaN is neither
        raise InputError(
            f"probabilities from {probability.min()} to {probability.max()} were found, "
            f"expected 0 to 1: scale them, or give labels as integers."
        )
    level = np.rint(probability.astype(np.float64) * LEVELS).astype(np.int64)
    return np.stack(
        [
            np.bincount(level[where], minlength=LEVELS + 1)
            for where in (~foreground, foreground)
        ]
    )


def auroc(levels: Int64) -> float:
    """Compute the area under the receiver operating characteristic.

    It is the chance that a pixel of the foreground has a higher probability than one of
    the background (the rank statistic of Mann and Whitney); ties count one half.

    Parameters
    ----------
    levels : (2, n) int64
        See `probability_levels`.

    Returns
    -------
    float
        NaN where the truth is all foreground or all background.
    """
    background, foreground = levels.astype(np.float64)
    pairs = background.sum() * foreground.sum()
    below = np.cumsum(background) - background
    wins = float((foreground * (below + background / 2)).sum())
    return wins / float(pairs) if pairs else float("nan")
