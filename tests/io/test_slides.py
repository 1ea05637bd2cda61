"""Slide readers: pixels, metadata, laziness, damaged files."""

import os
import pickle
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from codexseg.core.grid import Window
from codexseg.errors import InputError
from codexseg.io.slides import tiff
from codexseg.io.slides.base import SlideImage, resolve_mpp
from codexseg.io.slides.open import open_image
from tests.helpers.images import (
    pixels,
    write_ome_tiff,
    write_ome_zarr,
    write_qptiff,
    write_tiff,
)

NAMES = ("DAPI", "CD3", "PanCK")
HEIGHT, WIDTH = 150, 170

OME_OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "tiled": {"tile": (64, 32)},
    "zlib": {"tile": (64, 64), "compression": "zlib", "predictor": True},
    "strips": {"compression": "lzw", "rowsperstrip": 7},
    "one strip": {"compression": "zstd", "rowsperstrip": HEIGHT},
    "pyramid": {"tile": (32, 32), "levels": 2, "compression": "zlib"},
    "bigtiff": {"bigtiff": True, "tile": (64, 64)},
    "big-endian": {"byteorder": ">"},
    "big-endian tiles": {"byteorder": ">", "tile": (32, 32), "compression": "lzw"},
}


def check_windows(image: SlideImage, array: NDArray[Any]) -> None:
    assert image.shape == array.shape
    assert image.dtype == array.dtype.newbyteorder("=")
    _, height, width = array.shape
    windows = [
        Window(0, 0, height, width),
        Window(0, 0, 1, 1),
        Window(height - 1, width - 1, height, width),
        Window(0, width - 1, height, width),
        Window(height // 2, 0, height // 2 + 1, width),
        Window(31, 31, 33, 33),
        Window(height // 8, width // 3, height - 3, width // 2),
    ]
    for number, plane in enumerate(array):
        for window in windows:
            read = image.read(number, window)
            assert np.array_equal(read, plane[window.slices])
            assert type(read) is np.ndarray
            assert read.dtype.isnative
            assert read.flags.c_contiguous
            assert read.flags.writeable


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("options", OME_OPTIONS.values(), ids=OME_OPTIONS)
def test_ome_tiff_pixels_and_metadata(tmp_path, options, dtype):
    if dtype is np.float32 and options.get("predictor"):
        options = options | {"predictor": 3}
    array = pixels(dtype=dtype)
    image = open_image(write_ome_tiff(tmp_path / "a.ome.tif", array, NAMES, 0.5, **options))
    check_windows(image, array)
    assert (image.format, image.channel_names, image.mpp) == ("OME-TIFF", NAMES, 0.5)
    assert len(image.levels) == 1 + options.get("levels", 0)


@pytest.mark.parametrize(
    ("version", "dtype"),
    [(v, d) for v in ("0.4", "0.5") for d in ("u1", "u2", "f4")] + [("0.4", ">u2")],
)
def test_ome_zarr_pixels_and_metadata(tmp_path, version, dtype):
    array = pixels(dtype=np.dtype(dtype).newbyteorder("=")).astype(dtype)
    path = write_ome_zarr(tmp_path / "a.zarr", array, NAMES, 0.5, version=version, levels=1)
    image = open_image(path)
    check_windows(image, array)
    assert (image.format, image.channel_names, image.mpp) == ("OME-Zarr", NAMES, 0.5)
    assert image.levels == ((150, 170), (75, 85))


@pytest.mark.parametrize("biomarkers", [True, False])
@pytest.mark.parametrize("levels", [0, 1, 2])
def test_qptiff_consists_of_full_resolution_pages(tmp_path, biomarkers, levels):
    array = pixels()
    path = tmp_path / "a.qptiff"
    write_qptiff(path, array, NAMES, 0.5077, levels=levels, biomarkers=biomarkers)
    image = open_image(path)
    check_windows(image, array)
    assert (image.format, image.channel_names) == ("qptiff", NAMES)
    assert image.mpp == pytest.approx(0.5077, rel=1e-4)
    assert image.levels == ((150, 170), (75, 85), (37, 42))[: levels + 1]


@pytest.mark.parametrize("count", [1, 3, 9])
@pytest.mark.parametrize(
    "options", [{}, {"compression": "zlib"}, {"tile": (32, 32), "byteorder": ">"}]
)
def test_plain_tiff_has_one_channel_per_page(tmp_path, options, count):
    array = pixels((count, 40, 50))
    image = open_image(write_tiff(tmp_path / "a.tif", array, **options))
    check_windows(image, array)
    assert image.format == "TIFF"
    assert image.channel_names == tuple(f"Channel {i}" for i in range(count))
    assert image.mpp is None


def test_imagej_hyperstack(tmp_path):
    array = pixels()
    tifffile.imwrite(
        tmp_path / "a.tif",
        array,
        imagej=True,
        resolution=(2, 2),
        metadata={"unit": "um", "axes": "CYX", "Labels": list(NAMES)},
    )
    image = open_image(tmp_path / "a.tif")
    check_windows(image, array)
    assert (image.format, image.channel_names, image.mpp) == ("TIFF", NAMES, 0.5)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_window_of_any_format_equals_slice(slides, data):
    image = data.draw(st.sampled_from(slides))
    (y0, y1), (x0, x1) = (
        sorted(data.draw(st.sets(st.integers(0, n), min_size=2, max_size=2)))
        for n in image.shape[1:]
    )
    channel = data.draw(st.integers(0, image.shape[0] - 1))
    expected = pixels()[channel, y0:y1, x0:x1]
    assert np.array_equal(image.read(channel, Window(y0, x0, y1, x1)), expected)


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    folder, array = tmp_path_factory.mktemp("slides"), pixels()
    return [
        open_image(write_ome_tiff(folder / "a.ome.tif", array, tile=(64, 32), levels=1)),
        open_image(write_tiff(folder / "a.tif", array, compression="zlib", rowsperstrip=9)),
        open_image(write_qptiff(folder / "a.qptiff", array, NAMES)),
        open_image(write_ome_zarr(folder / "a.zarr", array, version="0.5")),
    ]


def test_pyramid_level_equals_every_second_pixel(slides):
    ome, _, qptiff, _ = slides
    for image in (ome, qptiff):
        coarse = image.read(1, Window(3, 5, 70, 80), level=1)
        assert np.array_equal(coarse, pixels()[1, ::2, ::2][3:70, 5:80])


@pytest.mark.parametrize(
    ("axes", "shape"),
    [
        ("YX", (150, 170)),
        ("CYX", (3, 150, 170)),
        ("TCYX", (1, 3, 150, 170)),
        ("TCZYX", (1, 3, 1, 150, 170)),
        ("ZTCYX", (1, 1, 3, 150, 170)),
        ("CTZYX", (3, 1, 1, 150, 170)),
    ],
)
@pytest.mark.parametrize("options", [{}, {"tile": (32, 32), "compression": "zlib"}])
def test_axes_of_ome_tiff(tmp_path, axes, shape, options):
    array = pixels() if "C" in axes else pixels()[:1]
    path = tmp_path / "a.ome.tif"
    check_windows(
        open_image(write_ome_tiff(path, array.reshape(shape), axes=axes, **options)), array
    )


@pytest.mark.parametrize("planarconfig", ["contig", "separate"])
@pytest.mark.parametrize("options", [{}, {"tile": (32, 32), "compression": "zlib"}])
@pytest.mark.parametrize("writer", [write_ome_tiff, None])
def test_samples_are_channels(tmp_path, planarconfig, options, writer):
    array = pixels((5, 40, 50))
    options = options | {"planarconfig": planarconfig, "photometric": "minisblack"}
    axes, data = "SYX", array
    if planarconfig == "contig":
        axes, data = "YXS", np.ascontiguousarray(np.moveaxis(array, 0, -1))
    if writer:
        write_ome_tiff(tmp_path / "a.tif", data, axes=axes, **options)
    else:
        tifffile.imwrite(tmp_path / "a.tif", data, metadata=None, **options)
    check_windows(open_image(tmp_path / "a.tif"), array)


@pytest.mark.parametrize("axes", ["CYX", "YXC", "XYC", "CXY", "XCY"])
def test_labelled_axes_of_uncompressed_tiff(tmp_path, axes):
    array = pixels((5, 40, 50))
    data = np.ascontiguousarray(array.transpose(["CYX".index(a) for a in axes]))
    tifffile.imwrite(
        tmp_path / "a.tif", data, photometric="minisblack", metadata={"axes": axes}
    )
    check_windows(open_image(tmp_path / "a.tif"), array)


@pytest.mark.parametrize(
    ("axes", "shape"),
    [("yx", (150, 170)), ("tczyx", (1, 3, 1, 150, 170)), ("yxc", None), ("xcy", None)],
)
def test_axes_of_ome_zarr(tmp_path, axes, shape):
    array = pixels() if "c" in axes else pixels()[:1]
    data = (
        array.reshape(shape) if shape else array.transpose(["cyx".index(a) for a in axes])
    )
    check_windows(open_image(write_ome_zarr(tmp_path / "a.zarr", data, axes=axes)), array)


def test_bioformats2raw_layout_opens_largest_image(tmp_path):
    array = pixels()
    zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2).attrs.update(
        {"bioformats2raw.layout": 3}
    )
    write_ome_zarr(tmp_path / "a.zarr" / "0", array, NAMES, 0.5)
    write_ome_zarr(tmp_path / "a.zarr" / "1", array[:, :20, :20])
    image = open_image(tmp_path / "a.zarr")
    check_windows(image, array)
    assert image.channel_names == NAMES
    write_ome_zarr(tmp_path / "a.zarr" / "1", array)
    os.utime(tmp_path / "a.zarr" / ".zattrs", (1, 1))
    with pytest.raises(InputError, match=r"several images. Pass one of .*/0, .*/1"):
        open_image(tmp_path / "a.zarr")


# ---------------------------------------------------------------- laziness


def test_window_decodes_only_tiles_under_it(tmp_path, monkeypatch):
    path = tmp_path / "a.ome.tif"
    array = np.zeros((2, 4096, 4096), np.uint8)
    image = open_image(write_ome_tiff(path, array, tile=(256, 256), compression="zlib"))
    decoded = []
    paste = tiff._Segments._paste

    def count(self, number, *rest):
        decoded.append(number)
        paste(self, number, *rest)

    monkeypatch.setattr(tiff._Segments, "_paste", count)
    tracemalloc.start()
    image.read(1, Window(250, 0, 270, 300))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert decoded == [0, 1, 16, 17]
    assert peak < 1_000_000


def test_uncompressed_plane_is_read_lazily(tmp_path):
    shape = (2, 12000, 12000)  # 576 MB in a sparse file
    tifffile.memmap(tmp_path / "a.tif", shape=shape, dtype=np.uint16, metadata=None)
    image = open_image(tmp_path / "a.tif")
    tracemalloc.start()
    image.read(1, Window(6000, 6000, 6100, 6100))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_zarr_reads_only_chunks_under_window(tmp_path):
    path = write_ome_zarr(tmp_path / "a.zarr", pixels(), chunk=64)
    image = open_image(path)
    for chunk in (path / "0").glob("[0-9]*"):
        if chunk.name not in ("1.1.1", "1.1.2"):
            chunk.write_bytes(b"broken")
    assert np.array_equal(
        image.read(1, Window(70, 70, 100, 150)), pixels()[1, 70:100, 70:150]
    )


# ------------------------------------------------- opened once, anywhere


def test_image_is_opened_once_and_pickled_as_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_tiff(Path("a.tif"), pixels())
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    image = open_image("a.tif", "names.txt")
    assert open_image(tmp_path / "a.tif", tmp_path / "names.txt") is image
    payload = pickle.dumps(image)
    assert len(payload) < 1000
    monkeypatch.chdir("/")
    copy = pickle.loads(payload)
    assert copy.channel_names == NAMES
    check_windows(copy, pixels())


def test_rewritten_file_is_opened_again(tmp_path):
    path = write_tiff(tmp_path / "a.tif", pixels(seed=1))
    open_image(path)
    other = pixels((2, 70, 80), seed=2)
    write_tiff(path, other)
    check_windows(open_image(path), other)


@pytest.mark.parametrize("write", [write_tiff, write_ome_tiff, write_ome_zarr])
def test_fingerprint_depends_on_content_only(tmp_path, write):
    array = pixels((2, 300, 300))
    path = write(tmp_path / "a", array)
    moved = tmp_path / "somewhere" / "else"
    moved.parent.mkdir()
    (shutil.copytree if path.is_dir() else shutil.copy)(path, moved)
    os.utime(moved, (1, 1))
    first = open_image(path).fingerprint()
    assert open_image(moved).fingerprint() == first
    changed = array.copy()
    changed[1, -1, -1] ^= 1
    assert open_image(write(tmp_path / "b", changed)).fingerprint() != first


def test_fingerprint_of_large_file_reads_samples(tmp_path):
    path = write_tiff(tmp_path / "a.tif", np.zeros((1, 2000, 2000), np.uint16))
    first = open_image(path).fingerprint()
    with path.open("r+b") as file:
        file.seek(4_000_000)
        file.write(b"\1" * 200_000)
    assert open_image(path).fingerprint() != first


# ------------------------------------------------------- names and mpp


def test_panel_file_overrides_names_of_image(tmp_path):
    path = write_ome_tiff(tmp_path / "a.ome.tif", pixels(), NAMES)
    panel = tmp_path / "antibodies.tsv"
    panel.write_text("channel_id\tantibody_name\n0\tX\n1\tY\n2\tZ\n")
    assert open_image(path, panel).channel_names == ("X", "Y", "Z")
    panel.write_text("X\nY\n")
    with pytest.raises(
        InputError, match=r"has 3 channels, but .*antibodies.tsv has 2 names"
    ):
        open_image(path, panel)


def test_unnamed_channel_is_numbered(tmp_path):
    path = write_ome_tiff(tmp_path / "a.ome.tif", pixels(), ["DAPI", "", "CD8"])
    assert open_image(path).channel_names == ("DAPI", "Channel 1", "CD8")


@pytest.mark.parametrize(
    ("unit", "size"),
    [
        ("µm", 0.5),
        ("\N{GREEK SMALL LETTER MU}m", 0.5),
        ("nm", 500),
        ("mm", 0.0005),
        ("cm", 0.00005),
        ("m", 5e-7),
        ("Å", 5000),
    ],
)
def test_ome_pixel_size_in_any_unit(tmp_path, unit, size):
    path = write_ome_tiff(tmp_path / "a.ome.tif", pixels(), mpp=size, unit=unit)
    assert open_image(path).mpp == pytest.approx(0.5)


@pytest.mark.parametrize("unit", ["pixel", "reference frame"])
def test_units_other_than_lengths_give_no_pixel_size(tmp_path, unit):
    path = write_ome_tiff(tmp_path / "a.ome.tif", pixels(), mpp=0.5, unit=unit)
    assert open_image(path).mpp is None


@pytest.mark.parametrize(
    ("unit", "size", "mpp"),
    [("micrometer", 0.5, 0.5), ("nanometer", 325, 0.325), (None, 0.5, None)],
)
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_pixel_size_in_any_unit(tmp_path, version, unit, size, mpp):
    path = write_ome_zarr(
        tmp_path / "a.zarr", pixels(), mpp=size, unit=unit, version=version
    )
    assert open_image(path).mpp == (None if mpp is None else pytest.approx(mpp))


@pytest.mark.parametrize(
    ("resolution", "unit", "mpp"),
    [
        (20000, "CENTIMETER", 0.5),
        (50800, "INCH", 0.5),
        (72, "INCH", None),  # resolution of a screen
        (300, "INCH", None),
        (1, "NONE", None),
        (2, "NONE", None),
    ],
)
def test_resolution_tags_of_plain_tiff(tmp_path, resolution, unit, mpp):
    path = tmp_path / "a.tif"
    write_tiff(path, pixels(), resolution=(resolution,) * 2, resolutionunit=unit)
    assert open_image(path).mpp == (None if mpp is None else pytest.approx(mpp))


def test_anisotropic_pixels_are_refused(tmp_path):
    path = write_ome_tiff(tmp_path / "a.ome.tif", pixels(), mpp=(0.5, 0.6))
    with pytest.raises(InputError, match=r"0.5 um in y and 0.6 um in x"):
        open_image(path)


def test_mpp_of_file_and_config_are_compared():
    path = Path("a.tif")
    assert resolve_mpp(0.5, None, path) == 0.5
    assert resolve_mpp(None, 0.4, path) == 0.4
    assert resolve_mpp(0.5, 0.504, path) == 0.5
    with pytest.raises(InputError, match=r"a.tif has 0.5 um.*data.image_mpp is 0.25"):
        resolve_mpp(0.5, 0.25, path)
    with pytest.raises(InputError, match=r"a.tif has no pixel size.*data.image_mpp"):
        resolve_mpp(None, None, path)
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(InputError, match="above 0"):
            resolve_mpp(0.5, wrong, path)


# ------------------------------------------------------------ bad input


def test_paths_without_image_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"nothing.tif cannot be opened: No such file"):
        open_image(tmp_path / "nothing.tif")
    with pytest.raises(InputError, match="a folder but not an OME-Zarr"):
        open_image(tmp_path)
    (tmp_path / "empty.tif").touch()
    with pytest.raises(InputError, match=r"Unsupported file type.*is empty"):
        open_image(tmp_path / "empty.tif")
    (tmp_path / "film.gif").write_bytes(b"GIF89a")
    with pytest.raises(InputError, match=r"Unsupported file type.*starts with b'GIF8'"):
        open_image(tmp_path / "film.gif")
    with pytest.raises(InputError, match=r"panel.tsv cannot be opened"):
        open_image(write_tiff(tmp_path / "a.tif", pixels()), tmp_path / "panel.tsv")


