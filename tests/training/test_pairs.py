import zipfile

import numpy as np
import pytest
import tifffile
from PIL import Image

from codexseg.errors import InputError
from codexseg.training.data import pairs as module
from codexseg.training.data.image_files import Picture
from codexseg.training.data.pair_examples import Keep, Pairs
from codexseg.training.data.pairs import find_pairs, split
from tests.training.pictures import cells, light, write, write_pairs


def zipped(folder, path):
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.iterdir():
            archive.write(file, f"inside/{file.name}")
        archive.writestr("__MACOSX/._a0.png", b"")
        archive.writestr("readme.txt", b"hello")
    return path


def test_folders_zips_and_npz_hold_the_same(tmp_path):
    write_pairs(tmp_path)
    images, masks = tmp_path / "images", tmp_path / "masks"
    found = find_pairs(images, {"nuclei": masks})
    assert [pair.name for pair in found] == ["a0", "a1", "a2", "a3", "a4"]
    read = [pair.read() for pair in found]
    for number, (image, labels) in enumerate(read):
        assert image.shape == (1, 96, 128)
        assert image.dtype == np.uint8
        assert np.array_equal(labels["nuclei"], cells(number))
        assert labels["nuclei"].dtype == np.uint32
    stack = tmp_path / "all.npz"
    np.savez(
        stack,
        images=np.stack([image[0] for image, _ in read]),
        labels=np.stack([labels["nuclei"] for _, labels in read]).astype(np.uint16),
    )
    for others in (
        find_pairs(
            zipped(images, tmp_path / "i.zip"),
            {"nuclei": zipped(masks, tmp_path / "m.zip")},
        ),
        find_pairs(stack, {"nuclei": stack}),
        find_pairs(tmp_path / "all.npz:images", {"nuclei": tmp_path / "all.npz:labels"}),
    ):
        assert len(others) == 5
        for pair, (image, labels) in zip(others, read, strict=True):
            again = pair.read()
            assert np.array_equal(again[0], image)
            assert np.array_equal(again[1]["nuclei"], labels["nuclei"])


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
def test_names_pair_whatever_says_format_or_labels(tmp_path, image, label):
    labels = cells()
    if image.lower().endswith("png"):
        write(tmp_path / "i" / image, light(labels))
    else:
        (tmp_path / "i").mkdir()
        tifffile.imwrite(tmp_path / "i" / image, light(labels), ome="ome" in image.lower())
    write(tmp_path / "l" / label, labels)
    ((_, found),) = (
        p.read() for p in find_pairs(tmp_path / "i", {"cells": tmp_path / "l"})
    )
    assert np.array_equal(found["cells"], labels)


def test_images_and_labels_may_lie_side_by_side(tmp_path):
    for number in range(3):
        write(tmp_path / f"{number}.png", light(cells(number)))
        write(tmp_path / f"{number}_masks.png", cells(number))
    found = find_pairs(tmp_path, {"cells": tmp_path})
    assert [pair.name for pair in found] == ["0", "1", "2"]
    assert np.array_equal(found[2].read()[1]["cells"], cells(2))


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
def test_channels_come_first_and_the_header_says_so(tmp_path, array, options, shape):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, array, **{"photometric": "minisblack"} | options)
    picture = Picture("a", path)
    assert picture.header().shape == picture.pixels().shape == shape
    assert picture.pixels().dtype == array.dtype.newbyteorder("=")


def test_colour_png_has_three_channels_and_no_transparency(tmp_path):
    rgba = np.arange(4 * 30 * 20, dtype=np.uint8).reshape(30, 20, 4)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    picture = Picture("a", tmp_path / "a.png")
    assert picture.header().shape == (3, 30, 20)
    assert np.array_equal(picture.pixels(), np.moveaxis(rgba[..., :3], -1, 0))
    with pytest.raises(InputError, match="one plane"):
        picture.labels()


def broken(tmp_path, number):
    write_pairs(tmp_path)
    images, masks = tmp_path / "images", tmp_path / "masks"
    match number:
        case "partner":
            (masks / "a3_masks.png").rename(masks / "b_masks.png")
            return r"in .*images: a3\.png; in .*masks: b_masks\.png"
        case "twice":
            write(masks / "a1.tif", cells())
            (masks / "a1_labels.png").write_bytes((masks / "a1_masks.png").read_bytes())
            return r"a1_labels\.png and a1_masks\.png in .*both 'a1'"
        case "shape":
            write(masks / "a2_masks.png", cells(0, (96, 127)))
            return r"1 are not: a2_masks\.png \(1, 96, 127\) for image \(1, 96, 128\)"
        case "float":
            (masks / "a4_masks.png").unlink()
            write(masks / "a4_masks.tif", cells().astype(np.float32))
            return r"must be integers.*a4_masks\.tif \(float32\)"
        case "colour":
            write(masks / "a4_masks.png", np.zeros((96, 128, 3), np.uint8))
            return r"a4_masks\.png \(3, 96, 128\)"
        case "nothing":
            for file in images.iterdir():
                file.rename(file.with_suffix(".jpg"))
            return r"images holds no image"
        case "damaged":
            whole = (images / "a0.png").read_bytes()
            (images / "a0.png").write_bytes(whole[:20])
            return r"a0\.png cannot be read"
        case "missing":
            masks.rename(tmp_path / "elsewhere")
            return r"masks does not exist.*--data"
    raise AssertionError(number)


