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
    Held,
    _Search,
    choose_constants,
)


def test_the_constants_are_those_of_the_best_quality():
    """Squares whose interiors the network sees too faintly for Mesmer's threshold."""
    labels = np.zeros((200, 200), np.uint32)
    for i in range(64):
        y, x = 24 * (i // 8) + 4, 24 * (i % 8) + 4
        labels[y : y + 16, x : x + 16] = i + 1
    interior = 0.45 * (labels > 0) + 0.35 * (labels == 0)
    maps = inner_distance(labels), ndi.gaussian_filter(interior, 0.5).astype(np.float32)
    whole = (slice(0, 200), slice(0, 200))
    constants, score = choose_constants([Held(*maps, [(whole, labels)])])
    assert score.f1 == 1
    assert 0.8 < score.quality <= 1
    assert constants.interior_threshold == 0.4
    assert constants.h in HEIGHTS
    assert constants.smoothing_px in SMOOTHINGS_PX
    assert constants.interior_threshold in THRESHOLDS


def test_growth_gives_back_what_the_interior_leaves_out():
    labels = np.zeros((160, 160), np.uint32)
    for i in range(64):
        y, x = 20 * (i // 8) + 4, 20 * (i % 8) + 4
        labels[y : y + 12, x : x + 12] = i + 1
    interior = ndi.binary_erosion(labels > 0, np.ones((5, 5))).astype(np.float32)
    whole = (slice(0, 160), slice(0, 160))
    held = [Held(inner_distance(labels), interior, [(whole, labels)])]
    constants, score = choose_constants(held)
    assert score.f1 == 1
    assert 0.8 < score.quality <= 1
    assert constants.expansion_px + constants.smoothing_px > 1


@pytest.mark.parametrize(("name", "map_"), [("min_peak", 0), ("min_mean_interior", 1)])
def test_objects_that_the_network_doubts_are_dropped(name, map_):
    """Half of the squares that it sees are none, and their middles are faint."""
    labels = np.zeros((200, 200), np.uint32)
    for i in range(64):
        y, x = 24 * (i // 8) + 4, 24 * (i % 8) + 4
        labels[y : y + 16, x : x + 16] = i + 1
    real = np.where(labels % 2, labels, 0).astype(np.uint32)
    maps = [inner_distance(labels), (labels > 0).astype(np.float32)]
    maps[map_] *= np.where(labels % 2, 1, 0.75).astype(np.float32)
    whole = (slice(0, 200), slice(0, 200))
    constants, score = choose_constants([Held(*maps, [(whole, real)])])
    assert score.f1 == 1
    assert 0.8 < score.quality <= 1
    assert 0.7 < getattr(constants, name) < 1


def test_a_network_that_finds_nothing_is_an_error():
    labels = np.kron(np.arange(49).reshape(7, 7), np.ones((12, 12), int)).astype(np.uint32)
    maps = np.zeros((2, 84, 84), np.float32)
    whole = (slice(0, 84), slice(0, 84))
    with pytest.raises(InputError, match="finds none"):
        choose_constants([Held(*maps, [(whole, labels)])])


def test_outlines_that_fit_are_preferred_to_such_that_barely_match():
    """Growth of 0 to 3 px finds all squares; that of their true size fits best."""
    labels = np.zeros((240, 240), np.uint32)
    for i in range(64):
        y, x = 30 * (i // 8) + 5, 30 * (i % 8) + 5
        labels[y : y + 18, x : x + 18] = i + 1
    seen = ndi.binary_erosion(labels > 0, np.ones((5, 5)))
    whole = (slice(0, 240), slice(0, 240))
    held = [Held(inner_distance(labels), seen.astype(np.float32), [(whole, labels)])]
    constants, score = choose_constants(held)
    assert score.f1 == 1
    assert score.quality > 0.95
    barely = _Search(held, 30).score(replace(constants, expansion_px=0.0))
    assert barely.f1 == 1
    assert barely.quality < 0.9