@pytest.mark.parametrize("write", [write_ome_tiff, write_tiff, write_qptiff])
@pytest.mark.parametrize("options", [{}, {"compression": "zlib", "tile": (64, 64)}])
@pytest.mark.parametrize("kept", [6, 9, 60, 300, 0.3, 0.6, 0.97, -1])
def test_truncated_file_is_refused(tmp_path, write, options, kept):
    if write is write_qptiff:
        whole = write(tmp_path / "a.tif", pixels(), NAMES, **options).read_bytes()
    else:
        whole = write(tmp_path / "a.tif", pixels(), **options).read_bytes()
    cut = tmp_path / "cut.tif"
    cut.write_bytes(whole[: kept if isinstance(kept, int) else int(len(whole) * kept)])
    if kept == -1 and write is write_qptiff:
        assert open_image(cut).shape == (
            3,
            HEIGHT,
            WIDTH,
        )  # the label image is cut
        return
    with pytest.raises(InputError, match=r"truncated|not a readable TIFF|do not fit"):
        open_image(cut)


def test_missing_page_is_refused(tmp_path):
    path = write_ome_tiff(tmp_path / "a.ome.tif", pixels(), tile=(64, 64))
    with tifffile.TiffFile(path, mode="r+b") as tif:
        xml = tif.pages[0].tags["ImageDescription"]
        xml.overwrite(tif.ome_metadata.replace('SizeC="3"', 'SizeC="4"').encode())
    with pytest.raises(InputError, match="pages that are not in the file"):
        open_image(path)