@pytest.mark.parametrize(
    "what",
    ["partner", "twice", "shape", "float", "colour", "nothing", "damaged", "missing"],
)
def test_what_does_not_fit_is_named(tmp_path, what):
    message = broken(tmp_path, what)
    with pytest.raises(InputError, match=message):
        find_pairs(tmp_path / "images", {"nuclei": tmp_path / "masks"})


def test_wrong_npz_and_zip_are_named(tmp_path):
    np.savez(tmp_path / "a.npz", one=np.zeros((3, 4, 4)), two=np.zeros((3, 4, 4)))
    with pytest.raises(InputError, match=r"arrays one, two.*a\.npz:KEY"):
        find_pairs(tmp_path / "a.npz", {"cells": tmp_path / "a.npz"})
    with pytest.raises(InputError, match="arrays one, two"):
        find_pairs(tmp_path / "a.npz:three", {"cells": tmp_path / "a.npz:two"})
    (tmp_path / "b.zip").write_bytes(b"no zip at all")
    with pytest.raises(InputError, match="neither a folder nor a readable zip"):
        find_pairs(tmp_path / "b.zip", {"cells": tmp_path / "b.zip"})


def test_values_that_are_no_grey_levels_are_refused(tmp_path):
    image = np.full((20, 20), -1, np.int16)
    path = write(tmp_path / "a.tif", image)
    with pytest.raises(InputError, match="below 0"):
        Picture("a", path).pixels()


def test_a_split_is_a_function_of_the_seed(tmp_path):
    write_pairs(tmp_path, 10, (16, 16))
    found = find_pairs(tmp_path / "images", {"nuclei": tmp_path / "masks"})
    taken, held = split(found, 0.2, 3)
    assert (taken, held) == split(found, 0.2, 3)
    assert len(held) == 2
    assert {p.name for p in taken} | {p.name for p in held} == {p.name for p in found}
    assert any(split(found, 0.2, seed)[1] != held for seed in range(5))
    assert len(split(found, 0.99, 0)[0]) == 1
    assert split(found, 0, 0) == (found, [])
    with pytest.raises(InputError, match="1 pair"):
        split(found[:1], 0.2, 0)


def test_images_are_read_when_drawn_and_dropped_when_room_is_short(tmp_path, monkeypatch):
    write_pairs(tmp_path)
    read = []
    pixels = Picture.pixels
    monkeypatch.setattr(Picture, "pixels", lambda p: read.append(p.name) or pixels(p))
    found = find_pairs(tmp_path / "images", {"nuclei": tmp_path / "masks"})
    source = Pairs(found, 0, None, 0.5)
    assert not read
    assert len(list(source.every())) == 5
    assert len(list(source.every())) == 5
    assert len(read) == 5
    source._keep = Keep(limit=1)
    list(source.every())
    list(source.every())
    assert len(read) == 15
    assert len(source._keep._items) == 1


def test_a_compartment_that_is_not_given_has_no_weight(tmp_path):
    from codexseg.training.data.batches import batch

    write_pairs(tmp_path)
    for name, weights in (("cells", [1, 0]), ("nuclei", [0, 1])):
        found = find_pairs(tmp_path / "images", {name: tmp_path / "masks"})
        tiles, targets = batch([Pairs(found, 0, None, 0.5)], [1.0], 2, 0, 0)
        assert tiles.shape == (2, 256, 256, 2)
        assert targets[..., 4:].min(axis=(0, 1, 2)).tolist() == weights
        assert targets[..., 4:].max(axis=(0, 1, 2)).tolist() == weights


def test_pixel_size_becomes_that_of_the_network(tmp_path):
    write_pairs(tmp_path)
    found = find_pairs(tmp_path / "images", {"cells": tmp_path / "masks"})
    example = next(Pairs(found, 0, None, 0.25).every())
    assert example.nucleus.shape == example.cells.shape == (48, 64)
    assert example.nuclei is None
    lit = example.nucleus > 0.5
    assert ((example.cells > 0) == lit).mean() > 0.97
    assert next(Pairs(found, 0, None, 0.5).every()).nucleus.shape == (96, 128)


def test_a_channel_that_is_not_there_is_named(tmp_path):
    write_pairs(tmp_path)
    found = find_pairs(tmp_path / "images", {"cells": tmp_path / "masks"})
    with pytest.raises(InputError, match=r"has 1 channels.*channel 2"):
        Pairs(found, 0, [2], 0.5)


def test_no_labels_are_an_error(tmp_path):
    write_pairs(tmp_path)
    with pytest.raises(InputError, match="no labels"):
        find_pairs(tmp_path / "images", {})
    assert module.COMPARTMENTS == ("cells", "nuclei")
