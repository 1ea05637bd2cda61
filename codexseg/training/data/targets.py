"""What the network is to give: how near the middle, and boundary, interior or background.

The two transforms of Greenwald et al. 2022 (Mesmer).
"""

import numpy as np
from numpy.typing import NDArray

from codexseg.core.kernel import kernel
from codexseg.core.labels.operations import inner_boundary
from codexseg.core.labels.stitching import dense

Labels = NDArray[np.uint32]

BOUNDARY, INTERIOR, BACKGROUND = range(3)


def inner_distance(labels: Labels) -> NDArray[np.float32]:
    """Say how near a pixel lies to the middle of its object.

    Parameters
    ----------
    labels : (y, x) uint32
        Label image.

    Returns
    -------
    distance : (y, x) float32
        1 / (1 + d / sqrt(area)), d the distance to the object's centroid, px; 0 outside.
    """
    numbered, _ = dense(labels)
    return _inner_distance(numbered, int(numbered.max(initial=0)))


def classes(labels: Labels) -> NDArray[np.uint8]:
    """Tell boundary (0), interior (1) and background (2) apart: (y, x) uint8."""
    found = np.full(labels.shape, BACKGROUND, np.uint8)
    found[labels > 0] = INTERIOR
    found[inner_boundary(labels)] = BOUNDARY
    return found


@kernel
def _inner_distance(labels: Labels, highest: int) -> NDArray[np.float32]:
    sums = np.zeros((highest + 1, 3))
    height, width = labels.shape
    for y in range(height):
        for x in range(width):
            row = sums[labels[y, x]]
            row[0] += y
            row[1] += x
            row[2] += 1
    distance = np.zeros((height, width), np.float32)
    for y in range(height):
        for x in range(width):
            label = labels[y, x]
            if label > 0:
                area = sums[label, 2]
                dy, dx = y - sums[label, 0] / area, x - sums[label, 1] / area
                distance[y, x] = 1 / (1 + np.sqrt((dy * dy + dx * dx) / area))
    return distance