def test_cmyk_pixels_are_refused(tmp_path):
    photo = np.moveaxis(pixels((4, 64, 64), np.uint8), 0, -1).copy()
    tifffile.imwrite(tmp_path / "cmyk.tif", photo, photometric="separated")
    with pytest.raises(InputError, match="SEPARATED with 4 samples"):
        open_image(tmp_path / "cmyk.tif")


def test_3d_stacks_and_time_series_are_refused(tmp_path):
    path = write_ome_tiff(tmp_path / "a.ome.tif", pixels((5, 40, 50)), axes="ZYX")
    with pytest.raises(InputError, match="3-D stack: 5 steps along axis 'Z'"):
        open_image(path)
    stack = pixels((6, 40, 50)).reshape(2, 3, 40, 50)
    tifffile.imwrite(tmp_path / "ij.tif", stack, imagej=True, metadata={"axes": "TCYX"})
    with pytest.raises(InputError, match="time series: 2 steps along axis 'T'"):
        open_image(tmp_path / "ij.tif")
    path = write_ome_zarr(tmp_path / "a.zarr", stack, axes="czyx")
    with pytest.raises(InputError, match="3-D stack: 3 steps along axis 'Z'"):
        open_image(path)


@pytest.mark.parametrize("dtype", ["int16", "uint32", "float64", "float16", "bool"])
def test_unsupported_dtypes_are_refused(tmp_path, dtype):
    array = (pixels() > 9).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="minisblack")
    match = rf"has dtype {dtype}, expected uint8, uint16, float32.*Convert"
    with pytest.raises(InputError, match=match):
        open_image(tmp_path / "a.tif")
    with pytest.raises(InputError, match=match):
        open_image(write_ome_zarr(tmp_path / "a.zarr", array))


