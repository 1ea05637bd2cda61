"""Inner distance and classes of training targets."""

import numpy as np
import pytest

from codexseg.training.data.targets import (
    BACKGROUND,
    BOUNDARY,
    INTERIOR,
    inner_distance,
    pixel_classes,
)
from tests.helpers.drawing import draw


def test_inner_distance_is_1_at_the_centroid_and_falls_with_relative_distance():
    labels = draw("""
        .....
        .777.
        .777.
        .777.
        ....2
    """)
    distance = inner_distance(labels)
    assert distance[2, 2] == 1
    assert distance[1, 1] == pytest.approx(1 / (1 + np.sqrt(2) / 3))
    assert distance[4, 4] == 1
    assert (distance[labels == 0] == 0).all()


def test_pixel_classes_are_boundary_interior_and_background():
    labels = draw("""
        1112
        1112
        1112
    """)
    expected = np.full(labels.shape, INTERIOR)
    expected[:, 2:] = BOUNDARY
    assert np.array_equal(pixel_classes(labels), expected)
    assert (pixel_classes(np.zeros_like(labels)) == BACKGROUND).all()
