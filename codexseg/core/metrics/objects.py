"""Judging objects: how well predicted labels fit true ones, object by object.

`object_pairs` turns a table of shared pixels (see `codexseg.core.labels.overlaps`) into
IoUs of
the objects that overlap, `count_matches` pairs them one to one. Nothing is as large as
objects x objects.

The quantities are those of stardist.matching (Weigert et al.), F1 at an IoU of 0.5 without
objects at the border that of the NeurIPS 2022 cell segmentation challenge. All quotients
are 0 where no pair matches, also where there is nothing to be found.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, min_weight_full_bipartite_matching

from codexseg.arrays import Int64, Labels, Mask
from codexseg.core.labels.overlaps import Overlaps
from codexseg.errors import InputError

Floats = NDArray[np.float64]

QUOTIENTS = (
    "precision",
    "recall",
    "f1",
    "accuracy",
    "panoptic_quality",
    "mean_matched_score",
    "mean_true_score",
)
"""The quantities of :class:`Matches` that are averaged over images."""

_COMPONENTS_AT_ONCE = 256


class ObjectPairs(NamedTuple):
    """The objects of two label images, and the pairs of them that overlap.

    Attributes
    ----------
    truth_labels, pred_labels : (n_true,), (n_pred,) uint32
        Labels of all objects, ascending.
    truth, pred : (n,) int64
        Pairs, as indexes into the two, ascending.
    iou : (n,) float64
        Intersection over union, above 0.
    inside : (n,) float64
        Share of the smaller object that lies in the larger one.
    """

    truth_labels: Labels
    pred_labels: Labels
    truth: Int64
    pred: Int64
    iou: Floats
    inside: Floats


@dataclass(frozen=True)
class Matches:
    """What matched at one threshold, in one image or in several (see `pool_matches`).

    Attributes
    ----------
    threshold : float
        Least IoU of a match.
    tp, fp, fn : int
        Matched pairs, predicted objects without a partner, true ones without.
    iou_sum : float
        Of the matched pairs.
    """

    threshold: float
    tp: int
    fp: int
    fn: int
    iou_sum: float

    @property
    def n_true(self) -> int:
        """Number of true objects."""
        return self.tp + self.fn

    @property
    def n_pred(self) -> int:
        """Number of predicted objects."""
        return self.tp + self.fp

    @property
    def precision(self) -> float:
        """Matched share of the predicted objects, tp / n_pred."""
        return quotient(self.tp, self.n_pred)

    @property
    def recall(self) -> float:
        """Matched share of the true objects, tp / n_true."""
        return quotient(self.tp, self.n_true)

    @property
    def f1(self) -> float:
        """2 tp / (n_true + n_pred)."""
        return quotient(2 * self.tp, self.n_true + self.n_pred)

    @property
    def accuracy(self) -> float:
        """Quotient tp / (tp + fp + fn), often called average precision (AP)."""
        return quotient(self.tp, self.tp + self.fp + self.fn)

    @property
    def panoptic_quality(self) -> float:
        """Sum of the matched IoU / (tp + fp / 2 + fn / 2)."""
        return quotient(self.iou_sum, self.tp + self.fp / 2 + self.fn / 2)

    @property
    def mean_matched_score(self) -> float:
        """Mean IoU of the matched pairs."""
        return quotient(self.iou_sum, self.tp)

    @property
    def mean_true_score(self) -> float:
        """Mean IoU of the true objects, 0 for those without a partner."""
        return quotient(self.iou_sum, self.n_true)


def object_pairs(table: Overlaps) -> ObjectPairs:
    """Compute the IoU of all objects that overlap.

    Parameters
    ----------
    table : Overlaps
        Of the whole image.

    Returns
    -------
    ObjectPairs
    """
    truth_labels, truth_area = _areas(table.truth, table.shared)
    pred_labels, pred_area = _areas(table.pred, table.shared)
    both = (table.truth > 0) & (table.pred > 0)
    truth = np.searchsorted(truth_labels, table.truth[both]).astype(np.int64)
    pred = np.searchsorted(pred_labels, table.pred[both]).astype(np.int64)
    shared, one, other = table.shared[both], truth_area[truth], pred_area[pred]
    iou, inside = shared / (one + other - shared), shared / np.minimum(one, other)
    return ObjectPairs(truth_labels, pred_labels, truth, pred, iou, inside)


def check_threshold(threshold: float) -> None:
    """Check a least IoU.

    Raises
    ------
    InputError
        If it is not above 0 and up to 1.
    """
    if not 0 < threshold <= 1:
        raise InputError(
            f"the IoU threshold is {threshold}, expected above 0 and up to 1, such as 0.5."
        )


def match_objects(pairs: ObjectPairs, threshold: float) -> Int64:
    """Pair objects one to one: most pairs of at least the threshold, then most IoU.

    Parameters
    ----------
    pairs : ObjectPairs
    threshold : float
        Least IoU of a match, above 0 and up to 1.

    Returns
    -------
    (m,) int64
        Rows of the matched pairs, ascending.

    Raises
    ------
    InputError
        If the threshold is not in the range.

    Notes
    -----
    The assignment is that of stardist.matching: among those with most matches, the one
    with the highest sum of IoU, to which pairs below the threshold add. A pair whose
    objects have no other pair of at least the threshold is in all of them; the others
    (none, above 0.5) are solved as sparse assignments, many components at a time.
    """
    check_threshold(threshold)
    good = pairs.iou >= threshold
    truth_good = np.bincount(pairs.truth[good], minlength=len(pairs.truth_labels))
    pred_good = np.bincount(pairs.pred[good], minlength=len(pairs.pred_labels))
    sure = good & (truth_good[pairs.truth] == 1) & (pred_good[pairs.pred] == 1)
    if np.array_equal(sure, good):
        return np.flatnonzero(sure)
    taken_truth, taken_pred = (np.zeros(n.size, np.bool_) for n in (truth_good, pred_good))
    taken_truth[pairs.truth[sure]] = taken_pred[pairs.pred[sure]] = True
    free = np.flatnonzero(~taken_truth[pairs.truth] & ~taken_pred[pairs.pred])
    chosen = free[_assign(pairs.truth[free], pairs.pred[free], pairs.iou[free], good[free])]
    return np.sort(np.concatenate([np.flatnonzero(sure), chosen]))


def count_matches(pairs: ObjectPairs, threshold: float) -> Matches:
    """Match objects, see `match_objects`, and count."""
    rows = match_objects(pairs, threshold)
    return Matches(
        threshold=float(threshold),
        tp=len(rows),
        fp=len(pairs.pred_labels) - len(rows),
        fn=len(pairs.truth_labels) - len(rows),
        iou_sum=float(pairs.iou[rows].sum()),
    )


def pool_matches(images: Sequence[Matches]) -> Matches:
    """Add up the counts of several images at one threshold.

    Raises
    ------
    InputError
        If there is none, or they differ in the threshold.
    """
    thresholds = {image.threshold for image in images}
    if len(thresholds) != 1:
        raise InputError(
            f"only matches of one threshold can be pooled, got those of "
            f"{sorted(thresholds) or 'no image'}."
        )
    return Matches(
        threshold=thresholds.pop(),
        tp=sum(image.tp for image in images),
        fp=sum(image.fp for image in images),
        fn=sum(image.fn for image in images),
        iou_sum=sum(image.iou_sum for image in images),
    )


def mean_quotients(images: Sequence[Matches]) -> dict[str, float]:
    """Average each of `QUOTIENTS` over images, every image alike."""
    return {
        name: float(np.mean([getattr(image, name) for image in images]))
        for name in QUOTIENTS
    }


def quotient(part: float, whole: float) -> float:
    """Return part / whole, 0 where both are 0."""
    return part / whole if whole else 0.0


def _assign(truth: Int64, pred: Int64, iou: Floats, good: Mask) -> Int64:
    """Solve the assignments of contested objects; return the rows that match."""
    rows, columns = _renumbered(truth), _renumbered(pred)
    n = int(rows.max()) + 1
    size = n + int(columns.max()) + 1
    graph = csr_array((np.ones(len(rows), np.int8), (rows, n + columns)), (size, size))
    component = connected_components(graph, directed=False)[1][rows]
    useful = np.flatnonzero(np.isin(component, component[good]))
    # Solving takes more than linear time, a call some of its own: so neither all
    # components at once nor each for itself.
    batch = _renumbered(component[useful]) // _COMPONENTS_AT_ONCE
    useful = useful[np.argsort(batch, kind="stable")]
    ends = np.cumsum(np.bincount(batch))[:-1]
    chosen = [
        part[_solve(truth[part], pred[part], iou[part], good[part])]
        for part in np.split(useful, ends)
    ]
    found = np.concatenate(chosen)
    return found[good[found]]


def _solve(truth: Int64, pred: Int64, iou: Floats, good: Mask) -> Int64:
    """Find the assignment of most good pairs, then of most IoU, as rows."""
    rows, columns = _renumbered(truth), _renumbered(pred)
    n, m = int(rows.max()) + 1, int(columns.max()) + 1
    # All IoUs together weigh less than one good pair. Each true object may also stay
    # alone, with a column of its own; the 1 is there as a weight must not be 0.
    weights = np.concatenate([1 + good + iou / (2 * min(n, m)), np.ones(n)])
    alone = np.arange(n)
    where = np.concatenate([rows, alone]), np.concatenate([columns, m + alone])
    graph = csr_array((weights, where), (n, m + n))
    row, column = min_weight_full_bipartite_matching(graph, maximize=True)
    paired = column < m
    keys = rows * m + columns  # ascending, as the pairs are
    wanted = row[paired].astype(np.int64) * m + column[paired]
    found: Int64 = np.searchsorted(keys, wanted).astype(np.int64)
    return found


def _renumbered(numbers: Int64) -> Int64:
    """Replace numbers by their ranks among those that occur, from 0."""
    ranks: Int64 = np.unique(numbers, return_inverse=True)[1].astype(np.int64)
    return ranks


def _areas(labels: Labels, shared: Int64) -> tuple[Labels, Int64]:
    """Return the labels that occur, ascending, and their pixels."""
    found, index = np.unique(labels, return_inverse=True)
    area = np.zeros(len(found), np.int64)
    np.add.at(area, index, shared)
    return found[found > 0], area[found > 0]
