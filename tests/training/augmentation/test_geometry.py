"""Augmentation of whole examples."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from codexseg.training.augmentation.geometry import _merge_markers, _warp, augment
from codexseg.training.augmentation.presets import AUGMENTATIONS
from codexseg.training.data.examples import Example, Synthetic


@pytest.mark.parametrize("preset", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
@pytest.mark.parametrize("seed", range(3))
def test_augmented_image_depends_on_the_seed_alone_and_fits_the_network(seed, preset):
    def augment_once():
        rng = np.random.default_rng(seed)
        return augment(Synthetic().draw(rng), rng, 256, preset)

    pixels, cells, nuclei = augment_once()
    for first, second in zip((pixels, cells, nuclei), augment_once(), strict=True):
        np.testing.assert_array_equal(first, second)
    assert pixels.dtype == np.float32
    assert pixels.shape == (2, *cells.shape) == (2, *nuclei.shape)
    assert min(cells.shape) >= 256
    assert max(cells.shape) <= preset.max_px
    assert pixels.min() >= 0
    assert pixels.max() <= 1
    assert np.isfinite(pixels).all()


@pytest.mark.parametrize("preset", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
def test_labels_move_with_the_pixels(preset):
    labels = np.zeros((450, 430), np.uint32)
    for i, (y, x) in enumerate(np.random.default_rng(1).integers(20, 400, (40, 2)), 1):
        labels[y - 9 : y + 9, x - 5 : x + 5] = i
    signal = (labels > 0).astype(np.float32)
    example = Example(signal, signal[None], labels, labels)
    for seed in range(8):
        warped = _warp(example, np.random.default_rng(seed), 256, preset)
        assert min(warped.nucleus.shape) >= 256
        assert ((warped.nucleus > 0.5) == (warped.nuclei > 0)).mean() > 0.999
        np.testing.assert_array_equal(warped.nucleus, warped.markers[0])
        np.testing.assert_array_equal(warped.nuclei, warped.cells)
        assert 0.02 < (warped.cells > 0).mean() < 0.2


def test_small_image_is_magnified_to_a_tile():
    small = np.ones((40, 300), np.float32)
    labels = np.ones((40, 300), np.uint32)
    for preset in AUGMENTATIONS.values():
        example = Example(small, small[None], labels, labels)
        pixels, cells, _ = augment(example, np.random.default_rng(0), 256, preset)
        assert min(pixels.shape[1:]) >= 256
        assert (cells == 1).all()


@pytest.mark.parametrize("shape", [(100, 600), (600, 100), (256, 1200)])
@pytest.mark.parametrize("preset", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
def test_elongated_image_keeps_its_proportions(shape, preset):
    labels = np.zeros(shape, np.uint32)
    radius = 20
    for i, at in enumerate(range(50, max(shape) - 50, 50), 1):
        y, x = (at if side == max(shape) else side // 2 for side in shape)
        labels[y - radius : y + radius, x - radius : x + radius] = i
    signal = (labels > 0).astype(np.float32)
    upright = replace(preset, turn_deg=0, bend_px=0)
    ratios = []
    for seed in range(20):
        example = Example(signal, signal[None], labels, labels)
        warped = _warp(example, np.random.default_rng(seed), 256, upright).cells
        boxes = [box for box in ndimage.find_objects(warped) if box is not None]
        sizes = [(y.stop - y.start, x.stop - x.start) for y, x in boxes]
        ratios += [height / width for height, width in sizes[1:-1]]
    assert len(ratios) > 20
    assert 0.9 < np.median(ratios) < 1.1
    assert 0.7 < min(ratios) < max(ratios) < 1.4


def test_markers_that_labels_require_together_are_never_left_out():
    """Each marker stains a third of the image."""
    nucleus, labels = np.ones((300, 300), np.float32), np.ones((300, 300), np.uint32)
    markers = np.zeros((3, 300, 300), np.float32)
    for number in range(3):
        markers[number, 100 * number : 100 * number + 100] = 1

    def stained_thirds(example):
        generators = map(np.random.default_rng, range(30))
        merged = (_merge_markers(example, rng) for rng in generators)
        return {tuple(membrane[50::100, 0] > 0) for membrane in merged}

    example = Example(nucleus, markers, labels, labels)
    assert stained_thirds(replace(example, together=True)) == {(True, True, True)}
    assert len(stained_thirds(example)) > 4
