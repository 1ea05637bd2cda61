"""Images and batches of U-Net training."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codexseg.errors import InputError
from codexseg.training.data.pairs import find_pairs
from codexseg.training.data.unet_images import BatchOrder, UnetImages
from codexseg.training.recipe.schema import UnetRecipe
from tests.training.pictures import disc_labels, fluorescence, write_image, write_pairs


def make_recipe(**keys):
    return UnetRecipe(preset="unet", images="images", nuclei="masks", **keys)


def open_images(folder, **keys):
    recipe = make_recipe(**keys)
    return UnetImages(recipe.find(folder), recipe)


@pytest.mark.parametrize(
    ("shape", "height", "size"),
    [
        ((520, 696), 256, (256, 336)),  # 342.6: the nearest multiple of 16
        ((256, 256), 256, (256, 256)),
        ((100, 1000), 256, (256, 2560)),
        ((256, 3), 256, (256, 16)),
        ((100, 90), None, (96, 96)),
    ],
)
def test_images_are_resized_to_multiples_of_16(tmp_path, shape, height, size):
    write_pairs(tmp_path, 2, shape)
    images = open_images(tmp_path, height=height)
    assert images.shapes == [size] * 2
    x, y = images.batch([0, 1])
    assert x.shape == y.shape == (2, *size, 1)


def test_images_range_from_0_to_1_and_masks_are_binary(tmp_path):
    write_pairs(tmp_path)
    x, y = open_images(tmp_path).batch([0, 2])
    assert x.dtype == y.dtype == np.float32
    assert x.min() == 0
    assert 0.9 < x.max() <= 1
    assert set(np.unique(y)) == {0, 1}
    assert ((x > 0.5) == (y > 0)).mean() > 0.97
    assert open_images(tmp_path).labels(0).max() > 10  # objects keep their numbers


def test_channels_of_one_input_are_merged_by_their_maximum(tmp_path):
    labels = disc_labels()
    left, right = labels * (np.arange(128) < 64), labels * (np.arange(128) >= 64)
    stack = np.stack([fluorescence(labels), fluorescence(left), fluorescence(right)])
    write_image(tmp_path / "images" / "a.tif", stack)
    write_image(tmp_path / "masks" / "a.tif", labels)
    images = open_images(
        tmp_path, inputs={"nucleus": 0, "wholecell": [1, 2]}, height=96, widths=(4, 8)
    )
    x, y = images.batch([0])
    assert x.shape == (1, 96, 128, 2)
    assert ((x[..., 1:] > 0.5) == (y > 0)).mean() > 0.97
    with pytest.raises(InputError, match=r"a\.tif has 3 channels.*channel 4"):
        open_images(tmp_path, inputs={"nucleus": 4})


def test_flips_apply_to_image_and_mask_alike(tmp_path):
    write_pairs(tmp_path)
    images = open_images(tmp_path, flips=True)
    plain = images.batch([0])[0]
    flipped = [images.batch([0], np.random.default_rng(seed)) for seed in range(8)]
    for x, y in flipped:
        assert ((x > 0.5) == (y > 0)).mean() > 0.97
    assert any(not np.array_equal(x, plain) for x, _ in flipped)


def test_pixel_size_follows_from_the_height(tmp_path, caplog):
    write_pairs(tmp_path, 3, (128, 96))
    assert open_images(tmp_path).mpp is None
    assert open_images(tmp_path, mpp=0.5).mpp == 0.25
    write_image(tmp_path / "images" / "b.png", fluorescence(disc_labels(0, (512, 96))))
    write_image(tmp_path / "masks" / "b.png", disc_labels(0, (512, 96)))
    (tmp_path / "masks" / "b.png").rename(tmp_path / "masks" / "b_masks.png")
    assert open_images(tmp_path, mpp=0.5).mpp == 0.25
    assert "different heights" in caplog.text


@given(
    st.lists(st.sampled_from([(16, 16), (16, 32), (32, 32)]), min_size=1, max_size=20),
    st.integers(1, 4),
    st.one_of(st.none(), st.integers(0, 9)),
)
def test_each_epoch_has_every_image_once_in_batches_of_one_shape(shapes, size, seed):
    order = BatchOrder(shapes, size, seed)
    for epoch in (0, 3):
        batches = [order.batch(epoch * len(order) + i) for i in range(len(order))]
        assert sorted(n for batch in batches for n in batch) == list(range(len(shapes)))
        for batch in batches:
            assert 1 <= len(batch) <= size
            assert len({shapes[n] for n in batch}) == 1
    same = BatchOrder(shapes, size, seed)
    assert same.batch(len(order)) == order.batch(len(order))


def test_order_differs_between_epochs():
    order = BatchOrder([(16, 16)] * 9, 1, 0)
    epochs = [[order.batch(9 * e + i) for i in range(9)] for e in range(2)]
    assert epochs[0] != epochs[1]


def test_split_of_the_recipe_depends_on_its_seed(tmp_path):
    write_pairs(tmp_path, 10, (16, 16))
    train, validation = make_recipe().open(tmp_path)
    assert len(train) == 8
    assert len(validation) == 2
    assert make_recipe(split=0).open(tmp_path)[1] == []
    given = make_recipe(validation={"images": "images", "nuclei": "masks"}).open(tmp_path)
    assert [len(part) for part in given] == [10, 10]
    assert find_pairs(tmp_path / "images", {"nuclei": tmp_path / "masks"}) == given[0]