@pytest.mark.parametrize("count", [3, 12])
def test_pages_of_different_shape_are_refused(tmp_path, count):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        for number in range(count):
            shape = (40 + (number == 2), 50)
            tif.write(np.zeros(shape, np.uint8), metadata=None, rowsperstrip=64)
    with pytest.raises(InputError, match=r"pages that differ in shape.*\(41, 50\)"):
        open_image(tmp_path / "a.tif")


def test_several_images_are_refused_and_thumbnails_ignored(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as tif:
        tif.write(pixels((2, 20, 20)), photometric="minisblack", metadata={"axes": "CYX"})
        tif.write(pixels((2, 40, 50)), photometric="minisblack", metadata={"axes": "CYX"})
    check_windows(open_image(tmp_path / "a.ome.tif"), pixels((2, 40, 50)))
    with tifffile.TiffWriter(tmp_path / "b.ome.tif") as tif:
        for _ in range(2):
            tif.write(
                pixels((2, 40, 50)), photometric="minisblack", metadata={"axes": "CYX"}
            )
    with pytest.raises(InputError, match="several images"):
        open_image(tmp_path / "b.ome.tif")


def test_compression_without_a_codec_is_refused(tmp_path):
    path = write_tiff(tmp_path / "a.tif", pixels(), tile=(64, 64), compression="zlib")
    with tifffile.TiffFile(path, mode="r+b") as tif:
        for page in list(tif.pages):
            page.aspage().tags["Compression"].overwrite(33333)
    with pytest.raises(InputError, match="compressed with 33333, which imagecodecs cannot"):
        open_image(path)


def test_large_plane_in_one_compressed_strip_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tiff, "MAX_SEGMENT_BYTES", 10_000)
    path = tmp_path / "a.tif"
    write_tiff(path, pixels(), compression="zlib", rowsperstrip=HEIGHT)
    with pytest.raises(InputError, match=r"tiles of 150 x 170 px.*tiles of 512"):
        open_image(path)


