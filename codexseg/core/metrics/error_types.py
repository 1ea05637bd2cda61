"""What went wrong with objects: missed, gained, split, merged, or beyond telling.

Written from the definition that the Mesmer paper (Greenwald et al. 2021) uses, not from
its software. Objects match where their IoU is above 0.6. Of those left over, a true and a
predicted object are linked where their IoU is at least 0.1 or more than half of the
smaller one lies in the larger. A group of linked objects is

- one object alone, or one true and one predicted: missed, gained, or one of each;
- one true object and several predicted ones: a split;
- several true objects and one predicted: a merge;
- several of both: a catastrophe.
"""

from dataclasses import dataclass, fields

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from codexseg.core.metrics.objects import ObjectPairs, quotient

MATCH_IOU = 0.6
"""A pair matches above this IoU."""
LINK_IOU = 0.1
"""Objects left over are linked from this IoU on."""
LINK_INSIDE = 0.5
"""They are also linked where more than this share of the smaller lies in the larger."""


@dataclass(frozen=True)
class ErrorCounts:
    """Errors by type; those of several images add up with ``+``.

    Attributes
    ----------
    n_true, n_pred : int
        Number of true and of predicted objects.
    correct : int
        Pairs that match.
    missed, gained : int
        True objects without, and predicted objects without a counterpart.
    split, merge, catastrophe : int
        Number of such groups.
    gained_from_split, missed_from_merge : int
        Objects that splits have too many, and merges too few.
    true_in_catastrophe, pred_in_catastrophe : int
        Objects in catastrophes.
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
        """Matched share of the predicted objects."""
        return quotient(self.correct, self.n_pred)

    @property
    def recall(self) -> float:
        """Matched share of the true objects."""
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
        See `codexseg.core.metrics.objects.object_pairs`.

    Returns
    -------
    ErrorCounts
    """
    n_true, n_pred = len(pairs.truth_labels), len(pairs.pred_labels)
    pred = n_true + pairs.pred  # one numbering for all objects
    matched = pairs.iou > MATCH_IOU
    left = np.ones(n_true + n_pred, np.bool_)
    left[pairs.truth[matched]] = left[pred[matched]] = False
    linked = (pairs.iou >= LINK_IOU) | (pairs.inside > LINK_INSIDE)
    linked &= left[pairs.truth] & left[pred]
    ends = pairs.truth[linked], pred[linked]
    graph = csr_array((np.ones(len(ends[0]), np.int8), ends), (left.size, left.size))
    count, group = connected_components(graph, directed=False)
    is_true = np.arange(left.size) < n_true
    true = np.bincount(group[left & is_true], minlength=count)
    predicted = np.bincount(group[left & ~is_true], minlength=count)

    plain = (true <= 1) & (predicted <= 1)
    split = (true == 1) & (predicted > 1)
    merge = (true > 1) & (predicted == 1)
    catastrophe = (true > 1) & (predicted > 1)
    return ErrorCounts(
        n_true=n_true,
        n_pred=n_pred,
        correct=int(matched.sum()),
        missed=int(true[plain].sum()),
        gained=int(predicted[plain].sum()),
        split=int(split.sum()),
        merge=int(merge.sum()),
        catastrophe=int(catastrophe.sum()),
        gained_from_split=int((predicted[split] - 1).sum()),
        missed_from_merge=int((true[merge] - 1).sum()),
        true_in_catastrophe=int(true[catastrophe].sum()),
        pred_in_catastrophe=int(predicted[catastrophe].sum()),
    )
