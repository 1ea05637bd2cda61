"""Overlap tables: shared pixels of each pair of labels of two images.

`overlaps` counts in one pass; `add_overlaps` sums the tables of windows of a slide.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from codexseg.arrays import Int64, Labels, UInt64
from codexseg.core.grid import Window
from codexseg.core.labels.operations import as_labels, split_keys, tally_pairs
from codexseg.errors import InputError

Unsigned = TypeVar("Unsigned", bound=np.unsignedinteger[Any])


class Overlaps(NamedTuple):
    """Pixels by true and predicted label, sorted by (truth, pred).

    Attributes
    ----------
    truth, pred : (n,) uint32
        Labels; 0 is background. Pairs are distinct; (0, 0) is omitted.
    shared : (n,) int64
        Pixels with both labels, above 0.
    """

    truth: Labels
    pred: Labels
    shared: Int64


def overlaps(truth: Labels, pred: Labels) -> Overlaps:
    """Count the pixels of each pair of labels that occurs, in one pass.

    Parameters
    ----------
    truth, pred : (y, x) integer
        Label images of the same pixels, 0 is background. Labels up to 2**32 - 1, with
        gaps and in any order.

    Returns
    -------
    Overlaps

    Raises
    ------
    InputError
        If the shapes differ, or an array is not a label image.
    """
    truth, pred = as_labels(truth, "truth"), as_labels(pred, "pred")
    if truth.shape != pred.shape:
        raise InputError(
            f"Shapes of truth and prediction differ: {truth.shape} and {pred.shape}. "
            f"Pass images of the same pixels."
        )
    return _table(*tally_pairs(truth.reshape(-1), pred.reshape(-1), None))


def add_overlaps(tables: Iterable[tuple[Labels, Labels, Int64]]) -> Overlaps:
    """Sum tables of the columns of :class:`Overlaps`, such as those of disjoint windows."""
    columns = list(zip(*tables, strict=True))
    if not columns:
        return _table(np.zeros(0, np.uint64), np.zeros(0, np.int64))
    truth, pred, shared = (np.concatenate(column) for column in columns)
    return _table(_keys(truth, pred), shared)


def drop_objects(table: Overlaps, truth: Labels, pred: Labels) -> Overlaps:
    """Replace the listed true and predicted objects with background."""
    kept_truth = np.where(np.isin(table.truth, truth), np.uint32(0), table.truth)
    kept_pred = np.where(np.isin(table.pred, pred), np.uint32(0), table.pred)
    return _table(_keys(kept_truth, kept_pred), table.shared)


def border_labels(
    labels: Labels, border: int, window: Window, shape: tuple[int, int]
) -> Labels:
    """Return the objects with a pixel in the outer frame of an image.

    Parameters
    ----------
    labels : (y, x) uint32
        Labels of a window of the image.
    border : int
        Width of the frame, px.
    window : Window
        Position of the labels in the image.
    shape : (int, int)
        Height and width of the image, px.

    Returns
    -------
    (n,) uint32
        Ascending labels in the intersection of window and frame.
    """
    y, x = np.arange(window.y0, window.y1), np.arange(window.x0, window.x1)
    rows, columns = (
        (at < border) | (at >= size - border)
        for at, size in zip((y, x), shape, strict=True)
    )
    in_frame = np.unique(np.concatenate([labels[rows].ravel(), labels[:, columns].ravel()]))
    return in_frame[in_frame > 0]


def _keys(truth: Labels, pred: Labels) -> UInt64:
    return (truth.astype(np.uint64) << np.uint64(32)) | pred


def _table(keys: UInt64, shared: Int64) -> Overlaps:
    """Sum the pixels of equal keys and omit (0, 0)."""
    unique, total = sum_by_key(keys, shared)
    return Overlaps(*split_keys(unique), total)


def sum_by_key(keys: NDArray[Unsigned], values: Int64) -> tuple[NDArray[Unsigned], Int64]:
    """Sum the values of equal keys; return the keys above 0, ascending, and the sums."""
    unique, index = np.unique(keys, return_inverse=True)
    total = np.zeros(len(unique), np.int64)
    np.add.at(total, index, values)
    return unique[unique > 0], total[unique > 0]