def test_invalid_ome_zarr_is_refused(tmp_path):
    root = zarr.open_group(tmp_path / "group.zarr", mode="w")
    with pytest.raises(InputError, match="no 'multiscales'"):
        open_image(tmp_path / "group.zarr")
    root.attrs["ome"] = {"plate": {}}
    with pytest.raises(InputError, match="plate of many images"):
        open_image(tmp_path / "group.zarr")
    zarr.create_array(tmp_path / "array.zarr", data=pixels())
    with pytest.raises(InputError, match="zarr array without OME metadata"):
        open_image(tmp_path / "array.zarr")
    path = write_ome_zarr(tmp_path / "hole.zarr", pixels())
    shutil.rmtree(path / "0")
    with pytest.raises(InputError, match="not a readable OME-Zarr"):
        open_image(path)
    path = write_ome_zarr(tmp_path / "few.zarr", pixels(), NAMES[:2])
    with pytest.raises(InputError, match="has 3 channels, but its metadata has 2 names"):
        open_image(path)
    path = write_ome_zarr(tmp_path / "none.zarr", np.zeros((0, 9, 9), np.uint8))
    with pytest.raises(InputError, match=r"no pixels: .* \(0, 9, 9\)"):
        open_image(path)


def test_damaged_tile_raises_when_read(tmp_path):
    path = write_ome_tiff(
        tmp_path / "a.ome.tif", pixels(), NAMES, tile=(64, 64), compression="zlib"
    )
    with tifffile.TiffFile(path) as tif:
        offset = tif.pages[1].dataoffsets[-1]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\0" * 100)
    image = open_image(path)
    whole = Window(0, 0, HEIGHT, WIDTH)
    assert np.array_equal(image.read(0, whole), pixels()[0])
    with pytest.raises(
        InputError, match=r"a.ome.tif: channel 1 \('CD3'\).*Window"
    ) as caught:
        image.read(1, whole)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_damaged_chunk_raises_when_read(tmp_path, version):
    path = write_ome_zarr(tmp_path / "a.zarr", pixels(), NAMES, version=version)
    chunk = path / "0" / ("c/2/1/1" if version == "0.5" else "2.1.1")
    chunk.write_bytes(chunk.read_bytes()[:50])
    image = open_image(path)
    image.read(1, Window(0, 0, HEIGHT, WIDTH))
    with pytest.raises(InputError, match=r"a.zarr: channel 2 \('PanCK'\)"):
        image.read(2, Window(100, 100, 120, 120))


