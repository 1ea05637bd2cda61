from dataclasses import replace

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from codexseg.errors import InputError
from codexseg.training.augmentation.geometry import _membrane, _warped, augmented
from codexseg.training.augmentation.presets import STRENGTHS
from codexseg.training.data import batches
from codexseg.training.data.batches import batch
from codexseg.training.data.examples import Crops, Example, Nuclei, Pair, Synthetic, choose
from codexseg.training.data.targets import (
    BACKGROUND,
    BOUNDARY,
    INTERIOR,
    classes,
    inner_distance,
)
from tests.drawing import draw

TISSUE = Synthetic()


@pytest.fixture
def nuclei(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.kron(rng.permutation(64).reshape(8, 8), np.ones((32, 32), int))
    labels[::32] = labels[:, ::32] = 0
    images = (labels > 0) * 100 + rng.integers(0, 9, labels.shape)
    path = tmp_path / "nuclei.npz"
    arrays = np.stack([images] * 5).astype(np.uint8), np.stack([labels] * 5)
    np.savez(path, images=arrays[0], labels=arrays[1].astype(np.uint16))
    return Nuclei(path, 0.8)


def test_the_middle_is_1_and_the_rest_falls_with_the_distance_over_the_size():
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


def test_classes_are_boundary_interior_and_background():
    labels = draw("""
        1112
        1112
        1112
    """)
    expected = np.full(labels.shape, INTERIOR)
    expected[:, 2:] = BOUNDARY
    assert np.array_equal(classes(labels), expected)
    assert (classes(np.zeros_like(labels)) == BACKGROUND).all()


@pytest.mark.parametrize("how", STRENGTHS.values(), ids=STRENGTHS)
@pytest.mark.parametrize("seed", range(3))
def test_an_image_is_a_function_of_its_seed_and_fits_the_network(seed, how):
    def once():
        rng = np.random.default_rng(seed)
        return augmented(TISSUE.draw(rng), rng, 256, how)

    pixels, cells, nuclei = once()
    again = once()
    for one, other in zip((pixels, cells, nuclei), again, strict=True):
        np.testing.assert_array_equal(one, other)
    assert pixels.dtype == np.float32
    assert pixels.shape == (2, *cells.shape) == (2, *nuclei.shape)
    assert min(cells.shape) >= 256
    assert max(cells.shape) <= how.largest_px
    assert pixels.min() >= 0
    assert pixels.max() <= 1
    assert np.isfinite(pixels).all()


@pytest.mark.parametrize("how", STRENGTHS.values(), ids=STRENGTHS)
def test_labels_move_with_the_pixels(how):
    """However an image is cut, enlarged, turned and bent, light stays on its label."""
    labels = np.zeros((450, 430), np.uint32)
    for i, (y, x) in enumerate(np.random.default_rng(1).integers(20, 400, (40, 2)), 1):
        labels[y - 9 : y + 9, x - 5 : x + 5] = i
    light = (labels > 0).astype(np.float32)
    example = Example(light, light[None], labels, labels)
    for seed in range(8):
        seen = _warped(example, np.random.default_rng(seed), 256, how)
        assert min(seen.nucleus.shape) >= 256
        assert ((seen.nucleus > 0.5) == (seen.nuclei > 0)).mean() > 0.999
        np.testing.assert_array_equal(seen.nucleus, seen.markers[0])
        np.testing.assert_array_equal(seen.nuclei, seen.cells)
        assert 0.02 < (seen.cells > 0).mean() < 0.2


def test_a_small_image_is_enlarged_to_a_tile():
    small = np.ones((40, 300), np.float32)
    labels = np.ones((40, 300), np.uint32)
    for how in STRENGTHS.values():
        example = Example(small, small[None], labels, labels)
        pixels, cells, _ = augmented(example, np.random.default_rng(0), 256, how)
        assert min(pixels.shape[1:]) >= 256
        assert (cells == 1).all()


@pytest.mark.parametrize("shape", [(100, 600), (600, 100), (256, 1200)])
@pytest.mark.parametrize("how", STRENGTHS.values(), ids=STRENGTHS)
def test_an_image_that_is_not_square_keeps_its_proportions(shape, how):
    labels = np.zeros(shape, np.uint32)
    radius = 20
    for i, at in enumerate(range(50, max(shape) - 50, 50), 1):
        y, x = (at if side == max(shape) else side // 2 for side in shape)
        labels[y - radius : y + radius, x - radius : x + radius] = i
    light = (labels > 0).astype(np.float32)
    upright = replace(how, turn_deg=0, bend_px=0)
    ratios = []
    for seed in range(20):
        example = Example(light, light[None], labels, labels)
        seen = _warped(example, np.random.default_rng(seed), 256, upright).cells
        boxes = [box for box in ndimage.find_objects(seen) if box is not None]
        sizes = [(y.stop - y.start, x.stop - x.start) for y, x in boxes]
        ratios += [height / width for height, width in sizes[1:-1]]
    assert len(ratios) > 20
    assert 0.9 < np.median(ratios) < 1.1
    assert 0.7 < min(ratios) < max(ratios) < 1.4


def test_a_batch_is_a_function_of_seed_and_number(nuclei):
    sources, weights = [TISSUE, nuclei], [1.0, 1.0]
    tiles, targets = batch(sources, weights, 4, 3, 7)
    assert tiles.shape == (4, 256, 256, 2)
    assert targets.shape == (4, 256, 256, 6)
    same = batch(sources, weights, 4, 3, 7)
    np.testing.assert_array_equal(tiles, same[0])
    np.testing.assert_array_equal(targets, same[1])
    for other in ((4, 7), (3, 8)):
        assert not np.array_equal(tiles, batch(sources, weights, 4, *other)[0])


def test_of_several_strengths_one_is_drawn_for_each_image(nuclei, monkeypatch):
    chosen = []

    def seen(example, rng, least_px, how):
        chosen.append(how)
        return augmented(example, rng, least_px, how)

    monkeypatch.setattr(batches, "augmented", seen)
    mild, wide = STRENGTHS["mild"], STRENGTHS["wide"]
    batch([nuclei], [1.0], 40, 0, 0, [mild, wide])
    assert len(chosen) > 20  # some images give two tiles
    assert 0.25 < chosen.count(wide) / len(chosen) < 0.75
    assert chosen.count(mild) == len(chosen) - chosen.count(wide)


def test_nobody_is_asked_for_cells_that_nobody_drew(nuclei):
    tiles, targets = batch([nuclei], [1.0], 3, 0, 0)
    assert (targets[..., 4] == 0).all()
    assert (targets[..., 3] != BACKGROUND).any()
    assert (tiles[..., 1] == 0).all()


def test_nuclei_that_are_held_back_are_not_drawn(tmp_path):
    images = np.arange(10, dtype=np.uint8)[:, None, None] * np.ones((1, 256, 256), np.uint8)
    np.savez(tmp_path / "n.npz", images=images, labels=images.astype(np.uint16))
    source, rng = Nuclei(tmp_path / "n.npz", 0.8), np.random.default_rng(0)
    seen = {int(source.draw(rng).nuclei[0, 0]) for _ in range(100)}
    assert seen == set(range(8))


def test_crops_lie_between_the_columns(tmp_path):
    image = np.zeros((3, 64, 200), np.uint8) + np.arange(200, dtype=np.uint8)
    tifffile.imwrite(tmp_path / "i.tif", image, photometric="minisblack")
    corners = np.array([[0, 0], [8, 40], [16, 120]])
    labels = (
        np.ones((3, 32, 32), np.uint16) * np.arange(1, 4, dtype=np.uint16)[:, None, None]
    )
    np.savez(tmp_path / "l.npz", yx=corners, cells=labels, nuclei=labels)
    crops = Crops(tmp_path / "i.tif", tmp_path / "l.npz", (0, 100))
    rng = np.random.default_rng(0)
    assert {int(crops.draw(rng).cells[0, 0]) for _ in range(50)} == {1, 2}
    region, truth = crops.region()
    assert region.shape == (3, 40, 72)
    (place, (cells, _)) = truth[1]
    assert place == (slice(8, 40), slice(40, 72))
    assert (cells == 2).all()


def test_crops_show_the_channels_that_their_labels_were_drawn_by(tmp_path):
    image = np.stack([np.full((40, 40), level, np.uint8) for level in (9, 8, 7)])
    image[:, 0] = 100
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="minisblack")
    ones = np.ones((1, 40, 40), np.uint16)
    np.savez(tmp_path / "b.npz", yx=np.zeros((1, 2), int), cells=ones, nuclei=ones)
    files = tmp_path / "a.tif", tmp_path / "b.npz", (0, 40)
    some, every = Crops(*files, (2, 0)), Crops(*files)
    (one,), (other,) = some.every(), every.every()
    np.testing.assert_array_equal(one.nucleus, other.markers[1])
    np.testing.assert_array_equal(one.markers, other.nucleus[None])
    assert (one.together, other.together) == (True, False)
    assert some.region()[0].shape == (2, 40, 40)
    with pytest.raises(InputError, match=r"channels are \[0, 3\].* below 3"):
        Crops(*files, (0, 3))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"yx": np.array([[8, 1]])}, "crops outside of"),
        ({"yx": np.array([[-1, 0]])}, "crops outside of"),
        ({"yx": np.zeros((1, 2))}, "expected integers"),
        ({"cells": np.ones((40, 40), int)}, "expected integers"),
        ({"nuclei": np.ones((2, 40, 40), int)}, "expected integers"),
        ({"channels": (0, 0)}, "expected different numbers"),
    ],
)
def test_labels_that_do_not_fit_the_image_are_refused(tmp_path, changed, message):
    image = np.ones((3, 40, 40), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="minisblack")
    ones = np.ones((1, 40, 40), np.uint16)
    fine = {"yx": np.zeros((1, 2), int), "cells": ones, "nuclei": ones, "channels": None}
    made = fine | changed
    channels = made.pop("channels")
    np.savez(tmp_path / "b.npz", **made)
    with pytest.raises(InputError, match=message):
        Crops(tmp_path / "a.tif", tmp_path / "b.npz", (0, 40), channels)


