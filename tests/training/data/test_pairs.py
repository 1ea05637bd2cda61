"""Pairs of images and labels in folders, zips and npz files."""

import zipfile

import numpy as np
import pytest
import tifffile
from PIL import Image

from codexseg.errors import InputError
from codexseg.training.data import pairs as module
from codexseg.training.data.image_files import ImageFile
from codexseg.training.data.pair_examples import Pairs, RecentlyUsed
from codexseg.training.data.pairs import find_pairs, split_pairs
from tests.training.pictures import disc_labels, fluorescence, write_image, write_pairs


def zip_folder(folder, path):
    """Zip a folder, with files that are not images; return the zip."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.iterdir():
            archive.write(file, f"inside/{file.name}")
        archive.writestr("__MACOSX/._a0.png", b"")
        archive.writestr("readme.txt", b"hello")
    return path


def test_folder_zip_and_npz_give_equal_pairs(tmp_path):
    write_pairs(tmp_path)
    images, masks = tmp_path / "images", tmp_path / "masks"
    pairs = find_pairs(images, {"nuclei": masks})
    assert [pair.name for pair in pairs] == ["a0", "a1", "a2", "a3", "a4"]
    read = [pair.read() for pair in pairs]
    for number, (image, labels) in enumerate(read):
        assert image.shape == (1, 96, 128)
        assert image.dtype == np.uint8
        assert np.array_equal(labels["nuclei"], disc_labels(number))
        assert labels["nuclei"].dtype == np.uint32
    stack = tmp_path / "all.npz"
    np.savez(
        stack,
        images=np.stack([image[0] for image, _ in read]),
        labels=np.stack([labels["nuclei"] for _, labels in read]).astype(np.uint16),
    )
    for repacked in (
        find_pairs(
            zip_folder(images, tmp_path / "i.zip"),
            {"nuclei": zip_folder(masks, tmp_path / "m.zip")},
        ),
        find_pairs(stack, {"nuclei": stack}),
        find_pairs(tmp_path / "all.npz:images", {"nuclei": tmp_path / "all.npz:labels"}),
    ):
        assert len(repacked) == 5
        for pair, (image, labels) in zip(repacked, read, strict=True):
            pixels, planes = pair.read()
            assert np.array_equal(pixels, image)
            assert np.array_equal(planes["nuclei"], labels["nuclei"])


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("a.png", "a.tif"),
        ("a.ome.tif", "a_masks.png"),
        ("a.OME.TIFF", "a.tiff"),
        ("a.b.tif", "a.b_labels.tif"),
        ("cell_mask_3.tif", "cell_mask_3_mask.tif"),
    ],
)
def test_names_are_paired_without_suffixes_and_label_words(tmp_path, image, label):
    labels = disc_labels()
    if image.lower().endswith("png"):
        write_image(tmp_path / "i" / image, fluorescence(labels))
    else:
        (tmp_path / "i").mkdir()
        tifffile.imwrite(
            tmp_path / "i" / image, fluorescence(labels), ome="ome" in image.lower()
        )
    write_image(tmp_path / "l" / label, labels)
    ((_, planes),) = (
        p.read() for p in find_pairs(tmp_path / "i", {"cells": tmp_path / "l"})
    )
    assert np.array_equal(planes["cells"], labels)


def test_images_and_labels_in_one_folder_are_paired(tmp_path):
    for number in range(3):
        write_image(tmp_path / f"{number}.png", fluorescence(disc_labels(number)))
        write_image(tmp_path / f"{number}_masks.png", disc_labels(number))
    pairs = find_pairs(tmp_path, {"cells": tmp_path})
    assert [pair.name for pair in pairs] == ["0", "1", "2"]
    assert np.array_equal(pairs[2].read()[1]["cells"], disc_labels(2))


@pytest.mark.parametrize(
    ("array", "options", "shape"),
    [
        (np.zeros((3, 40, 50), np.uint16), {}, (3, 40, 50)),
        (np.zeros((40, 50, 3), np.uint8), {"photometric": "rgb"}, (3, 40, 50)),
        (np.zeros((1, 1, 40, 50), np.float32), {}, (1, 40, 50)),
        (np.zeros((40, 50), ">u2"), {"byteorder": ">"}, (1, 40, 50)),
        (np.zeros((6, 40, 50), np.uint8), {"metadata": {"axes": "CYX"}}, (6, 40, 50)),
    ],
)
def test_channels_come_first_in_header_and_pixels(tmp_path, array, options, shape):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, array, **{"photometric": "minisblack"} | options)
    file = ImageFile("a", path)
    assert file.header().shape == file.pixels().shape == shape
    assert file.pixels().dtype == array.dtype.newbyteorder("=")


def test_colour_png_has_three_channels_without_alpha(tmp_path):
    rgba = np.arange(4 * 30 * 20, dtype=np.uint8).reshape(30, 20, 4)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    file = ImageFile("a", tmp_path / "a.png")
    assert file.header().shape == (3, 30, 20)
    assert np.array_equal(file.pixels(), np.moveaxis(rgba[..., :3], -1, 0))
    with pytest.raises(InputError, match="one plane"):
        file.labels()


def break_pairs(tmp_path, defect):
    """Write pairs with a defect; return a pattern of the expected message."""
    write_pairs(tmp_path)
    images, masks = tmp_path / "images", tmp_path / "masks"
    match defect:
        case "partner":
            (masks / "a3_masks.png").rename(masks / "b_masks.png")
            return r"in .*images: a3\.png; in .*masks: b_masks\.png"
        case "twice":
            write_image(masks / "a1.tif", disc_labels())
            (masks / "a1_labels.png").write_bytes((masks / "a1_masks.png").read_bytes())
            return r"a1_labels\.png and a1_masks\.png in .*both named 'a1'"
        case "shape":
            write_image(masks / "a2_masks.png", disc_labels(0, (96, 127)))
            return r"1 are not: a2_masks\.png \(1, 96, 127\) for image \(1, 96, 128\)"
        case "float":
            (masks / "a4_masks.png").unlink()
            write_image(masks / "a4_masks.tif", disc_labels().astype(np.float32))
            return r"must be integers.*a4_masks\.tif \(float32\)"
        case "colour":
            write_image(masks / "a4_masks.png", np.zeros((96, 128, 3), np.uint8))
            return r"a4_masks\.png \(3, 96, 128\)"
        case "nothing":
            for file in images.iterdir():
                file.rename(file.with_suffix(".jpg"))
            return r"images contains no image"
        case "damaged":
            whole = (images / "a0.png").read_bytes()
            (images / "a0.png").write_bytes(whole[:20])
            return r"a0\.png cannot be read"
        case "missing":
            masks.rename(tmp_path / "elsewhere")
            return r"masks does not exist.*--data"
    raise AssertionError(defect)


@pytest.mark.parametrize(
    "defect",
    ["partner", "twice", "shape", "float", "colour", "nothing", "damaged", "missing"],
)
def test_defective_pairs_are_named(tmp_path, defect):
    message = break_pairs(tmp_path, defect)
    with pytest.raises(InputError, match=message):
        find_pairs(tmp_path / "images", {"nuclei": tmp_path / "masks"})


def test_invalid_npz_and_zip_are_named(tmp_path):
    np.savez(tmp_path / "a.npz", one=np.zeros((3, 4, 4)), two=np.zeros((3, 4, 4)))
    with pytest.raises(InputError, match=r"arrays one, two.*a\.npz:KEY"):
        find_pairs(tmp_path / "a.npz", {"cells": tmp_path / "a.npz"})
    with pytest.raises(InputError, match="arrays one, two"):
        find_pairs(tmp_path / "a.npz:three", {"cells": tmp_path / "a.npz:two"})
    (tmp_path / "b.zip").write_bytes(b"no zip at all")
    with pytest.raises(InputError, match="neither a folder nor a readable zip"):
        find_pairs(tmp_path / "b.zip", {"cells": tmp_path / "b.zip"})


def test_negative_intensities_are_refused(tmp_path):
    image = np.full((20, 20), -1, np.int16)
    path = write_image(tmp_path / "a.tif", image)
    with pytest.raises(InputError, match="below 0"):
        ImageFile("a", path).pixels()


def test_split_depends_on_the_seed_alone(tmp_path):
    write_pairs(tmp_path, 10, (16, 16))
    pairs = find_pairs(tmp_path / "images", {"nuclei": tmp_path / "masks"})
    train, validation = split_pairs(pairs, 0.2, 3)
    assert (train, validation) == split_pairs(pairs, 0.2, 3)
    assert len(validation) == 2
    names = {p.name for p in train} | {p.name for p in validation}
    assert names == {p.name for p in pairs}
    assert any(split_pairs(pairs, 0.2, seed)[1] != validation for seed in range(5))
    assert len(split_pairs(pairs, 0.99, 0)[0]) == 1
    assert split_pairs(pairs, 0, 0) == (pairs, [])
    with pytest.raises(InputError, match="1 pair"):
        split_pairs(pairs[:1], 0.2, 0)


def test_images_are_read_on_demand_within_the_memory_limit(tmp_path, monkeypatch):
    write_pairs(tmp_path)
    read = []
    pixels = ImageFile.pixels
    monkeypatch.setattr(ImageFile, "pixels", lambda p: read.append(p.name) or pixels(p))
    pairs = find_pairs(tmp_path / "images", {"nuclei": tmp_path / "masks"})
    source = Pairs(pairs, 0, None, 0.5)
    assert not read
    assert len(list(source.every())) == 5
    assert len(list(source.every())) == 5
    assert len(read) == 5
    source._recent = RecentlyUsed(max_bytes=1)
    list(source.every())
    list(source.every())
    assert len(read) == 15
    assert len(source._recent._items) == 1


def test_compartment_without_labels_has_weight_0(tmp_path):
    from codexseg.training.data.batches import make_batch

    write_pairs(tmp_path)
    for name, weights in (("cells", [1, 0]), ("nuclei", [0, 1])):
        pairs = find_pairs(tmp_path / "images", {name: tmp_path / "masks"})
        tiles, targets = make_batch([Pairs(pairs, 0, None, 0.5)], [1.0], 2, 0, 0)
        assert tiles.shape == (2, 256, 256, 2)
        assert targets[..., 4:].min(axis=(0, 1, 2)).tolist() == weights
        assert targets[..., 4:].max(axis=(0, 1, 2)).tolist() == weights


def test_images_are_resampled_to_the_pixel_size_of_the_network(tmp_path):
    write_pairs(tmp_path)
    pairs = find_pairs(tmp_path / "images", {"cells": tmp_path / "masks"})
    example = next(Pairs(pairs, 0, None, 0.25).every())
    assert example.nucleus.shape == example.cells.shape == (48, 64)
    assert example.nuclei is None
    lit = example.nucleus > 0.5
    assert ((example.cells > 0) == lit).mean() > 0.97
    assert next(Pairs(pairs, 0, None, 0.5).every()).nucleus.shape == (96, 128)


def test_missing_channel_is_named(tmp_path):
    write_pairs(tmp_path)
    pairs = find_pairs(tmp_path / "images", {"cells": tmp_path / "masks"})
    with pytest.raises(InputError, match=r"has 1 channels.*channel 2"):
        Pairs(pairs, 0, [2], 0.5)


def test_recipe_without_labels_raises(tmp_path):
    write_pairs(tmp_path)
    with pytest.raises(InputError, match="no labels"):
        find_pairs(tmp_path / "images", {})
    assert module.COMPARTMENTS == ("cells", "nuclei")
