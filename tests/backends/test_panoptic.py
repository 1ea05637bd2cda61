from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codexseg.backends.base import Backend, SlideContext, WholeSlideBackend, slide_passes_of
from codexseg.backends.networks.onnx import OutOfMemory
from codexseg.backends.networks.runtime import open_network
from codexseg.backends.panoptic import backend as panoptic_backend
from codexseg.backends.panoptic.backend import Mesmer, Panoptic, segment_maps
from codexseg.backends.panoptic.image import MAPS, Image
from codexseg.backends.panoptic.parameters import MESMER
from codexseg.backends.slide_pass import InMemory
from codexseg.config.schema import SegmentationConfig
from codexseg.core.algorithms.deep_watershed import deep_watershed
from codexseg.core.grid import Window
from codexseg.errors import BackendUnavailable, ConfigError
from tests.helpers.mesmer import TOY, blobs, golden, panoptic, same_objects


def predict(image, mpp=0.5, **options):
    whole = Window(0, 0, *image.shape[1:])
    return panoptic(image.shape[1:], mpp, **options).predict(image[None], [whole])[0]


def surveyed(image, mpp=0.5, **options):
    backend, view = panoptic(image.shape[1:], mpp, **options), InMemory(image)
    for slide_pass in backend.slide_passes:
        view.execute(slide_pass)
    return backend, view


@pytest.mark.parametrize(
    ("image", "mpp", "expected"),
    [
        ("image", 0.5, "labels"),
        ("image_u16", 0.5, "labels_u16"),
        ("image", 0.377, "labels_0377"),
        ("image_u16", 0.65, "labels_u16_0650"),
    ],
)
def test_labels_equal_deepcell(image, mpp, expected):
    labels = predict(golden()[image], mpp)
    for found, reference in zip(labels, golden()[expected], strict=True):
        assert reference.max() > 50
        assert same_objects(found, reference)


def test_single_compartment_is_resized_like_deepcell():
    cells = predict(golden()["image"], 0.377, compartment="whole-cell")
    assert same_objects(cells[0], golden()["cells_0377"])
    assert not cells[1].any()
    nuclei = predict(golden()["image"], 0.65, compartment="nuclear")
    assert same_objects(nuclei[1], golden()["nuclei_0650"])
    assert not nuclei[0].any()


def test_image_smaller_than_a_tile_equals_deepcell():
    labels = predict(golden()["image"][:, :200, :200])
    for found, reference in zip(labels, golden()["labels_small"], strict=True):
        assert same_objects(found, reference)


def test_preprocessing_and_maps_equal_deepcell():
    for name in ("image", "image_u16"):
        pixels = golden()[name]
        whole = Window(0, 0, *pixels.shape[1:])
        _, view = surveyed(pixels)
        image = Image.of(view.shape, 0.5)
        expected = golden()[name.replace("image", "preprocessed")]
        assert np.array_equal(image.preprocessed(whole, view), expected)
        if name == "image":
            maps = image.maps(whole, MAPS, view)
            assert np.abs(maps - golden()["maps"]).max() < 1e-5


@pytest.mark.parametrize("shape", [(200, 400), (400, 100), (1, 300), (256, 700), (37, 9)])
def test_images_of_any_shape_are_accepted(shape):
    """deepcell fails where one axis only is shorter than a tile."""
    image = blobs(shape, density=1 / 200)
    labels = predict(image)
    assert labels.shape == (2, *shape)
    if min(shape) > 50:
        assert labels[0].max() > 20


@pytest.mark.slow
@pytest.mark.parametrize("mpp", [0.5, 0.3, 1.1])
@pytest.mark.parametrize("level", [0, 700])
def test_slide_without_contrast_has_no_cells(level, mpp):
    for dtype in (np.uint8, np.uint16, np.float32):
        image = np.full((2, 300, 280), level % 256 if dtype == np.uint8 else level, dtype)
        assert not predict(image, mpp).any()