def test_markers_whose_labels_hold_together_are_shown_together():
    """Each marker lights a part of its own: none of them is ever missing."""
    nucleus, labels = np.ones((300, 300), np.float32), np.ones((300, 300), np.uint32)
    markers = np.zeros((3, 300, 300), np.float32)
    for number in range(3):
        markers[number, 100 * number : 100 * number + 100] = 1

    def lit(example):
        drawn = (_membrane(example, np.random.default_rng(seed)) for seed in range(30))
        return {tuple(membrane[50::100, 0] > 0) for membrane in drawn}

    example = Example(nucleus, markers, labels, labels)
    assert lit(replace(example, together=True)) == {(True, True, True)}
    assert len(lit(example)) > 4


def test_a_pair_has_its_nuclei_in_the_channel_that_is_named(tmp_path):
    image = np.stack([np.full((9, 9), 50), np.arange(81).reshape(9, 9)]).astype(np.uint8)
    np.savez(tmp_path / "p.npz", image=image, cells=image[0], nuclei=image[1])
    example = Pair(tmp_path / "p.npz", 1).draw(np.random.default_rng(0))
    assert example.markers.shape == (1, 9, 9)
    assert len(np.unique(example.nucleus)) == 81


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"labels": np.zeros((2, 9, 8), np.uint16)}, r"labels \(2, 9, 8\)"),
        ({"images": np.zeros((2, 9, 9, 3), np.uint8)}, r"images \(2, 9, 9, 3\)"),
        ({"images": np.full((2, 9, 9), np.nan)}, "grey levels from nan"),
        ({"images": np.full((2, 9, 9), -1.0)}, "grey levels from -1"),
        ({"labels": np.zeros((2, 9, 9))}, "labels of float64"),
    ],
)
def test_images_of_nuclei_are_checked(tmp_path, changed, message):
    whole = np.zeros((2, 9, 9), np.uint8)
    path = tmp_path / "n.npz"
    np.savez(path, **({"images": whole, "labels": whole} | changed))
    with pytest.raises(InputError, match=message):
        Nuclei(path, 0.8)


