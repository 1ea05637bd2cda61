import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage as ndi

from codexseg.backends.base import SlideContext, WholeSlideBackend
from codexseg.backends.slide_pass import BlockResult, InMemory
from codexseg.backends.tiled.backend import (
    SignalLevels,
    Tiled,
    scaling_ends,
    stretch_percentiles,
)
from codexseg.backends.tiled.merge import merge_tiles
from codexseg.config.schema import SegmentationConfig
from codexseg.core.grid import PatchGrid, Window
from tests.helpers.drawing import draw


class Blobs(Tiled):
    """Connected pixels above a half; it notes the tiles that it is given."""

    name = "blobs"
    percents = (0.0, 100.0)
    tile_core_px = 40
    margin_px = 16
    largest_px = 16

    def __init__(self, shape, pixel=0.5, *, settings=None, **attributes):
        for name, value in attributes.items():
            setattr(self, name, value)
        self.seen = []
        super().__init__(SegmentationConfig(**(settings or {})), SlideContext(shape, pixel))

    @property
    def about(self):
        return {}

    def fingerprint(self):
        return "blobs-1"

    def segment(self, channels):
        self.seen.append(channels)
        nucleus, wholecell = channels
        empty = np.zeros(next(c for c in channels if c is not None).shape, np.float32)
        found = [
            ndi.label(empty if c is None else c > 0.5)[0] for c in (wholecell, nucleus)
        ]
        return np.stack(found).astype(np.uint32), "cpu"


def discs(seed, shape=(120, 130), count=60, radius=(2, 7)):
    """Discs with gaps between them, each nucleus inside of its cell."""
    random = np.random.default_rng(seed)
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    image, taken = np.zeros((2, *shape), np.uint16), np.zeros(shape, bool)
    for y, x, r in zip(
        random.uniform(0, shape[0], count),
        random.uniform(0, shape[1], count),
        random.uniform(*radius, count),
        strict=True,
    ):
        far = np.hypot(yy - y, xx - x)
        if not taken[far < r + 2].any():
            taken |= far < r
            image[1][far < r] = 800
            image[0][far < max(1.5, r - 2)] = 500
    return image


def view_of(backend, image):
    view = InMemory(image)
    for slide_pass in backend.slide_passes:
        view.execute(slide_pass)
    return view


def same_objects(one, two):
    pairs = np.unique(np.stack([one.ravel(), two.ravel()]), axis=1)
    return np.array_equal(one > 0, two > 0) and all(
        len(np.unique(side)) == pairs.shape[1] for side in pairs
    )


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(0, 60),
    st.integers(0, 60),
    st.integers(20, 70),
    st.integers(20, 70),
)
def test_labels_do_not_depend_on_tiles(seed, y, x, height, width):
    image = discs(seed)
    backend = Blobs(image.shape[1:])
    view = view_of(backend, image)
    window = Window(y, x, min(120, y + height), min(130, x + width))
    labels = backend.segment_window(window, view)
    for plane, channel in ((0, 1), (1, 0)):
        truth = ndi.label(image[channel] > 0)[0][window.slices]
        assert same_objects(labels[plane], truth)


def test_object_in_four_tiles_is_joined():
    image = np.zeros((2, 90, 90), np.uint16)
    image[:, 35:46, 34:47] = 900
    backend = Blobs((90, 90))
    labels = backend.segment_window(Window(0, 0, 90, 90), view_of(backend, image))
    assert len(backend.seen) == 9
    assert labels.max() == 1
    assert np.array_equal(labels > 0, image > 0)


class Found:
    """Labels of tiles, by number."""

    def __init__(self, **found):
        self.by_number = {int(name[1:]): labels for name, labels in found.items()}

    def block_result(self, slide_pass, piece):
        assert slide_pass == "tiles"
        return {"labels": self.by_number[piece]} if piece in self.by_number else {}


def test_tiles_that_disagree_keep_their_pixels():
    tiles = PatchGrid((2, 8), (2, 4), (0, 2))  # two tiles of 6 columns, 4 of them shared
    left = draw("111122 333300")
    right = draw("112222 000044")
    found = Found(t0=np.stack([left, left]), t1=np.stack([right, right]))
    labels = merge_tiles(tiles, Window(0, 0, 2, 8), found, (0,))
    # in the strip: left 1 1 2 2, right 1 1 2 2: both agree; 3 is cut off at the core
    assert labels.tolist() == [draw("11112222 33330044").tolist()]