def test_nuclei_are_segmented_without_a_membrane_channel():
    image = blobs((300, 300))
    image[1] = 0
    assert predict(image)[1].max() > 20


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 99),
    st.sampled_from([0.5, 0.325, 0.377, 0.8]),
    st.sampled_from([np.uint16, np.float32, np.uint8]),
    st.data(),
)
def test_window_has_the_objects_of_the_slide(seed, mpp, dtype, data):
    image = blobs((430, 520), seed)
    image = (image // 64 if dtype == np.uint8 else image).astype(dtype)
    backend, view = surveyed(image, mpp)
    whole = backend.segment_window(Window(0, 0, 430, 520), view)
    y0, x0 = data.draw(st.integers(0, 100)), data.draw(st.integers(0, 150))
    window = Window(y0, x0, y0 + 330, x0 + 370)
    part = backend.segment_window(window, view)
    margin = backend.context_px
    inner = [
        0 if edge in (0, end) else margin
        for edge, end in ((y0, 0), (x0, 0), (window.y1, 430), (window.x1, 520))
    ]
    core = np.s_[inner[0] : 330 - inner[2], inner[1] : 370 - inner[3]]
    for one, other in zip(part, whole[:, *window.slices], strict=True):
        # objects inside the margin, with their neighbours, are those of the slide
        inside = np.setdiff1d(np.unique(one[core]), np.unique(_outside(one, core)))
        for label in inside[inside > 0]:
            mask = one == label
            twins = np.unique(other[mask])
            assert len(twins) == 1
            assert np.array_equal(other == twins[0], mask)


def _outside(labels, core):
    left = labels.copy()
    left[core] = 0
    return left


@pytest.mark.slow
def test_tile_without_signal_is_not_predicted():
    image = blobs((700, 900), density=1 / 800)
    image[:, :, 300:] = 300
    backend = panoptic(image.shape[1:])

    class HalfEmpty(InMemory):
        def has_signal(self, window):
            return window.x0 < 300

    views = [InMemory(image), HalfEmpty(image)]
    tiles = []
    for view in views:
        for slide_pass in backend.slide_passes:
            if slide_pass.name == "network":
                visits = [
                    slide_pass.map_block(p, view).counts
                    for p in range(slide_pass.n_blocks(view))
                ]
                tiles.append(sum(v["tiles"] for v in visits))
            view.execute(slide_pass)
    assert tiles[1] < tiles[0]
    labels = [backend.segment_window(Window(0, 0, 700, 900), view) for view in views]
    assert np.array_equal(labels[0][:, :, :280], labels[1][:, :, :280])


def test_unverified_peak_grows_the_window():
    """A faint peak on a background that leads to a higher one, 300 px farther."""
    inner = np.full((400, 700), 0.006, np.float32)
    inner[:40, :40] = 0
    interior = np.zeros_like(inner)
    y, x = np.mgrid[:400, :700]
    for cy, cx, height in ((200, 150, 0.074), (200, 600, 0.9)):
        distance = np.hypot(y - cy, x - cx)
        inner += height * np.exp(-((distance / 6) ** 2)).astype(np.float32)
        interior[distance < 10] = 1

    def read(window):
        return np.stack([inner[window.slices], interior[window.slices]])

    whole, _ = segment_maps(read, inner.shape, Window(0, 0, 400, 700), MESMER[0], "raster")
    assert whole.max() == 1
    window = Window(0, 0, 400, 400)
    labels, seen = segment_maps(read, inner.shape, window, MESMER[0], "raster")
    assert seen.x1 > 500
    assert not labels[:, :300].any()
    crop, _ = deep_watershed(inner[window.slices], interior[window.slices], h=MESMER[0].h)
    assert crop[200, 150]  # a wrong object without growing


def test_slide_passes_do_not_depend_on_the_order_of_blocks(monkeypatch):
    monkeypatch.setattr("codexseg.backends.panoptic.image.PASS_BLOCK_PX", 256)
    monkeypatch.setattr("codexseg.core.algorithms.tiles.BLOCK_TILES", 2)
    image = blobs((700, 650)).astype(np.float32) / 7
    _, view = surveyed(image)

    class Backwards(InMemory):
        def keep(self, slide_pass):
            for piece in reversed(range(slide_pass.n_blocks(self))):
                self._found[slide_pass.name, piece] = slide_pass.map_block(
                    piece, self
                ).arrays
            self._concluded[slide_pass.name] = slide_pass.reduce(self)

    other = Backwards(image)
    backend = panoptic(image.shape[1:])
    for slide_pass in backend.slide_passes:
        other.execute(slide_pass)
    whole = Window(0, 0, 700, 650)
    assert np.array_equal(
        backend.segment_window(whole, view), backend.segment_window(whole, other)
    )


def test_labels_do_not_depend_on_the_size_of_blocks(monkeypatch):
    image = blobs((700, 650)).astype(np.float32) / 7
    whole = Window(0, 0, 700, 650)
    backend, view = surveyed(image)
    labels = backend.segment_window(whole, view)
    seen = Image.of((700, 650), 0.5).preprocessed(whole, view)
    monkeypatch.setattr("codexseg.backends.panoptic.image.PASS_BLOCK_PX", 256)
    backend, view = surveyed(image)
    assert np.array_equal(Image.of((700, 650), 0.5).preprocessed(whole, view), seen)
    assert np.array_equal(backend.segment_window(whole, view), labels)


@pytest.mark.slow
def test_out_of_memory_halves_the_batch_and_is_counted(monkeypatch):
    network = open_network(panoptic((9, 9))._weights)

    class Small:
        runtime, device, sizes = "onnxruntime", "cuda", []

        def predict(self, tiles):
            self.sizes.append(len(tiles))
            if len(tiles) > 1:
                raise OutOfMemory("CUDA out of memory")
            return network.predict(tiles)

    monkeypatch.setattr(panoptic_backend, "open_network", lambda *_: Small())
    image = blobs((500, 500))
    backend, view = surveyed(image, batch_memory_gb=1.0)
    assert Small.sizes[:4] == [8, 4, 2, 1]
    assert max(Small.sizes[4:]) == 1
    assert backend._batch.times_halved == 3
    monkeypatch.undo()
    expected = predict(image)
    assert same_objects(
        backend.segment_window(Window(0, 0, 500, 500), view)[0], expected[0]
    )


def test_out_of_memory_with_one_tile_is_reported(monkeypatch):
    class None_:
        runtime, device = "onnxruntime", "cuda"

        def predict(self, tiles):
            del tiles
            raise OutOfMemory("CUDA out of memory")

    monkeypatch.setattr(panoptic_backend, "open_network", lambda *_: None_())
    with pytest.raises(BackendUnavailable, match=r"segmentation.device to 'cpu'"):
        surveyed(blobs((300, 300)))


def test_halo_is_in_pixels_of_the_slide():
    fine, coarse = panoptic((900, 900), 0.25), panoptic((900, 900), 1.0)
    assert fine.halo_px == 2 * 128
    assert coarse.halo_px == 64
    assert fine.context_px == 128


def test_backend_fulfils_the_protocol():
    backend = panoptic((900, 900))
    assert isinstance(backend, Backend)
    assert isinstance(backend, WholeSlideBackend)
    assert [s.name for s in slide_passes_of(backend)] == [
        "levels",
        "caps",
        "contrast",
        "range",
        "network",
    ]
    assert not slide_passes_of(panoptic((900, 900), normalization="patch"))
    assert backend.fingerprint().startswith("panoptic-1-")
    assert backend.about["weights"] == "toy"
    assert backend.about["weights_verified"] is False
    assert backend.about["licence"] is None


def test_panoptic_without_model_path_is_refused():
    with pytest.raises(ConfigError, match="model_path"):
        Panoptic(SegmentationConfig(backend="panoptic"), SlideContext((300, 300), 0.5))


def test_missing_weights_of_mesmer_are_reported_with_the_command(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setenv("CODEXSEG_CACHE", str(tmp_path / "cache"))
    with pytest.raises(BackendUnavailable, match="codexseg models fetch mesmer"):
        Mesmer(SegmentationConfig(backend="mesmer"), SlideContext((300, 300), 0.5))


def test_mesmer_accepts_a_model_path():
    config = SegmentationConfig(backend="mesmer", model_path=TOY)
    assert Mesmer(config, SlideContext((300, 300), 0.5)).name == "mesmer"