def test_a_small_share_of_few_images_is_one(tmp_path):
    whole = np.ones((2, 9, 9), np.uint8)
    np.savez(tmp_path / "n.npz", images=whole, labels=whole)
    assert Nuclei(tmp_path / "n.npz", 0.1).draw(np.random.default_rng(0)).nuclei.all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image": np.zeros((9, 9), np.uint8)}, r"image \(9, 9\)"),
        ({"cells": np.zeros((9, 8), np.uint8)}, r"cells \(9, 8\)"),
        ({"image": np.zeros((1, 9, 9), np.uint8)}, "with a channel 1"),
        ({"nuclei": np.zeros((9, 9))}, "labels of float64"),
    ],
)
def test_a_pair_is_checked(tmp_path, changed, message):
    plane = np.zeros((9, 9), np.uint8)
    whole = {"image": np.stack([plane, plane]), "cells": plane, "nuclei": plane}
    np.savez(tmp_path / "p.npz", **(whole | changed))
    with pytest.raises(InputError, match=message):
        Pair(tmp_path / "p.npz", 1)


def test_sources_are_drawn_by_their_weights(nuclei):
    rng = np.random.default_rng(0)
    drawn = [choose([nuclei, TISSUE], [0.0, 1.0], rng).cells for _ in range(3)]
    assert all(cells is not None for cells in drawn)
