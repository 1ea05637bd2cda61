"""Sources of training examples."""

import numpy as np
import pytest
import tifffile

from codexseg.errors import InputError
from codexseg.training.data.examples import Crops, LabelledImage, Nuclei, ScaledImages


def test_nuclei_outside_of_the_share_are_not_drawn(tmp_path):
    images = np.arange(10, dtype=np.uint8)[:, None, None] * np.ones((1, 256, 256), np.uint8)
    np.savez(tmp_path / "n.npz", images=images, labels=images.astype(np.uint16))
    source, rng = Nuclei(tmp_path / "n.npz", 0.8), np.random.default_rng(0)
    drawn = {int(source.draw(rng).nuclei[0, 0]) for _ in range(100)}
    assert drawn == set(range(8))


def test_only_crops_inside_the_columns_are_drawn(tmp_path):
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
    (window, (cells, _)) = truth[1]
    assert window == (slice(8, 40), slice(40, 72))
    assert (cells == 2).all()


def test_crops_show_only_the_channels_of_their_labels(tmp_path):
    image = np.stack([np.full((40, 40), level, np.uint8) for level in (9, 8, 7)])
    image[:, 0] = 100
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="minisblack")
    ones = np.ones((1, 40, 40), np.uint16)
    np.savez(tmp_path / "b.npz", yx=np.zeros((1, 2), int), cells=ones, nuclei=ones)
    files = tmp_path / "a.tif", tmp_path / "b.npz", (0, 40)
    images = ScaledImages()
    two, every = Crops(*files, (2, 0), images), Crops(*files, images=images)
    (selected,), (whole,) = two.every(), every.every()
    np.testing.assert_array_equal(selected.nucleus, whole.markers[1])
    np.testing.assert_array_equal(selected.markers, whole.nucleus[None])
    assert (selected.together, whole.together) == (True, False)
    assert two.region()[0].shape == (2, 40, 40)
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
def test_crops_refuse_labels_that_do_not_fit_the_image(tmp_path, changed, message):
    image = np.ones((3, 40, 40), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="minisblack")
    ones = np.ones((1, 40, 40), np.uint16)
    valid = {"yx": np.zeros((1, 2), int), "cells": ones, "nuclei": ones, "channels": None}
    arrays = valid | changed
    channels = arrays.pop("channels")
    np.savez(tmp_path / "b.npz", **arrays)
    with pytest.raises(InputError, match=message):
        Crops(tmp_path / "a.tif", tmp_path / "b.npz", (0, 40), channels)


def test_labelled_image_takes_nuclei_from_the_given_channel(tmp_path):
    image = np.stack([np.full((9, 9), 50), np.arange(81).reshape(9, 9)]).astype(np.uint8)
    np.savez(tmp_path / "p.npz", image=image, cells=image[0], nuclei=image[1])
    example = LabelledImage(tmp_path / "p.npz", 1).draw(np.random.default_rng(0))
    assert example.markers.shape == (1, 9, 9)
    assert len(np.unique(example.nucleus)) == 81


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"labels": np.zeros((2, 9, 8), np.uint16)}, r"labels \(2, 9, 8\)"),
        ({"images": np.zeros((2, 9, 9, 3), np.uint8)}, r"images \(2, 9, 9, 3\)"),
        ({"images": np.full((2, 9, 9), np.nan)}, "intensities from nan"),
        ({"images": np.full((2, 9, 9), -1.0)}, "intensities from -1"),
        ({"labels": np.zeros((2, 9, 9))}, "labels of float64"),
    ],
)
def test_invalid_images_of_nuclei_are_refused(tmp_path, changed, message):
    whole = np.zeros((2, 9, 9), np.uint8)
    path = tmp_path / "n.npz"
    np.savez(path, **({"images": whole, "labels": whole} | changed))
    with pytest.raises(InputError, match=message):
        Nuclei(path, 0.8)


def test_small_share_of_few_images_keeps_one_image(tmp_path):
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
def test_invalid_labelled_image_is_refused(tmp_path, changed, message):
    plane = np.zeros((9, 9), np.uint8)
    whole = {"image": np.stack([plane, plane]), "cells": plane, "nuclei": plane}
    np.savez(tmp_path / "p.npz", **(whole | changed))
    with pytest.raises(InputError, match=message):
        LabelledImage(tmp_path / "p.npz", 1)
