"""Dropping the objects that a network is not sure of."""

import numpy as np
from numpy.typing import NDArray

from codexseg.core.kernel import kernel
from codexseg.core.labels import relabel
from codexseg.errors import InputError

Float = NDArray[np.float32]
Labels = NDArray[np.uint32]


def remove_faint_objects(labels: Labels, maxima: Float, least_peak: float) -> Labels:
    """Drop objects in which `maxima` stays below a level, and number the others.

    A network is less sure of the middle of what only resembles an object.

    Parameters
    ----------
    labels : (y, x) uint32
    maxima : (y, x) float32
        Map that peaks at the middle of an object (Mesmer's inner distance).
    least_peak : float
        An object that reaches exactly this level stays; all do at 0.

    Returns
    -------
    numbered : (y, x) uint32
        1..n, in the order of the old labels; with `least_peak` 0 `labels` itself.

    Raises
    ------
    InputError
        If labels and maxima differ in shape.
    """
    if labels.shape != maxima.shape:
        raise InputError(
            f"labels and maxima must cover the same pixels, got shapes {labels.shape} and "
            f"{maxima.shape}."
        )
    if least_peak <= 0:
        return labels
    highest = int(labels.max(initial=0))
    bright = _peaks(labels, maxima, highest) >= np.float32(least_peak)
    kept = np.flatnonzero(bright).astype(np.uint32)
    return relabel(labels, kept, np.arange(1, kept.size + 1, dtype=np.uint32))


@kernel
def _peaks(labels: Labels, maxima: Float, highest: int) -> Float:
    """Highest value in every object; -1 for the background and labels of none."""
    peaks = np.full(highest + 1, -1, np.float32)
    height, width = labels.shape
    for y in range(height):
        for x in range(width):
            label = labels[y, x]
            if label > 0:
                peaks[label] = max(peaks[label], maxima[y, x])
    return peaks
