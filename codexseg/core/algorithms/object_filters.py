"""Filters that remove low-confidence objects."""

import numpy as np

from codexseg.arrays import Float32, Labels
from codexseg.core.kernel import kernel
from codexseg.core.labels.operations import relabel
from codexseg.errors import InputError


def remove_faint_objects(
    labels: Labels, values: Float32, least: float, *, on_average: bool = False
) -> Labels:
    """Remove objects with a low maximum or mean of a map and renumber the rest.

    False objects have lower network outputs, at their centre or in most of their pixels.

    Parameters
    ----------
    labels : (y, x) uint32
    values : (y, x) float32
        Map with high values in objects, such as the inner distance or interior of Mesmer.
    least : float
        Minimum value of an object, inclusive. 0 keeps all objects.
    on_average : bool
        Compare the mean of each object instead of its maximum.

    Returns
    -------
    numbered : (y, x) uint32
        1..n, in the order of the input labels. The input array itself if `least` is 0.

    Raises
    ------
    InputError
        If `labels` and `values` differ in shape.
    """
    if labels.shape != values.shape:
        raise InputError(
            f"labels and values have shapes {labels.shape} and {values.shape}. Pass two "
            f"arrays of the same shape."
        )
    if least <= 0:
        return labels
    of_objects = _means if on_average else _peaks
    clear = of_objects(labels, values, int(labels.max(initial=0))) >= np.float32(least)
    kept = np.flatnonzero(clear).astype(np.uint32)
    return relabel(labels, kept, np.arange(1, kept.size + 1, dtype=np.uint32))


@kernel
def _peaks(labels: Labels, values: Float32, highest: int) -> Float32:
    """Return the maximum of each object, indexed by label; -1 for labels without pixels."""
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
    """Return the mean of each object, indexed by label; -1 for labels without pixels.

    Pixels are summed in raster order, so the mean does not depend on the window.
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
