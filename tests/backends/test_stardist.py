"""StarDist adapter, tested on a stub of the package."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage as ndi

from codexseg.backends import process_cache
from codexseg.backends.base import SlideContext, is_paired
from codexseg.backends.registry import create
from codexseg.backends.tiled import stardist as adapter
from codexseg.config.schema import SegmentationConfig
from codexseg.core.grid import Window
from codexseg.errors import BackendUnavailable, ConfigError, InputError


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Put packages stardist and tensorflow into sys.modules; calls are noted."""
    calls, loaded = [], []

    class StarDist2D:
        def __init__(self, config, name, basedir):
            if name == "broken":
                raise ValueError("no such layer\nat line 3")
            loaded.append((config, name, basedir))

        def predict_instances(self, img, **settings):
            calls.append((img, settings))
            return ndi.label(img > 0.5)[0].astype(np.int32), {}

    modules = {name: ModuleType(name) for name in ("stardist", "stardist.models")}
    modules["stardist.models"].StarDist2D = StarDist2D
    tensorflow = ModuleType("tensorflow")
    gpus = []
    tensorflow.config = SimpleNamespace(list_physical_devices=lambda _: gpus)
    for name, module in (modules | {"tensorflow": tensorflow}).items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(adapter, "package_version", lambda _: "0.9.2")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    process_cache._load.cache_clear()
    yield SimpleNamespace(calls=calls, loaded=loaded, home=tmp_path / "keras")
    process_cache._load.cache_clear()


def put(folder):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "weights_best.h5").write_bytes(b"weights")
    return folder


def made(mpp=0.5, shape=(90, 100), **settings):
    return create(
        SegmentationConfig(backend="stardist", **settings), SlideContext(shape, mpp)
    )


def picture():
    image = np.zeros((2, 90, 100), np.uint16)
    image[0, 26:34, 25:35] = 500
    image[0, 26:34, 37:47] = 500
    return image


def segment(backend, image):
    return backend.predict(image[None], [Window(0, 0, *image.shape[1:])])[0]


@pytest.mark.parametrize("place", ["", "2D_versatile_fluo", "2D_versatile_fluo_extracted"])
def test_cells_are_expanded_nuclei(package, place):
    base = package.home / "models" / "StarDist2D" / "2D_versatile_fluo"
    folder = put(base / place)
    backend = made(watershed={"expansion_um": 2.0})
    cells, nuclei = segment(backend, picture())
    assert package.loaded == [(None, folder.name, str(folder.parent))]
    image, settings = package.calls[0]
    assert (image.dtype, image.max()) == (np.float32, 1.0)
    assert settings == {"show_tile_progress": False}
    assert np.array_equal(nuclei > 0, picture()[0] > 0)
    assert nuclei.max() == 2
    assert is_paired(backend)
    assert backend.channels == ("nucleus",)
    assert np.array_equal(cells > 0, ndi.distance_transform_edt(nuclei == 0) <= 4)
    assert np.array_equal(cells[nuclei > 0], nuclei[nuclei > 0])


def test_nuclear_channel_without_contrast_has_no_objects(package, tmp_path):
    image = picture()[::-1].copy()
    assert not segment(made(model_path=put(tmp_path / "own")), image).any()
    assert package.calls == []


def test_image_is_resized_to_half_a_micrometre(package, tmp_path):
    fine = np.repeat(np.repeat(picture(), 2, axis=1), 2, axis=2)
    backend = made(0.25, fine.shape[1:], model_path=put(tmp_path / "own"))
    _, nuclei = segment(backend, fine)
    assert package.calls[0][0].shape == (90, 100)
    assert (nuclei > 0).sum() == pytest.approx((fine[0] > 0).sum(), rel=0.2)


def test_options_are_passed_to_stardist(package, tmp_path):
    options = {"prob_thresh": 0.4, "nms_thresh": 0.3}
    folder = put(tmp_path / "own")
    segment(made(model_path=folder, options=options), picture())
    assert package.calls[0][1] == options | {"show_tile_progress": False}
    with pytest.raises(ConfigError, match="Expected one of model, prob_thresh, nms_thresh"):
        made(model_path=folder, options={"n_rays": 32})


def test_fingerprint_and_about_depend_on_weights_and_options(package, tmp_path):
    folder = put(tmp_path / "own")
    first = made(model_path=folder)
    assert first.fingerprint().startswith("stardist-1-0.9.2-")
    assert first.about["licence"] is None
    assert first.about["weights_path"] == str(folder)
    assert (
        made(model_path=folder, options={"prob_thresh": 0.4}).fingerprint()
        != first.fingerprint()
    )
    grown = made(model_path=folder, watershed={"expansion_um": 3})
    assert grown.fingerprint() != first.fingerprint()
    assert grown.halo_px > first.halo_px
    before = first.fingerprint()
    (folder / "thresholds.json").write_text('{"prob": 0.5}')
    assert made(model_path=folder).fingerprint() != before


def test_missing_package_or_weights_are_reported(package, tmp_path):
    with pytest.raises(BackendUnavailable, match=r"StarDist2D\.from_pretrained") as raised:
        made()
    assert str(package.home / "models" / "StarDist2D") in str(raised.value)
    with pytest.raises(
        InputError, match=r"contains no config\.json and no weights_best\.h5"
    ):
        made(model_path=tmp_path)
    with pytest.raises(BackendUnavailable, match="'2D_paper_dsb2018'"):
        made(options={"model": "2D_paper_dsb2018"})


def test_model_that_cannot_be_loaded_is_reported(package, tmp_path):
    backend = made(model_path=put(tmp_path / "broken"))
    with pytest.raises(InputError, match=r"cannot be loaded .*\(no such layer\)"):
        segment(backend, picture())


def test_missing_gpu_is_reported(package, tmp_path):
    backend = made(model_path=put(tmp_path / "own"), device="cuda")
    with pytest.raises(BackendUnavailable, match="TensorFlow has no GPU"):
        segment(backend, picture())
