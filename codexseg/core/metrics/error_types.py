"""Types of object errors: missed, gained, split, merged, catastrophe.

The definition is that of the Mesmer paper (Greenwald et al. 2022, Nature Biotechnology
40). Objects match above an IoU of 0.6. An unmatched true object and an unmatched predicted
object are linked from an IoU of 0.1 on, or if more than half of the smaller one is inside
the larger one. Groups of linked objects are

- missed or gained: a single object, or one true and one predicted object (one of each);
- a split: one true object and several predicted objects;
- a merge: several true objects and one predicted object;
- a catastrophe: several true and several predicted objects.
"""

from dataclasses import dataclass, fields

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from codexseg.core.metrics.objects import ObjectPairs, quotient

MATCH_IOU = 0.6
"""Pairs match above this IoU."""
LINK_IOU = 0.1
"""Minimum IoU of a link between unmatched objects."""
LINK_INSIDE = 0.5
"""Unmatched objects are also linked above this fraction of the smaller one."""


@dataclass(frozen=True)
class ErrorCounts:
    """Errors by type; counts of images add up with ``+``.

    Attributes
    ----------
    n_true, n_pred : int
        Number of true and of predicted objects.
    correct : int
        Matched pairs.
    missed, gained : int
        True and predicted objects without a counterpart.
    split, merge, catastrophe : int
        Number of groups of each type.
    gained_from_split, missed_from_merge : int
        Surplus objects of splits, and missing objects of merges.
    true_in_catastrophe, pred_in_catastrophe : int
        True and predicted objects in catastrophes.
    """

    n_true: int = 0
    n_pred: int = 0
    correct: int = 0
    missed: int = 0
    gained: int = 0
    split: int = 0
    merge: int = 0
    catastrophe: int = 0
    gained_from_split: int = 0
    missed_from_merge: int = 0
    true_in_catastrophe: int = 0
    pred_in_catastrophe: int = 0

    def __add__(self, other: "ErrorCounts") -> "ErrorCounts":
        names = [field.name for field in fields(self)]
        return ErrorCounts(*(getattr(self, n) + getattr(other, n) for n in names))

    @property
    def precision(self) -> float:
        """Matched fraction of the predicted objects."""
        return quotient(self.correct, self.n_pred)

    @property
    def recall(self) -> float:
        """Matched fraction of the true objects."""
        return quotient(self.correct, self.n_true)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return quotient(2 * self.correct, self.n_true + self.n_pred)


def count_errors(pairs: ObjectPairs) -> ErrorCounts:
    """Count the errors of a prediction by type.

    Parameters
    ----------
    pairs : ObjectPairs
        See :func:`codexseg.core.metrics.objects.object_pairs`.

    Returns
    -------
    ErrorCounts
    """
    n_true, n_pred = len(pairs.truth_labels), len(pairs.pred_labels)
    pred = n_true + pairs.pred  # numbered after the true objects
    matched = pairs.iou > MATCH_IOU
    unmatched = np.ones(n_true + n_pred, np.bool_)
    unmatched[pairs.truth[matched]] = unmatched[pred[matched]] = False
    linked = (pairs.iou >= LINK_IOU) | (pairs.inside > LINK_INSIDE)
    linked &= unmatched[pairs.truth] & unmatched[pred]
    ends = pairs.truth[linked], pred[linked]
    n = unmatched.size
    graph = csr_array((np.ones(len(ends[0]), np.int8), ends), (n, n))
    count, group = connected_components(graph, directed=False)
    is_true = np.arange(n) < n_true
    true = np.bincount(group[unmatched & is_true], minlength=count)
    predicted = np.bincount(group[unmatched & ~is_true], minlength=count)

    single = (true <= 1) & (predicted <= 1)
    split = (true == 1) & (predicted > 1)
    merge = (true > 1) & (predicted == 1)
    catastrophe = (true > 1) & (predicted > 1)
    return ErrorCounts(
        n_true=n_true,
        n_pred=n_pred,
        correct=int(matched.sum()),
        missed=int(true[single].sum()),
        gained=int(predicted[single].sum()),
        split=int(split.sum()),
        merge=int(merge.sum()),
        catastrophe=int(catastrophe.sum()),
        gained_from_split=int((predicted[split] - 1).sum()),
        missed_from_merge=int((true[merge] - 1).sum()),
        true_in_catastrophe=int(true[catastrophe].sum()),
        pred_in_catastrophe=int(predicted[catastrophe].sum()),
    )
