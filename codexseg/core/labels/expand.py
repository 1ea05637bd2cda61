"""Expansion of labels by a radius.

The exact Euclidean distance is computed in two passes, along columns and then along rows
(Saito and Toriwaki 1994), limited to the radius.
"""

from math import floor

import numpy as np
from numpy.typing import NDArray

from codexseg.arrays import Labels
from codexseg.core.kernel import kernel


def grow_labels(labels: Labels, radius: float) -> Labels:
    """Assign background within `radius` px of a label to the nearest labelled pixel.

    Ties are resolved by the nearest column, then left before right, then upper before
    lower.

    Parameters
    ----------
    labels : (y, x) uint32
    radius : float
        Maximum Euclidean distance between pixel centres, px.

    Returns
    -------
    grown : (y, x) uint32
    """
    return _grow(labels, floor(radius), floor(radius * radius))


@kernel
def _nearest_in_column(labels: Labels, reach: int) -> NDArray[np.int16]:
    """Return the signed row distance to the nearest label; reach + 1 if beyond reach."""
    height, width = labels.shape
    rows = np.empty((height, width), np.int16)
    since = np.full(width, reach + 1, np.int64)
    for y in range(height):
        for x in range(width):
            since[x] = 0 if labels[y, x] else since[x] + 1
            rows[y, x] = -since[x] if since[x] <= reach else reach + 1
    since[:] = reach + 1
    for y in range(height - 1, -1, -1):
        for x in range(width):
            since[x] = 0 if labels[y, x] else since[x] + 1
            if since[x] <= reach and since[x] < abs(rows[y, x]):
                rows[y, x] = since[x]
    return rows


@kernel
def _grow(labels: Labels, reach: int, limit: int) -> Labels:
    height, width = labels.shape
    rows = _nearest_in_column(labels, reach)
    out = labels.copy()
    for y in range(height):
        for x in range(width):
            if labels[y, x]:
                continue
            nearest = limit + 1
            for dx in range(reach + 1):
                if dx * dx >= nearest:
                    break
                for xx in (x - dx, x + dx):
                    if xx < 0 or xx >= width or rows[y, xx] > reach:
                        continue
                    dy = np.int64(rows[y, xx])
                    if dx * dx + dy * dy < nearest:
                        nearest = int(dx * dx + dy * dy)
                        out[y, x] = labels[y + dy, xx]
    return out
