"""Contract of codexseg.backends.base, tested for every built-in backend."""

import json
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codexseg.backends.base import (
    Backend,
    ChannelStatistics,
    SlideContext,
    WholeSlideBackend,
    check_labels,
    context_px,
    is_paired,
    slide_passes_of,
)
from codexseg.backends.registry import BACKENDS, create, spec_of
from codexseg.backends.slide_pass import InMemory
from codexseg.config.schema import SegmentationConfig
from codexseg.core.grid import Window
from codexseg.core.intensity.background import channel_statistics
from codexseg.errors import BackendUnavailable
from codexseg.samples.tissue import Tissue
from tests.backends.test_unet import BOTH, write_unet
from tests.helpers.networks import TOY_ONNX, TOY_SAVED_MODEL

SHAPE = (190, 210)
MPP = 0.5


@dataclass(frozen=True)
class Kind:
    """Expected properties of a backend."""

    settings: dict[str, Any] = field(default_factory=dict)
    any_channels: bool = True  # it works without a whole-cell channel
    takes_patches: bool = False  # it is shown patches, not the slide
    min_found: int = 20  # objects of the tissue below, of a network that was trained


KINDS = {
    "watershed": Kind(),
    "embedded": Kind(),
    "panoptic": Kind({"model_path": TOY_ONNX}, min_found=1),
    "mesmer": Kind({"model_path": TOY_ONNX}, min_found=1),
    "deepcell": Kind({"model_path": TOY_SAVED_MODEL}, takes_patches=True, min_found=1),
    "unet": Kind(any_channels=False, min_found=1),
}


@cache
def tissue(size=SHAPE):
    window = Window(400, 400, 400 + size[0], 400 + size[1])
    pixels = Tissue((1024, 1024), 3, mpp=MPP).render(window).pixels[:2]
    return np.ascontiguousarray(pixels)


@pytest.fixture(scope="module", params=sorted(spec.name for spec in BACKENDS))
def name(request):
    return request.param


@pytest.fixture(scope="module")
def kind(name, tmp_path_factory):
    kind = KINDS.get(name, Kind())
    if name == "unet":
        path = write_unet(tmp_path_factory.mktemp("unet") / "net.onnx", BOTH)
        kind = replace(kind, settings={"model_path": path})
    return kind


@pytest.fixture(scope="module")
def make(name, kind):
    """Make the backend for an image; skip where it is not installed."""

    def made(image, mpp=MPP, *, has_wholecell=True, **settings):
        levels = [ChannelStatistics(*channel_statistics(channel)) for channel in image]
        wholecell = levels[1] if has_wholecell else None
        slide = SlideContext(image.shape[1:], mpp, levels[0], wholecell, has_wholecell)
        config = SegmentationConfig(backend=name, **{**kind.settings, **settings})
        try:
            return create(config, slide)
        except BackendUnavailable as error:
            pytest.skip(str(error))

    return made


@pytest.fixture(scope="module")
def backend(make):
    return make(tissue())


def predict(backend, image):
    labels = backend.predict(image[None], [Window(0, 0, *image.shape[1:])])
    assert check_labels(labels, (1, *image.shape), backend.name) is labels
    return labels[0]


def surveyed(backend, image):
    view = InMemory(image)
    for slide_pass in slide_passes_of(backend):
        view.execute(slide_pass)
    return view


def on_slide(backend, image, window, view=None):
    """Segment a window of a slide as the segment stage does."""
    if not slide_passes_of(backend):
        return predict(backend, np.ascontiguousarray(image[:, *window.slices]))
    return backend.segment_window(window, view or surveyed(backend, image))


@pytest.fixture(scope="module")
def found(backend):
    return on_slide(backend, tissue(), Window(0, 0, *SHAPE))


def counts(labels):
    return [np.unique(plane[plane > 0]).size for plane in labels]


def test_backend_has_the_attributes_of_the_protocol(name, backend):
    assert isinstance(backend, Backend)
    assert backend.name == name
    assert backend.mpp is None or backend.mpp > 0
    assert type(backend.halo_px) is int
    assert 0 <= context_px(backend) <= backend.halo_px
    assert backend.channels in (("nucleus",), ("nucleus", "wholecell"))
    assert isinstance(backend, WholeSlideBackend) or not slide_passes_of(backend)


def test_fingerprint_is_stable_and_a_valid_file_name(make, backend):
    one, other = make(tissue()), make(tissue()[:, :100])
    assert one.fingerprint() == other.fingerprint() == backend.fingerprint()
    assert backend.fingerprint().replace("-", "").replace(".", "").isalnum()


def test_about_is_json(name, backend):
    about = getattr(backend, "about", {})
    assert json.loads(json.dumps(about)) == about
    if spec_of(name).in_fingerprint:
        assert {"weights", "licence"} <= set(about)
    if "weights_path" in about:
        assert all(Path(path).exists() for path in about["weights_path"].split(", "))
        assert len(about["weights_digest"].split(", ")[0]) == 64


