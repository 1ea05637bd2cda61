"""Training targets: inner distance, and boundary, interior or background.

Greenwald et al., Whole-cell segmentation of tissue images with human-level performance,
Nature Biotechnology 40, 2022 (Mesmer).
"""

import numpy as np
from numpy.typing import NDArray

from codexseg.arrays import Float32, Labels
from codexseg.core.kernel import kernel
from codexseg.core.labels.operations import inner_boundary
from codexseg.core.labels.stitching import dense

BOUNDARY, INTERIOR, BACKGROUND = range(3)


def inner_distance(labels: Labels) -> Float32:
    """Return how close each pixel is to the centre of its object.

    Parameters
    ----------
    labels : (y, x) uint32
        Label image.

    Returns
    -------
    distance : (y, x) float32
        1 / (1 + d / sqrt(area)), where d is the distance to the centroid of the object,
        px; 0 in the background.
    """
    numbered, _ = dense(labels)
    return _inner_distance(numbered, int(numbered.max(initial=0)))


def pixel_classes(labels: Labels) -> NDArray[np.uint8]:
    """Return classes (y, x) uint8: boundary 0, interior 1, background 2."""
    classes = np.full(labels.shape, BACKGROUND, np.uint8)
    classes[labels > 0] = INTERIOR
    classes[inner_boundary(labels)] = BOUNDARY
    return classes


@kernel
def _inner_distance(labels: Labels, highest: int) -> Float32:
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
