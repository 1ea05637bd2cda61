"""Pictures in any file format are slides of one or three channels."""

import pickle

import numpy as np
import pytest
import tifffile
from PIL import Image

from codexseg.core.grid import Window
from codexseg.errors import InputError
from codexseg.io.slides.open import open_image
from tests.helpers.images import pixels, write_ome_tiff

HEIGHT, WIDTH = 40, 50
COLOURS = ("red", "green", "blue")


def colours(samples=3, dtype=np.uint8):
    """Noise, (y, x, samples)."""
    return np.ascontiguousarray(np.moveaxis(pixels((samples, HEIGHT, WIDTH), dtype), 0, -1))


def read(image):
    whole = Window(0, 0, *image.shape[1:])
    return np.stack([image.read(channel, whole) for channel in range(image.shape[0])])


def check(path, expected, names, kind):
    image = open_image(path)
    assert (image.channel_names, image.format, image.mpp) == (names, kind, None)
    assert image.dtype == expected.dtype
    assert np.array_equal(read(image), expected)
    part = Window(3, 7, 21, 30)
    assert np.array_equal(image.read(0, part), expected[0, 3:21, 7:30])
    again = pickle.loads(pickle.dumps(image))
    assert again.fingerprint() == image.fingerprint()
    return image


@pytest.mark.parametrize("suffix", ["png", "bmp"])
@pytest.mark.parametrize("samples", [1, 3, 4])
def test_pictures_have_one_or_three_channels(tmp_path, suffix, samples):
    path, data = tmp_path / f"a.{suffix}", colours(samples)
    Image.fromarray(data[..., 0] if samples == 1 else data).save(path)
    names = ("grey",) if samples == 1 else COLOURS
    expected = np.moveaxis(data, -1, 0)[: len(names)]
    check(path, expected, names, suffix.upper())


def test_format_is_independent_of_suffix(tmp_path):
    data = colours()
    Image.fromarray(data).save(tmp_path / "a.tif", format="PNG")
    check(tmp_path / "a.tif", np.moveaxis(data, -1, 0), COLOURS, "PNG")


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_equals_pixels_of_pillow(tmp_path, mode):
    path = tmp_path / "a.jpg"
    Image.fromarray(colours()).convert(mode).save(path)
    with Image.open(path) as image:
        data = np.asarray(image)
    expected = data[None] if mode == "L" else np.moveaxis(data, -1, 0)
    check(path, expected, ("grey",) if mode == "L" else COLOURS, "JPEG")


@pytest.mark.parametrize("samples", [1, 3, 4])
def test_16_bit_png_keeps_its_depth(tmp_path, samples):
    import imagecodecs

    data = colours(samples, np.uint16)
    path = tmp_path / "a.png"
    path.write_bytes(imagecodecs.png_encode(data[..., 0] if samples == 1 else data))
    names = ("grey",) if samples == 1 else COLOURS
    check(path, np.moveaxis(data, -1, 0)[: len(names)], names, "PNG")


def test_palettes_and_bit_images_are_converted(tmp_path):
    data = colours()[..., 0]
    grey = Image.fromarray(data).convert("P")
    grey.save(tmp_path / "grey.png")
    assert open_image(tmp_path / "grey.png").channel_names == ("grey",)
    assert np.array_equal(read(open_image(tmp_path / "grey.png"))[0], data)
    Image.fromarray(colours()).quantize(16).save(tmp_path / "colour.png")
    with Image.open(tmp_path / "colour.png") as image:
        expected = np.moveaxis(np.asarray(image.convert("RGB")), -1, 0)
    check(tmp_path / "colour.png", expected, COLOURS, "PNG")
    Image.fromarray(data > 99).save(tmp_path / "bits.png")
    check(tmp_path / "bits.png", np.uint8(255) * (data > 99)[None], ("grey",), "PNG")
    two = Image.fromarray(np.stack([data, data.T.reshape(data.shape)], -1), "LA")
    two.save(tmp_path / "la.png")
    check(tmp_path / "la.png", data[None], ("grey",), "PNG")


@pytest.mark.parametrize("options", [{}, {"compression": "zlib", "tile": (16, 16)}])
@pytest.mark.parametrize(
    ("samples", "dtype"), [(3, np.uint8), (4, np.uint8), (3, np.uint16)]
)
@pytest.mark.parametrize("writer", ["plain", "ome", "planar"])
def test_colour_tiff_has_three_channels(tmp_path, options, samples, dtype, writer):
    data, path = colours(samples, dtype), tmp_path / "a.tif"
    options = {"photometric": "rgb", **options}
    if writer == "ome":
        write_ome_tiff(path, data, axes="YXS", **options)
    elif writer == "planar":
        planes = np.ascontiguousarray(np.moveaxis(data, -1, 0))
        tifffile.imwrite(path, planes, planarconfig="separate", **options)
    else:
        tifffile.imwrite(path, data, **options)
    kind = "OME-TIFF" if writer == "ome" else "TIFF"
    check(path, np.moveaxis(data, -1, 0)[:3], COLOURS, kind)


def test_jpeg_compressed_tiff_with_pyramid(tmp_path):
    path = tmp_path / "a.tif"
    data = np.full((64, 64, 3), (200, 100, 20), np.uint8)
    options = {"photometric": "rgb", "compression": "jpeg", "tile": (16, 16)}
    write_ome_tiff(path, data, axes="YXS", **options)
    image = open_image(path)
    assert image.channel_names == COLOURS
    found = read(image)
    assert np.abs(found.astype(int) - np.array([200, 100, 20])[:, None, None]).max() < 6


def test_grey_with_transparency_is_one_channel(tmp_path):
    data = colours(2)
    tifffile.imwrite(
        tmp_path / "a.tif", data, photometric="minisblack", extrasamples=["unassalpha"],
        planarconfig="contig",
    )  # fmt: skip
    check(tmp_path / "a.tif", data[None, ..., 0], ("Channel 0",), "TIFF")


def test_markers_in_samples_are_not_colours(tmp_path):
    data = colours(3)
    tifffile.imwrite(
        tmp_path / "a.tif", data, photometric="minisblack", planarconfig="contig"
    )
    names = ("Channel 0", "Channel 1", "Channel 2")
    check(tmp_path / "a.tif", np.moveaxis(data, -1, 0), names, "TIFF")


def test_panel_overrides_colour_names(tmp_path):
    Image.fromarray(colours()).save(tmp_path / "a.png")
    (tmp_path / "panel.txt").write_text("CD3\nCD8\nDAPI\n")
    image = open_image(tmp_path / "a.png", tmp_path / "panel.txt")
    assert image.channel_names == ("CD3", "CD8", "DAPI")


def test_invalid_pictures_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(InputError, match="not a readable picture"):
        open_image(path)
    Image.fromarray(colours()).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"not a readable picture|cannot be read"):
        read(open_image(path))
    many = [Image.fromarray(colours()[..., i]) for i in range(3)]
    many[0].save(path, save_all=True, append_images=many[1:])
    with pytest.raises(InputError, match="an animation of 3 frames"):
        open_image(path)
    monkeypatch.setattr("codexseg.io.slides.pictures.MAX_PX", HEIGHT * WIDTH - 1)
    Image.fromarray(colours()).save(path)
    with pytest.raises(InputError, match="tiled TIFF"):
        open_image(path)


def test_changed_picture_is_read_again(tmp_path):
    first, second = colours(), 255 - colours()
    for data in (first, second):
        Image.fromarray(data).save(tmp_path / "a.bmp")
        assert np.array_equal(
            read(open_image(tmp_path / "a.bmp")), np.moveaxis(data, -1, 0)
        )
