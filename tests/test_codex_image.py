import json
import os
from pathlib import Path

import numpy as np
import pytest

import codexseg.codex_image
from codexseg.codex_image import CodexImage
from codexseg.core.grid import Window
from codexseg.errors import InputError
from tests.helpers.images import (
    pixels,
    write_ome_tiff,
    write_ome_zarr,
    write_qptiff,
    write_tiff,
)

NAMES = ["DAPI", "CD3", "PanCK"]


@pytest.fixture
def image(tmp_path):
    path = write_ome_tiff(tmp_path / "a.ome.tif", pixels(), NAMES, 0.5, tile=(64, 64))
    return CodexImage(path)


def test_channels_are_read_by_name_or_number(image):
    array, window = pixels(), (10, 20, 30, 50)
    assert np.array_equal(image.read("CD3", window), array[1, 10:30, 20:50])
    assert np.array_equal(image.read("panck", Window(*window)), array[2, 10:30, 20:50])
    assert np.array_equal(image.read(0, window), array[0, 10:30, 20:50])
    assert np.array_equal(image.read(["PanCK", 0], window), array[[2, 0], 10:30, 20:50])
    assert image.read(["DAPI"], window).shape == (1, 20, 30)


def test_unknown_channels_and_windows_are_errors(image):
    with pytest.raises(InputError, match=r"Channel 'CD4' not found. Did you mean 'CD3'"):
        image.read("CD4", (0, 0, 1, 1))
    with pytest.raises(InputError, match="Channel 3 is not in"):
        image.read(3, (0, 0, 1, 1))
    with pytest.raises(InputError, match="height 150 and width 170"):
        image.read("DAPI", (0, 0, 151, 1))
    with pytest.raises(InputError, match="list of channels is empty"):
        image.read([], (0, 0, 1, 1))


def test_info_and_properties_of_a_slide(image):
    assert image.channel_names == tuple(NAMES)
    assert (image.shape, image.dtype, image.mpp) == ((3, 150, 170), np.uint16, 0.5)
    assert json.loads(json.dumps(image.info())) == {
        "path": str(image.path),
        "format": "OME-TIFF",
        "size": {"channels": 3, "y": 150, "x": 170},
        "dtype": "uint16",
        "mpp": 0.5,
        "channels": NAMES,
        "pyramid": [[150, 170]],
    }


def test_mpp_that_contradicts_the_file_is_an_error(tmp_path, image):
    with pytest.raises(InputError, match=r"0.5 um per pixel, but data.image_mpp is 0.25"):
        CodexImage(image.path, mpp=0.25)
    plain = write_tiff(tmp_path / "a.tif", pixels())
    assert CodexImage(plain).mpp is None
    assert CodexImage(plain, mpp=0.25).mpp == 0.25


def test_panel_file_names_the_channels(tmp_path):
    path = write_tiff(tmp_path / "a.tif", pixels())
    (tmp_path / "panel.txt").write_text("\n".join(NAMES))
    image = CodexImage(path, tmp_path / "panel.txt")
    assert np.array_equal(image.read("CD3", (0, 0, 9, 9)), pixels()[1, :9, :9])


@pytest.mark.parametrize("band", [1, 1000, 2**24])
@pytest.mark.parametrize("max_px", [1, 7, 40, 170, 1024])
def test_overview_is_every_nth_pixel(image, monkeypatch, band, max_px):
    monkeypatch.setattr(codexseg.codex_image, "_BAND_PIXELS", band)
    step = -(-170 // max_px)
    assert np.array_equal(image.overview("CD3", max_px), pixels()[1, ::step, ::step])
    with pytest.raises(InputError, match="max_px is 0"):
        image.overview("CD3", 0)


@pytest.mark.parametrize("write", [write_ome_tiff, write_qptiff, write_ome_zarr])
def test_overview_uses_the_pyramid(tmp_path, write):
    array = pixels((2, 128, 256))
    image = CodexImage(write(tmp_path / "a", array, NAMES[:2], levels=2))
    assert np.array_equal(image.overview(1, 70), array[1, ::4, ::4])
    assert np.array_equal(image.overview(1, 40), array[1, ::8, ::8])


def shared(name):
    folder = os.environ.get("CODEXSEG_SHARED") or Path(__file__).parents[2] / "shared"
    path = Path(folder) / "data" / name
    if not path.exists():
        pytest.skip(f"the shared sample {path} is absent")
    return path


def test_overview_and_window_of_a_tma_slide():
    image = CodexImage(shared("nsclc/nsclc4301.ome.tif"))
    assert (image.shape, image.dtype, image.mpp) == ((6, 2638, 5431), np.uint8, 0.5)
    assert image.channel_names[:2] == ("DAPI", "E-cadherin")
    window = image.read(["dapi", "cd4"], (1000, 1000, 1200, 1300))
    assert window.shape == (2, 200, 300)
    assert window.any()
    assert image.overview("DAPI", 500).shape == (240, 494)


def test_pixels_of_a_codex_tile():
    tifffile = pytest.importorskip("tifffile")
    path = shared("codex_tile/R001_X003_Y004.ome.tif")
    image = CodexImage(path)
    assert (image.shape, image.dtype, image.mpp) == ((8, 1008, 1344), np.uint16, 0.3775)
    whole = image.read(list(image.channel_names), (0, 0, 1008, 1344))
    assert np.array_equal(whole, tifffile.imread(path))
