"""Augmentation of single channels: illumination, texture, noise and stains."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from codexseg.core.labels.operations import inner_boundary
from codexseg.training.augmentation.illumination import (
    add_artifacts,
    change_exposure,
    change_texture,
    smooth_field,
    stretch,
)
from codexseg.training.augmentation.presets import AUGMENTATIONS
from codexseg.training.augmentation.stains import stain_cells, vary_nuclei

SIDE = 96
SEEDS = range(6)


def rng(seed):
    return np.random.default_rng(seed)


@pytest.fixture
def cells():
    """Squares of 12 px, 4 px apart."""
    square = np.zeros((16, 16), np.uint32)
    square[2:14, 2:14] = 1
    squares = np.kron(np.arange(1, 37).reshape(6, 6), square).astype(np.uint32)
    return np.pad(squares, (0, SIDE // 2))


@pytest.fixture
def nuclei(cells):
    """The cells without a rim of 3 px."""
    return np.where(ndimage.minimum_filter(cells, 7) == cells, cells, 0).astype(np.uint32)


@pytest.mark.parametrize("seed", SEEDS)
def test_field_is_smooth_and_interpolates_its_knots(seed):
    drawn = smooth_field((40, 61), (3, 5), rng(seed))
    knots = rng(seed).standard_normal((3, 5), np.float32)
    np.testing.assert_allclose(drawn[[0, 39]][:, ::15], knots[::2], atol=1e-4)
    assert np.abs(np.diff(drawn, 2, axis=1)).max() < 0.1
    assert drawn.dtype == np.float32


@pytest.mark.parametrize("seed", SEEDS)
def test_texture_changes_fine_structure_and_keeps_coarse_structure(seed):
    coarse = np.exp(smooth_field((SIDE, SIDE), (4, 4), rng(9)))
    fine = np.abs(rng(8).normal(0, 0.2, coarse.shape)).astype(np.float32)
    before = coarse + fine
    after = change_texture(before, rng(seed))
    smooth = [ndimage.gaussian_filter(image, 8) for image in (before, after)]
    assert np.corrcoef(*(image.ravel() for image in smooth))[0, 1] > 0.9
    assert not np.allclose(before, after, atol=0.01)
    assert after.min() >= 0


@pytest.mark.parametrize("seed", SEEDS)
def test_stain_follows_the_labels_of_some_cells(cells, nuclei, seed):
    dark = np.zeros(cells.shape, np.float32)
    stained = stain_cells(dark, cells, nuclei, rng(seed))
    far = ndimage.distance_transform_edt(cells == 0) > 6
    near = np.array(ndimage.mean(stained, cells, np.arange(1, 37)))
    assert stained[far].max() < 0.05 * stained.max()
    assert near.max() > 4 * near.min()  # not all cells are stained alike
    assert (stain_cells(dark + 1, cells, nuclei, rng(seed)) >= 1).all()


def test_most_stains_are_brighter_at_the_rim_than_inside(cells):
    dark = np.zeros(cells.shape, np.float32)
    rim = inner_boundary(cells)
    inside = (ndimage.minimum_filter(cells, 5) == cells) & (cells > 0)
    brighter = 0
    for seed in range(20):
        stained = stain_cells(dark, cells, None, rng(seed))
        brighter += stained[rim].mean() > stained[inside].mean()
    assert 8 < brighter < 20


def test_image_without_cells_is_not_stained():
    membrane = rng(0).random((9, 9), np.float32)
    empty = np.zeros((9, 9), np.uint32)
    np.testing.assert_array_equal(stain_cells(membrane, empty, None, rng(0)), membrane)


@pytest.mark.parametrize("seed", SEEDS)
def test_brightness_varies_between_nuclei_and_not_within(nuclei, seed):
    flat = np.ones(nuclei.shape, np.float32)
    varied = vary_nuclei(flat, nuclei, rng(seed), 0.4)
    middles = ndimage.minimum_filter(nuclei, 5)
    middles[middles != nuclei] = 0
    spread = ndimage.standard_deviation(varied, middles, np.unique(middles)[1:])
    assert np.max(spread) < 0.12
    assert varied[nuclei > 0].std() > 0
    background = ndimage.distance_transform_edt(nuclei == 0) > 5
    np.testing.assert_allclose(varied[background], 1)
    assert vary_nuclei(flat, None, rng(seed), 0.4) is flat


@pytest.mark.parametrize("preset", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
def test_intensities_stay_finite_and_non_negative(preset):
    for image in (np.zeros((64, 80), np.float32), rng(1).random((64, 80), np.float32) * 3):
        for seed in SEEDS:
            exposed = change_exposure(image, rng(seed), preset)
            textured = change_texture(exposed, rng(seed))
            noisy = add_artifacts(textured, rng(seed), preset)
            assert noisy.dtype == np.float32
            assert np.isfinite(noisy).all()
            assert noisy.min() >= 0
            assert 0 <= stretch(noisy).min() <= stretch(noisy).max() <= 1


@pytest.mark.parametrize("lit", [0.003, 0.05, 0.5])
def test_saturation_keeps_objects_bright_in_sparse_images(lit):
    image = np.zeros((100, 100), np.float32)
    image[: round(100 * lit**0.5), : round(100 * lit**0.5)] = 1
    preset = replace(AUGMENTATIONS["wide"], saturated=1, uneven=0, blurred=0)
    for seed in SEEDS:
        exposed = change_exposure(image, rng(seed), preset)
        assert exposed[image > 0].min() > 0.3
        assert exposed[image == 0].max() == 0


def test_labels_may_be_any_uint32():
    nuclei = np.zeros((64, 64), np.uint32)
    nuclei[20:30, 20:30] = 2**32 - 1
    membrane = np.zeros(nuclei.shape, np.float32)
    assert vary_nuclei(membrane + 1, nuclei, rng(3), 0.4)[25, 25] != 1
    assert stain_cells(membrane, nuclei, None, rng(3)).max() > 0


def test_dimming_respects_the_minimum_gain():
    preset = AUGMENTATIONS["wide"]
    flat = np.ones((64, 64), np.float32)
    kept = [np.median(add_artifacts(flat, rng(seed), preset)) for seed in range(200)]
    assert preset.min_gain * 0.95 < min(kept) < 0.5