def test_deleted_or_shortened_file_raises_when_read(tmp_path):
    for options in ({}, {"tile": (64, 64), "compression": "zlib"}):
        path = write_ome_tiff(tmp_path / "a.ome.tif", pixels(), **options)
        image = open_image(path)
        path.write_bytes(path.read_bytes()[:40000])
        with pytest.raises(InputError, match=r"a.ome.tif: channel 2"):
            image.read(2, Window(0, 0, HEIGHT, WIDTH))
        path.unlink()
        with pytest.raises(InputError, match="No such file"):
            image.read(0, Window(0, 0, 1, 1))


@pytest.mark.parametrize(
    "window",
    [
        (0, 0, 0, 5),
        (5, 5, 5, 9),
        (-1, 0, 5, 5),
        (0, 0, 151, 5),
        (0, 0, 5, 171),
        (9, 9, 2, 2),
    ],
)
def test_windows_outside_slide_are_refused(slides, window):
    for image in slides:
        with pytest.raises(InputError, match="height 150 and width 170"):
            image.read(0, Window(*window))


def test_unknown_channels_and_levels_are_refused(slides):
    for channel in (-1, 3):
        with pytest.raises(InputError, match=r"3 channels\. Expected 0 to 2"):
            slides[0].read(channel, Window(0, 0, 1, 1))
    with pytest.raises(InputError, match="Pyramid level 2"):
        slides[0].read(0, Window(0, 0, 1, 1), level=2)
