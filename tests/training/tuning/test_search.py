"""Search for post-processing parameters."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage as ndi

from codexseg.errors import InputError
from codexseg.training.data.targets import inner_distance
from codexseg.training.tuning.search import (
    HEIGHTS,
    SMOOTHINGS_PX,
    THRESHOLDS,
    ValidationImage,
    _Search,
    search_parameters,
)


def test_search_lowers_the_threshold_for_faint_interiors():
    """The interiors of the squares are too faint for Mesmer's threshold."""
    labels = np.zeros((200, 200), np.uint32)
    for i in range(64):
        y, x = 24 * (i // 8) + 4, 24 * (i % 8) + 4
        labels[y : y + 16, x : x + 16] = i + 1
    interior = 0.45 * (labels > 0) + 0.35 * (labels == 0)
    maps = inner_distance(labels), ndi.gaussian_filter(interior, 0.5).astype(np.float32)
    whole = (slice(0, 200), slice(0, 200))
    parameters, score = search_parameters([ValidationImage(*maps, [(whole, labels)])])
    assert score.f1 == 1
    assert 0.8 < score.quality <= 1
    assert parameters.interior_threshold == 0.4
    assert parameters.h in HEIGHTS
    assert parameters.smoothing_px in SMOOTHINGS_PX
    assert parameters.interior_threshold in THRESHOLDS


def test_search_expands_objects_with_narrow_interiors():
    labels = np.zeros((160, 160), np.uint32)
    for i in range(64):
        y, x = 20 * (i // 8) + 4, 20 * (i % 8) + 4
        labels[y : y + 12, x : x + 12] = i + 1
    interior = ndi.binary_erosion(labels > 0, np.ones((5, 5))).astype(np.float32)
    whole = (slice(0, 160), slice(0, 160))
    images = [ValidationImage(inner_distance(labels), interior, [(whole, labels)])]
    parameters, score = search_parameters(images)
    assert score.f1 == 1
    assert 0.8 < score.quality <= 1
    assert parameters.expansion_px + parameters.smoothing_px > 1


@pytest.mark.parametrize(("name", "map_"), [("min_peak", 0), ("min_mean_interior", 1)])
def test_search_drops_objects_of_low_confidence(name, map_):
    """Half of the squares are false, and faint in the middle."""
    labels = np.zeros((200, 200), np.uint32)
    for i in range(64):
        y, x = 24 * (i // 8) + 4, 24 * (i % 8) + 4
        labels[y : y + 16, x : x + 16] = i + 1
    real = np.where(labels % 2, labels, 0).astype(np.uint32)
    maps = [inner_distance(labels), (labels > 0).astype(np.float32)]
    maps[map_] *= np.where(labels % 2, 1, 0.75).astype(np.float32)
    whole = (slice(0, 200), slice(0, 200))
    parameters, score = search_parameters([ValidationImage(*maps, [(whole, real)])])
    assert score.f1 == 1
    assert 0.8 < score.quality <= 1
    assert 0.7 < getattr(parameters, name) < 1


def test_search_without_any_true_object_raises():
    labels = np.kron(np.arange(49).reshape(7, 7), np.ones((12, 12), int)).astype(np.uint32)
    maps = np.zeros((2, 84, 84), np.float32)
    whole = (slice(0, 84), slice(0, 84))
    with pytest.raises(InputError, match="finds none"):
        search_parameters([ValidationImage(*maps, [(whole, labels)])])


def test_search_prefers_accurate_outlines_to_barely_matching_ones():
    """An expansion of 0 to 3 px finds all squares; one of them restores their size."""
    labels = np.zeros((240, 240), np.uint32)
    for i in range(64):
        y, x = 30 * (i // 8) + 5, 30 * (i % 8) + 5
        labels[y : y + 18, x : x + 18] = i + 1
    interior = ndi.binary_erosion(labels > 0, np.ones((5, 5)))
    whole = (slice(0, 240), slice(0, 240))
    images = [
        ValidationImage(
            inner_distance(labels), interior.astype(np.float32), [(whole, labels)]
        )
    ]
    parameters, score = search_parameters(images)
    assert score.f1 == 1
    assert score.quality > 0.95
    barely = _Search(images, 30).score(replace(parameters, expansion_px=0.0))
    assert barely.f1 == 1
    assert barely.quality < 0.9
