"""What is done to the light of an image, and that labels are still true of it."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from codexseg.core.labels.operations import inner_boundary
from codexseg.training.augmentation.illumination import (
    exposed,
    field,
    taken,
    textured,
    unit,
)
from codexseg.training.augmentation.presets import STRENGTHS
from codexseg.training.augmentation.stains import flickered, painted

SIDE = 96
SEEDS = range(6)


def rng(seed):
    return np.random.default_rng(seed)


@pytest.fixture
def cells():
    """Squares of 12 px, 4 px apart."""
    one = np.zeros((16, 16), np.uint32)
    one[2:14, 2:14] = 1
    made = np.kron(np.arange(1, 37).reshape(6, 6), one).astype(np.uint32)
    return np.pad(made, (0, SIDE // 2))


@pytest.fixture
def nuclei(cells):
    return np.where(ndimage.minimum_filter(cells, 7) == cells, cells, 0).astype(np.uint32)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_field_is_smooth_and_passes_where_the_numbers_are(seed):
    made = field((40, 61), (3, 5), rng(seed))
    knots = rng(seed).standard_normal((3, 5), np.float32)
    np.testing.assert_allclose(made[[0, 39]][:, ::15], knots[::2], atol=1e-4)
    assert np.abs(np.diff(made, 2, axis=1)).max() < 0.1
    assert made.dtype == np.float32


@pytest.mark.parametrize("seed", SEEDS)
def test_texture_changes_what_is_fine_and_leaves_what_is_coarse(seed):
    coarse = np.exp(field((SIDE, SIDE), (4, 4), rng(9)))
    fine = np.abs(rng(8).normal(0, 0.2, coarse.shape)).astype(np.float32)
    before = coarse + fine
    after = textured(before, rng(seed))
    smooth = [ndimage.gaussian_filter(image, 8) for image in (before, after)]
    assert np.corrcoef(*(image.ravel() for image in smooth))[0, 1] > 0.9
    assert not np.allclose(before, after, atol=0.01)
    assert after.min() >= 0


@pytest.mark.parametrize("seed", SEEDS)
def test_a_stain_follows_the_labels_of_some_cells(cells, nuclei, seed):
    dark = np.zeros(cells.shape, np.float32)
    stained = painted(dark, cells, nuclei, rng(seed))
    far = ndimage.distance_transform_edt(cells == 0) > 6
    near = np.array(ndimage.mean(stained, cells, np.arange(1, 37)))
    assert stained[far].max() < 0.05 * stained.max()
    assert near.max() > 4 * near.min()  # not all alike
    assert (painted(dark + 1, cells, nuclei, rng(seed)) >= 1).all()


def test_most_stains_are_brighter_at_the_rim_than_inside(cells):
    dark = np.zeros(cells.shape, np.float32)
    rim = inner_boundary(cells)
    inside = (ndimage.minimum_filter(cells, 5) == cells) & (cells > 0)
    brighter = 0
    for seed in range(20):
        stained = painted(dark, cells, None, rng(seed))
        brighter += stained[rim].mean() > stained[inside].mean()
    assert 8 < brighter < 20


def test_without_cells_there_is_nothing_to_stain():
    membrane = rng(0).random((9, 9), np.float32)
    none = np.zeros((9, 9), np.uint32)
    np.testing.assert_array_equal(painted(membrane, none, None, rng(0)), membrane)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_nucleus_is_brighter_or_darker_as_a_whole(nuclei, seed):
    lit = np.ones(nuclei.shape, np.float32)
    seen = flickered(lit, nuclei, rng(seed), 0.4)
    middles = ndimage.minimum_filter(nuclei, 5)
    middles[middles != nuclei] = 0
    spread = ndimage.standard_deviation(seen, middles, np.unique(middles)[1:])
    assert np.max(spread) < 0.12
    assert seen[nuclei > 0].std() > 0
    np.testing.assert_allclose(seen[ndimage.distance_transform_edt(nuclei == 0) > 5], 1)
    assert flickered(lit, None, rng(seed), 0.4) is lit


@pytest.mark.parametrize("how", STRENGTHS.values(), ids=STRENGTHS)
def test_light_stays_finite_and_is_never_negative(how):
    for image in (np.zeros((64, 80), np.float32), rng(1).random((64, 80), np.float32) * 3):
        for seed in SEEDS:
            seen = taken(
                textured(exposed(image, rng(seed), how), rng(seed)), rng(seed), how
            )
            assert seen.dtype == np.float32
            assert np.isfinite(seen).all()
            assert seen.min() >= 0
            assert 0 <= unit(seen).min() <= unit(seen).max() <= 1


@pytest.mark.parametrize("lit", [0.003, 0.05, 0.5])
def test_light_that_is_cut_stays_on_its_objects(lit):
    """However sparse an image is: a network is not to look for nuclei in nothing."""
    image = np.zeros((100, 100), np.float32)
    image[: round(100 * lit**0.5), : round(100 * lit**0.5)] = 1
    how = replace(STRENGTHS["wide"], saturated=1, uneven=0, blurred=0)
    for seed in SEEDS:
        seen = exposed(image, rng(seed), how)
        assert seen[image > 0].min() > 0.3
        assert seen[image == 0].max() == 0


def test_labels_may_be_any_numbers():
    nuclei = np.zeros((64, 64), np.uint32)
    nuclei[20:30, 20:30] = 2**32 - 1
    membrane = np.zeros(nuclei.shape, np.float32)
    assert flickered(membrane + 1, nuclei, rng(3), 0.4)[25, 25] != 1
    assert painted(membrane, nuclei, None, rng(3)).max() > 0


def test_the_dimmest_channel_keeps_its_share_of_the_light():
    how = STRENGTHS["wide"]
    flat = np.ones((64, 64), np.float32)
    kept = [np.median(taken(flat, rng(seed), how)) for seed in range(200)]
    assert how.dimmest * 0.95 < min(kept) < 0.5