@pytest.mark.slow
def test_labels_have_the_shape_and_dtype_of_the_contract(kind, found):
    assert found.shape == (2, *SHAPE)
    assert found.dtype == np.uint32
    assert min(counts(found)) >= kind.min_found
    assert (found == 0).any()


@pytest.mark.slow
def test_labels_are_reproducible_and_the_image_is_unchanged(backend, found):
    image = tissue().copy()
    image.flags.writeable = False
    again = on_slide(backend, image, Window(0, 0, *SHAPE))
    assert np.array_equal(again, found)
    assert np.array_equal(image, tissue())


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_uint8_and_float32_are_accepted(make, dtype):
    image = tissue()[:, :96, :110]
    top = 255 if dtype == "uint8" else 1
    image = (image / image.max((1, 2), keepdims=True) * top).astype(dtype)
    labels = predict(make(image), image)
    assert labels.shape == image.shape


@pytest.mark.slow
@pytest.mark.parametrize("level", [0, 300])
def test_constant_image_has_no_objects(make, level):
    image = np.full((2, 80, 90), level, np.uint16)
    backend = make(image)
    assert not on_slide(backend, image, Window(0, 0, 80, 90)).any()
    assert not predict(backend, image).any()


def test_zero_patches_give_empty_labels(backend):
    labels = backend.predict(np.zeros((0, 2, 64, 70), np.uint16), [])
    assert labels.shape == (0, 2, 64, 70)


@pytest.mark.slow
def test_nuclei_are_segmented_without_a_wholecell_channel(kind, make):
    if not kind.any_channels:
        pytest.skip("this network needs a whole-cell channel")
    image = tissue().copy()
    image[1] = 0
    backend = make(image, has_wholecell=False)
    labels = on_slide(backend, image, Window(0, 0, *SHAPE))
    assert counts(labels)[1] >= kind.min_found
    assert_pairs(backend, labels)


def assert_pairs(backend, labels):
    if is_paired(backend):
        cells, nuclei = labels
        assert np.array_equal(cells[nuclei > 0], nuclei[nuclei > 0])


def test_paired_labels_are_one_cell(backend, found):
    assert_pairs(backend, found)


@pytest.mark.slow
@pytest.mark.parametrize("normalization", ["slide", "patch"])
def test_patches_of_a_batch_are_independent(make, normalization):
    image = tissue()[:, :100, :120]
    batch = np.stack([image, image[:, ::-1]])
    backend = make(image, normalization=normalization)
    labels = backend.predict(batch, [Window(0, 0, 100, 120)] * 2)
    for patch, both in zip(batch, labels, strict=True):
        assert np.array_equal(predict(backend, np.ascontiguousarray(patch)), both)


def test_window_has_the_objects_of_the_slide(kind, make):
    if kind.takes_patches:
        pytest.skip("each patch is an image of its own")
    image = tissue((420, 300))
    backend = make(image)
    view = surveyed(backend, image)
    whole = on_slide(backend, image, Window(0, 0, 420, 300), view)
    for window in (Window(0, 0, 330, 300), Window(101, 0, 420, 290)):
        part = on_slide(backend, image, window, view)
        margin = context_px(backend)
        inner = Window(
            window.y0 + margin * (window.y0 > 0),
            0,
            window.y1 - margin * (window.y1 < 420),
            window.x1 - margin * (window.x1 < 300),
        )
        for ours, theirs in zip(part, whole, strict=True):
            assert_same_objects(
                ours[inner.within(window)], theirs[inner.slices], ours, theirs
            )


def assert_same_objects(ours, theirs, all_ours, all_theirs):
    """The same where nothing is cut off: objects that reach out of it are left out."""
    edge = np.ones(ours.shape, bool)
    edge[1:-1, 1:-1] = False
    out_ours, out_theirs = np.unique(ours[edge]), np.unique(theirs[edge])
    mine = ~np.isin(ours, out_ours) & (ours > 0)
    other = ~np.isin(theirs, out_theirs) & (theirs > 0)
    assert all_ours.max() > 0
    assert all_theirs.max() > 0
    assert np.array_equal(mine, other)
    pairs = np.unique(np.stack([ours[mine], theirs[mine]]), axis=1)
    assert all(len(np.unique(side)) == pairs.shape[1] for side in pairs)


@pytest.mark.slow
def test_cell_count_does_not_depend_on_pixel_size(kind, make, found):
    fine = np.repeat(np.repeat(tissue(), 2, axis=1), 2, axis=2)
    backend = make(fine, MPP / 2)
    assert backend.halo_px >= make(tissue()).halo_px
    labels = on_slide(backend, fine, Window(0, 0, *fine.shape[1:]))
    if backend.mpp is not None and kind.min_found > 1:
        assert counts(labels) == pytest.approx(counts(found), rel=0.3)
    assert labels.shape == fine.shape
