"""Filters that remove low-confidence objects."""

import numpy as np

from codexseg.arrays import Float32, Labels
from codexseg.core.kernel import kernel
from codexseg.core.labels.operations import relabel
from codexseg.errors import InputError


def remove_faint_objects(
    labels: Labels, values: Float32, least: float, *, on_average: bool = False
) -> Labels:
    """Drop objects in which a map stays below a level, and number the others.

    A network is less sure of what only resembles an object: of its middle, or of most of
    its pixels.

    Parameters
    ----------
    labels : (y, x) uint32
    values : (y, x) float32
        Map that is high in objects: Mesmer's inner distance, or its interior.
    least : float
        An object that reaches exactly this level stays; all do at 0.
    on_average : bool
        Of an object the mean is compared, not the highest value.

    Returns
    -------
    numbered : (y, x) uint32
        1..n, in the order of the old labels; with `least` 0 `labels` itself.

    Raises
    ------
    InputError
        If labels and values differ in shape.
    """
    if labels.shape != values.shape:
        raise InputError(
            f"labels and values must cover the same pixels, got shapes {labels.shape} and "
            f"{values.shape}."
        )
    if least <= 0:
        return labels
    of_objects = _means if on_average else _peaks
    clear = of_objects(labels, values, int(labels.max(initial=0))) >= np.float32(least)
    kept = np.flatnonzero(clear).astype(np.uint32)
    return relabel(labels, kept, np.arange(1, kept.size + 1, dtype=np.uint32))


@kernel
def _peaks(labels: Labels, values: Float32, highest: int) -> Float32:
    """Highest value in every object; -1 for the background and labels of none."""
    peaks = np.full(highest + 1, -1, np.float32)
    height, width = labels.shape
    for y in range(height):
        for x in range(width):
            label = labels[y, x]
            if label > 0:
                peaks[label] = max(peaks[label], values[y, x])
    return peaks


@kernel
def _means(labels: Labels, values: Float32, highest: int) -> Float32:
    """Mean value of every object; -1 for the background and labels of none.

    Pixels are added row by row, so that an object's mean does not depend on the window.
    """
    sums = np.zeros(highest + 1, np.float64)
    counts = np.zeros(highest + 1, np.int64)
    height, width = labels.shape
    for y in range(height):
        for x in range(width):
            label = labels[y, x]
            if label > 0:
                sums[label] += values[y, x]
                counts[label] += 1
    means = np.full(highest + 1, -1, np.float32)
    for label in range(1, highest + 1):
        if counts[label] > 0:
            means[label] = sums[label] / counts[label]
    return means
