"""Object-based metrics: predicted labels against reference labels.

`object_pairs` converts a table of shared pixels (see `codexseg.core.labels.overlaps`) into
the IoU of overlapping objects. `count_matches` pairs them one to one. Memory is
proportional to the number of overlaps.

The quantities are those of stardist.matching (Weigert et al.). F1 at an IoU of 0.5 without
objects at the border is that of the NeurIPS 2022 cell segmentation challenge. All quotients
are 0 without a match, also if both images are empty.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, min_weight_full_bipartite_matching

from codexseg.arrays import Float64, Int64, Labels, Mask
from codexseg.core.labels.overlaps import Overlaps, sum_by_key
from codexseg.errors import InputError

QUOTIENTS = (
    "precision",
    "recall",
    "f1",
    "accuracy",
    "panoptic_quality",
    "mean_matched_score",
    "mean_true_score",
)
"""Quantities of :class:`MatchCounts` that are averaged over images."""

_COMPONENTS_AT_ONCE = 256


class ObjectPairs(NamedTuple):
    """Objects of two label images, and the pairs that overlap.

    Attributes
    ----------
    truth_labels, pred_labels : (n_true,), (n_pred,) uint32
        Labels of all objects in ascending order.
    truth, pred : (n,) int64
        Pairs in ascending order, as indices into the labels.
    iou : (n,) float64
        Intersection over union, above 0.
    inside : (n,) float64
        Fraction of the smaller object that is inside the larger one.
    """

    truth_labels: Labels
    pred_labels: Labels
    truth: Int64
    pred: Int64
    iou: Float64
    inside: Float64


class Counts:
    """Quotients of the counts of objects or pixels.

    Attributes
    ----------
    tp, fp, fn : int
        Correct ones, predicted ones that are not true, true ones that are not predicted.
    """

    tp: int
    fp: int
    fn: int

    @property
    def n_true(self) -> int:
        """Number of true objects or pixels."""
        return self.tp + self.fn

    @property
    def n_pred(self) -> int:
        """Number of predicted objects or pixels."""
        return self.tp + self.fp

    @property
    def precision(self) -> float:
        """Correct fraction of the predicted ones, tp / n_pred."""
        return quotient(self.tp, self.n_pred)

    @property
    def recall(self) -> float:
        """Detected fraction of the true ones, tp / n_true."""
        return quotient(self.tp, self.n_true)

    @property
    def f1(self) -> float:
        """F1 score, 2 tp / (n_true + n_pred)."""
        return quotient(2 * self.tp, self.n_true + self.n_pred)


@dataclass(frozen=True)
class MatchCounts(Counts):
    """MatchCounts at one threshold, in one image or pooled over several.

    Attributes
    ----------
    threshold : float
        Minimum IoU of a match.
    tp, fp, fn : int
        Matched pairs, unmatched predicted objects, unmatched true objects.
    iou_sum : float
        Sum of the IoU of the matched pairs.
    """

    threshold: float
    tp: int
    fp: int
    fn: int
    iou_sum: float

    @property
    def accuracy(self) -> float:
        """Accuracy, tp / (tp + fp + fn); often called average precision (AP)."""
        return quotient(self.tp, self.tp + self.fp + self.fn)

    @property
    def panoptic_quality(self) -> float:
        """Panoptic quality, iou_sum / (tp + fp / 2 + fn / 2)."""
        return quotient(self.iou_sum, self.tp + self.fp / 2 + self.fn / 2)

    @property
    def mean_matched_score(self) -> float:
        """Mean IoU of the matched pairs."""
        return quotient(self.iou_sum, self.tp)

    @property
    def mean_true_score(self) -> float:
        """Mean IoU of the true objects, 0 for unmatched ones."""
        return quotient(self.iou_sum, self.n_true)


def object_pairs(table: Overlaps) -> ObjectPairs:
    """Compute the IoU of all pairs of overlapping objects.

    Parameters
    ----------
    table : Overlaps
        Shared pixels of the whole image.

    Returns
    -------
    ObjectPairs
    """
    truth_labels, truth_area = sum_by_key(table.truth, table.shared)
    pred_labels, pred_area = sum_by_key(table.pred, table.shared)
    overlap = (table.truth > 0) & (table.pred > 0)
    truth = np.searchsorted(truth_labels, table.truth[overlap]).astype(np.int64)
    pred = np.searchsorted(pred_labels, table.pred[overlap]).astype(np.int64)
    shared, areas = table.shared[overlap], (truth_area[truth], pred_area[pred])
    iou, inside = shared / (sum(areas) - shared), shared / np.minimum(*areas)
    return ObjectPairs(truth_labels, pred_labels, truth, pred, iou, inside)


def check_threshold(threshold: float) -> None:
    """Check the minimum IoU of a match.

    Raises
    ------
    InputError
        If it is not above 0 and at most 1.
    """
    if not 0 < threshold <= 1:
        raise InputError(
            f"The IoU threshold is {threshold}, expected above 0 and at most 1. Use 0.5, "
            f"for example."
        )


def matched_pairs(pairs: ObjectPairs, threshold: float) -> Int64:
    """Pair objects one to one: maximise the matches, then the sum of the IoU.

    Parameters
    ----------
    pairs : ObjectPairs
        See :func:`object_pairs`.
    threshold : float
        Minimum IoU of a match, above 0 and at most 1.

    Returns
    -------
    (m,) int64
        Indices of the matched pairs in ascending order.

    Raises
    ------
    InputError
        If the threshold is out of range.

    Notes
    -----
    The assignment is that of stardist.matching: of the assignments with the most matches,
    it has the largest sum of the IoU, including pairs below the threshold. A pair is
    certain if its objects have no other pair that reaches the threshold. Above an IoU of
    0.5 all pairs are certain. The others are solved as sparse assignments of many
    connected components at a time.
    """
    check_threshold(threshold)
    good = pairs.iou >= threshold
    truth_good = np.bincount(pairs.truth[good], minlength=len(pairs.truth_labels))
    pred_good = np.bincount(pairs.pred[good], minlength=len(pairs.pred_labels))
    certain = good & (truth_good[pairs.truth] == 1) & (pred_good[pairs.pred] == 1)
    if np.array_equal(certain, good):
        return np.flatnonzero(certain)
    used_truth, used_pred = (np.zeros(n.size, np.bool_) for n in (truth_good, pred_good))
    used_truth[pairs.truth[certain]] = used_pred[pairs.pred[certain]] = True
    free = np.flatnonzero(~used_truth[pairs.truth] & ~used_pred[pairs.pred])
    chosen = free[_assign(pairs.truth[free], pairs.pred[free], pairs.iou[free], good[free])]
    return np.sort(np.concatenate([np.flatnonzero(certain), chosen]))


def count_matches(pairs: ObjectPairs, threshold: float) -> MatchCounts:
    """Count the matches of :func:`matched_pairs`."""
    rows = matched_pairs(pairs, threshold)
    return MatchCounts(
        threshold=float(threshold),
        tp=len(rows),
        fp=len(pairs.pred_labels) - len(rows),
        fn=len(pairs.truth_labels) - len(rows),
        iou_sum=float(pairs.iou[rows].sum()),
    )


def pool_matches(images: Sequence[MatchCounts]) -> MatchCounts:
    """Add up the counts of several images at one threshold.

    Raises
    ------
    InputError
        If there is no image, or if thresholds differ.
    """
    thresholds = {image.threshold for image in images}
    if len(thresholds) != 1:
        raise InputError(
            f"MatchCounts of {sorted(thresholds) or 'no image'} cannot be pooled, expected "
            f"one threshold. Pool each threshold separately."
        )
    return MatchCounts(
        threshold=thresholds.pop(),
        tp=sum(image.tp for image in images),
        fp=sum(image.fp for image in images),
        fn=sum(image.fn for image in images),
        iou_sum=sum(image.iou_sum for image in images),
    )


def mean_quotients(images: Sequence[MatchCounts]) -> dict[str, float]:
    """Average each of `QUOTIENTS` over images with equal weights."""
    return {
        name: float(np.mean([getattr(image, name) for image in images]))
        for name in QUOTIENTS
    }


def quotient(numerator: float, denominator: float) -> float:
    """Return the quotient, 0 for a denominator of 0."""
    return numerator / denominator if denominator else 0.0


def _assign(truth: Int64, pred: Int64, iou: Float64, good: Mask) -> Int64:
    """Solve the assignments of contested objects; return the matched rows."""
    rows, columns = _renumbered(truth), _renumbered(pred)
    n = int(rows.max()) + 1
    size = n + int(columns.max()) + 1
    graph = csr_array((np.ones(len(rows), np.int8), (rows, n + columns)), (size, size))
    component = connected_components(graph, directed=False)[1][rows]
    useful = np.flatnonzero(np.isin(component, component[good]))
    # A solution takes more than linear time, and each call has an overhead. So components
    # are solved neither all at once nor one by one.
    batch = _renumbered(component[useful]) // _COMPONENTS_AT_ONCE
    useful = useful[np.argsort(batch, kind="stable")]
    ends = np.cumsum(np.bincount(batch))[:-1]
    chosen = [
        rows[_solve(truth[rows], pred[rows], iou[rows], good[rows])]
        for rows in np.split(useful, ends)
    ]
    assigned = np.concatenate(chosen)
    return assigned[good[assigned]]


def _solve(truth: Int64, pred: Int64, iou: Float64, good: Mask) -> Int64:
    """Return the rows of the assignment with most good pairs, then most IoU."""
    rows, columns = _renumbered(truth), _renumbered(pred)
    n, m = int(rows.max()) + 1, int(columns.max()) + 1
    # The sum of the IoU weighs less than one good pair. A column per true object allows
    # it to stay unmatched. Weights start at 1, as scipy ignores weights of 0.
    weights = np.concatenate([1 + good + iou / (2 * min(n, m)), np.ones(n)])
    unmatched = np.arange(n)
    edges = (np.concatenate([rows, unmatched]), np.concatenate([columns, m + unmatched]))
    graph = csr_array((weights, edges), (n, m + n))
    row, column = min_weight_full_bipartite_matching(graph, maximize=True)
    paired = column < m
    keys = rows * m + columns  # ascending, like the pairs
    assigned = row[paired].astype(np.int64) * m + column[paired]
    return np.asarray(np.searchsorted(keys, assigned), np.int64)


def _renumbered(numbers: Int64) -> Int64:
    """Replace numbers by their ranks, from 0."""
    return np.unique(numbers, return_inverse=True)[1].astype(np.int64)
