"""Which labels of two images share pixels: tables that follow the objects, not the pixels.

`overlaps` counts in one pass; tables of windows of a slide are added with `add_overlaps`.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from codexseg.arrays import Int64, Labels, UInt64
from codexseg.core.grid import Window
from codexseg.core.labels.operations import (
    as_labels,
    split_keys,
    tally_pairs,
)
from codexseg.errors import InputError


class Overlaps(NamedTuple):
    """Pixels by true and by predicted label, in ascending order of (truth, pred).

    Attributes
    ----------
    truth, pred : (n,) uint32
        Labels; 0 is background. No pair stands twice, (0, 0) is left out.
    shared : (n,) int64
        Pixels that have both, above 0.
    """

    truth: Labels
    pred: Labels
    shared: Int64


def overlaps(truth: Labels, pred: Labels) -> Overlaps:
    """Count the pixels of every pair of labels that occurs, in one pass.

    Parameters
    ----------
    truth, pred : (y, x) integer
        Label images of the same pixels, 0 is background; labels up to 2**32 - 1, with
        any gaps and in any order.

    Returns
    -------
    Overlaps

    Raises
    ------
    InputError
        If the shapes differ, or one is no label image.
    """
    truth, pred = as_labels(truth, "truth"), as_labels(pred, "pred")
    if truth.shape != pred.shape:
        raise InputError(
            f"truth and prediction must cover the same pixels, got {truth.shape} and "
            f"{pred.shape}."
        )
    return _table(*tally_pairs(truth.reshape(-1), pred.reshape(-1), None))


def add_overlaps(tables: Iterable[Overlaps]) -> Overlaps:
    """Add up tables of windows that share no pixel: the table of all their pixels."""
    found = list(tables)
    if not found:
        return _table(np.zeros(0, np.uint64), np.zeros(0, np.int64))
    truth, pred, shared = (np.concatenate(column) for column in zip(*found, strict=True))
    return _table(_keys(truth, pred), shared)


def drop_objects(table: Overlaps, truth: Labels, pred: Labels) -> Overlaps:
    """Make background of the objects that the two lists of labels name."""
    kept_truth = np.where(np.isin(table.truth, truth), np.uint32(0), table.truth)
    kept_pred = np.where(np.isin(table.pred, pred), np.uint32(0), table.pred)
    return _table(_keys(kept_truth, kept_pred), table.shared)


def border_labels(
    labels: Labels, border: int, window: Window, shape: tuple[int, int]
) -> Labels:
    """List the objects that have a pixel in the outer frame of an image.

    Parameters
    ----------
    labels : (y, x) uint32
        Labels of a window of the image.
    border : int
        Width of the frame, px.
    window : Window
        Where the labels lie.
    shape : (int, int)
        Height and width of the image, px.

    Returns
    -------
    (n,) uint32
        Ascending; only what the window shows of the frame.
    """
    y, x = np.arange(window.y0, window.y1), np.arange(window.x0, window.x1)
    rows, columns = (
        (at < border) | (at >= size - border)
        for at, size in zip((y, x), shape, strict=True)
    )
    found = np.unique(np.concatenate([labels[rows].ravel(), labels[:, columns].ravel()]))
    return found[found > 0]


def _keys(truth: Labels, pred: Labels) -> UInt64:
    return (truth.astype(np.uint64) << np.uint64(32)) | pred


def _table(keys: UInt64, shared: Int64) -> Overlaps:
    """Sum the pixels of equal keys, but for those that are background twice."""
    found, index = np.unique(keys, return_inverse=True)
    total = np.zeros(len(found), np.int64)
    np.add.at(total, index, shared)
    found, total = found[found > 0], total[found > 0]
    return Overlaps(*split_keys(found), total)
