"""The embedded network: properties, and agreement with its card."""

import hashlib
import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from scipy import ndimage as ndi

import codexseg
from codexseg.backends.base import SlideContext
from codexseg.backends.networks.weights import EMBEDDED, resolve_weights
from codexseg.backends.panoptic.backend import Embedded
from codexseg.backends.panoptic.parameters import MESMER, params_of
from codexseg.config.schema import Config, SegmentationConfig
from codexseg.core.grid import Window
from codexseg.core.labels.overlaps import overlaps
from codexseg.core.metrics.objects import count_matches, object_pairs
from codexseg.errors import ConfigError
from codexseg.samples.tissue import MARKERS, Tissue

CARD = EMBEDDED.with_name("CARD.md").read_text("utf-8")
MEMBRANES = [MARKERS.index(name) + 1 for name in ("PANCK", "CD45")]


def segment(image, mpp=0.5):
    shape = image.shape[1:]
    backend = Embedded(SegmentationConfig(), SlideContext(shape, mpp))
    return backend.predict(image[None], [Window(0, 0, *shape)])[0]


def f1(truth, found):
    return count_matches(object_pairs(overlaps(truth, found)), 0.5).f1


@pytest.fixture(scope="module")
def scene():
    # half a millimetre of tissue from a slide of which the network has seen nothing
    size = 4096
    tissue = Tissue((size, size), seed=2**31 + 5, mpp=0.5)
    return tissue.render(Window(1500, 1500, 2100, 2100))


def test_embedded_is_the_default_backend():
    assert Config().segmentation.backend == "embedded"


def test_card_has_the_digest_of_the_network():
    digest = hashlib.sha256(EMBEDDED.read_bytes()).hexdigest()
    assert digest in CARD
    assert EMBEDDED.stat().st_size <= 5e6
    assert re.search(r"\b\d{3},\d{3} parameters", CARD)


def test_network_is_part_of_the_wheel():
    assert EMBEDDED.is_relative_to(Path(codexseg.__file__).parent)


def test_network_accepts_batches_of_any_size():
    session = onnxruntime.InferenceSession(EMBEDDED, providers=["CPUExecutionProvider"])
    (tiles,) = session.get_inputs()
    for n in (1, 3):
        maps = session.run(None, {tiles.name: np.zeros((n, 256, 256, 2), np.float32)})
        assert [m.shape for m in maps] == [(n, 256, 256, c) for c in (1, 3, 1, 3)]
        for classes in maps[1::2]:
            np.testing.assert_allclose(classes.sum(-1), 1, atol=1e-5)


def test_network_has_licence_and_parameters():
    weights = resolve_weights(EMBEDDED)
    assert weights.name == "embedded"
    assert "Apache-2.0" in weights.licence
    assert params_of(weights) != MESMER
    about = Embedded(SegmentationConfig(), SlideContext((64, 64), 0.5)).about
    assert about["weights_digest"] == weights.digest


def test_model_path_is_refused():
    config = SegmentationConfig(model_path="other.onnx")
    with pytest.raises(
        ConfigError, match=r"other\.onnx, and .* has its own weights.*'panoptic'"
    ):
        Embedded(config, SlideContext((64, 64), 0.5))


@pytest.mark.slow
@pytest.mark.parametrize("mpp", [0.5, 0.377])
def test_cells_and_nuclei_are_segmented(scene, mpp):
    image = np.stack([scene.pixels[0], scene.pixels[MEMBRANES].max(axis=0)])
    cells, nuclei = scene.cells, scene.nuclei
    if mpp != 0.5:
        zoom = 0.5 / mpp
        image = ndi.zoom(image, (1, zoom, zoom), order=1)
        cells, nuclei = (ndi.zoom(labels, zoom, order=0) for labels in (cells, nuclei))
    found = segment(image, mpp)
    assert f1(cells, found[0]) > 0.6
    assert f1(nuclei, found[1]) > 0.7


def test_cells_are_segmented_without_a_membrane_channel(scene):
    image = np.stack([scene.pixels[0], np.zeros_like(scene.pixels[0])])
    cells, nuclei = segment(image)
    assert f1(scene.nuclei, nuclei) > 0.7
    assert np.count_nonzero(nuclei[cells > 0]) > 0.9 * np.count_nonzero(nuclei)
    assert 0.8 < cells.max() / nuclei.max() < 1.25


def test_dark_image_has_no_objects():
    assert not segment(np.zeros((2, 300, 300), np.uint16)).any()