def test_planes_with_shared_labels_follow_the_first():
    tiles = PatchGrid((2, 8), (2, 4), (0, 2))
    cells, nuclei = draw("111111 111111"), draw("110000 000000")
    other = draw("777777 777777"), draw("000770 000000")
    found = Found(t0=np.stack([cells, nuclei]), t1=np.stack(other))
    cells, nuclei = merge_tiles(tiles, Window(0, 0, 2, 8), found, (0, 1))
    assert (cells == 1).all()
    assert nuclei.tolist() == draw("11000110 00000000").tolist()


def test_tiles_without_objects_give_zeros():
    tiles = PatchGrid((20, 30), (10, 10), (4, 4))
    labels = merge_tiles(tiles, Window(3, 3, 9, 30), Found(), (0, 1))
    assert labels.shape == (2, 6, 27)
    assert not labels.any()


def test_expanded_cells_do_not_depend_on_windows():
    image = discs(3)
    backend = Blobs((120, 130), planes=((1,),), expansion_px=3.0)
    view = view_of(backend, image)
    whole = backend.segment_window(Window(0, 0, 120, 130), view)
    part = backend.segment_window(Window(20, 30, 90, 100), view)
    assert backend.paired
    assert (whole[0] > 0).sum() > 1.3 * (whole[1] > 0).sum()
    assert np.array_equal(whole[0][whole[1] > 0], whole[1][whole[1] > 0])
    for plane in range(2):
        assert same_objects(part[plane], whole[plane][20:90, 30:100])


def test_labels_at_another_pixel_size():
    image = discs(1, (60, 65), 25)
    fine = np.repeat(np.repeat(image, 2, axis=1), 2, axis=2)
    backend = Blobs(fine.shape[1:], 0.25)
    assert backend.halo_px == 16  # no size of its own: nothing is resized
    backend = Blobs(fine.shape[1:], 0.25, mpp=0.5)
    labels = backend.segment_window(Window(0, 0, 120, 130), view_of(backend, fine))
    assert backend.halo_px == 32
    assert backend.seen[0][0].shape == (56, 56)
    truth = ndi.label(fine[1])[0]
    assert len(np.unique(labels[0])) == pytest.approx(len(np.unique(truth)), abs=2)


def test_slide_normalisation_uses_squares_with_signal():
    class Glass(InMemory):
        def has_signal(self, window):
            return window.x0 < 256

    image = np.full((2, 100, 600), 7, np.uint16)
    image[:, :, :256] = np.arange(256)
    slide_pass = SignalLevels(Blobs((100, 600))._image((100, 600)))
    view = Glass(image)
    view.execute(slide_pass)
    found = view.summary("levels")
    assert found["counts"].sum() == 2 * 100 * 256
    assert scaling_ends(found, (0.0, 100.0)) == ((0.0, 255.0), (0.0, 255.0))


def test_tiles_without_signal_are_not_segmented():
    class Empty(InMemory):
        def has_signal(self, window):
            return False

    image, backend = discs(0), Blobs((120, 130))
    view = Empty(image)
    for slide_pass in backend.slide_passes:
        view.execute(slide_pass)
    assert not backend.segment_window(Window(0, 0, 120, 130), view).any()
    assert backend.seen == []


def test_channel_without_contrast_is_none():
    image = discs(0)
    image[1] = 12
    backend = Blobs((120, 130))
    labels = backend.segment_window(Window(0, 0, 120, 130), view_of(backend, image))
    assert all(wholecell is None for _, wholecell in backend.seen)
    assert not labels[0].any()
    assert labels[1].any()


def test_percentiles_become_0_and_1_without_clipping():
    unit = stretch_percentiles(np.array([[0, 100, 300, 500]], np.uint16), 100.0, 300.0)
    assert unit.dtype == np.float32
    assert unit.tolist() == [[-0.5, 0.0, 1.0, 2.0]]


def test_patch_normalisation_has_no_slide_passes_and_a_context():
    slide, patch = (
        Blobs((50, 50), settings={"normalization": n}) for n in ("slide", "patch")
    )
    assert isinstance(slide, WholeSlideBackend)
    assert [slide_pass.name for slide_pass in slide.slide_passes] == ["levels", "tiles"]
    assert not patch.slide_passes
    assert (slide.context_px, slide.halo_px) == (0, 16)
    assert (patch.context_px, patch.halo_px) == (16, 32)


def test_slide_pass_counts_tiles_and_notes_the_device():
    image, backend = discs(0), Blobs((120, 130))
    view = view_of(backend, image)
    found = backend.slide_passes[1].map_block(0, view)
    assert isinstance(found, BlockResult)
    assert found.arrays["labels"].shape == (2, 56, 56)
    assert dict(found.counts) == {"tiles": 1, "tiles_without_signal": 0}
    assert dict(found.notes) == {"device": "cpu"}
