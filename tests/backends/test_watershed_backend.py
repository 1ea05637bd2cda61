from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from codexseg.backends.base import (
    Backend,
    ChannelStatistics,
    SlideContext,
    check_labels,
    context_px,
    is_paired,
)
from codexseg.backends.watershed import Watershed
from codexseg.core.algorithms.nuclei_watershed import WatershedOptions
from codexseg.core.grid import PatchGrid, Window
from codexseg.core.intensity.background import channel_statistics
from codexseg.errors import InputError


def statistics(channel):
    return ChannelStatistics(*channel_statistics(channel))


def backend(image, *, normalization="slide", has_wholecell=True, mpp=1.0, **options):
    config = SimpleNamespace(
        normalization=normalization, watershed=WatershedOptions(**options)
    )
    marker = statistics(image[1]) if has_wholecell else None
    slide = SlideContext(image.shape[1:], mpp, statistics(image[0]), marker, has_wholecell)
    return Watershed(config, slide)


def segment(made, image):
    return made.predict(image[None], [Window(0, 0, *image.shape[1:])])[0]


def tissue(seed, shape=(170, 190), count=150, offset=200):
    """Crowded nuclei of 3 to 4 px with membranes, an empty and a sparse region."""
    random = np.random.default_rng(seed)
    centres = random.uniform((0, 0), shape, (count, 2))
    dense = (centres[:, 1] < shape[1] / 2) | (random.random(count) < 0.1)
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    nucleus, marker = np.zeros(shape), np.zeros(shape)
    for y, x in centres[dense]:
        square = ((yy - y) ** 2 + (xx - x) ** 2) / random.uniform(2, 4) ** 2
        nucleus = np.maximum(nucleus, random.uniform(1, 9) * np.exp(-square / 1.5))
        marker += np.exp(-((np.sqrt(square) - 1.5) ** 2) * 4)
    image = np.stack([nucleus * 1000, marker * 500]) + offset
    return np.clip(image + random.normal(0, 20, image.shape), 0, 65535).astype(np.uint16)


def as_float(image):
    return image.astype(np.float32)


def same_objects(one, two):
    """Whether two label images are equal up to their numbers."""
    pairs = np.unique(np.stack([one.ravel(), two.ravel()]), axis=1)
    return all(len(np.unique(side)) == pairs.shape[1] for side in pairs) and (
        np.array_equal(one > 0, two > 0)
    )


def assert_patches_do_not_show(image, step, **options):
    whole_backend = backend(image, **options)
    whole = segment(whole_backend, image)
    halo = whole_backend.halo_px
    for patch in PatchGrid(image.shape[1:], step, (halo, halo)):
        outer = image[(slice(None), *patch.outer.slices)]
        labels = whole_backend.predict(outer[None], [patch.outer])[0]
        core = patch.core.within(patch.outer)
        for ours, theirs in zip(labels, whole, strict=True):
            truth = theirs[patch.outer.slices]
            assert same_objects(ours[core], theirs[patch.core.slices])
            ours = np.where(np.isin(ours, np.unique(ours[core])), ours, 0)
            truth = np.where(np.isin(truth, np.unique(truth[core])), truth, 0)
            assert same_objects(ours, truth)
    return whole


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(
    st.integers(0, 10**6),
    st.tuples(st.integers(37, 95), st.integers(37, 95)),
    st.sampled_from(["uint16", "float32", "uint8", "saturated", "few levels", "no marker"]),
)
def test_labels_do_not_depend_on_patches(seed, step, kind):
    image = tissue(seed)
    if kind == "float32":
        image = (image / np.float32(9000)).astype(np.float32)
    elif kind == "uint8":
        image = np.minimum(image >> 5, 255).astype(np.uint8)
    elif kind == "saturated":  # plateaus at 255 that span several nuclei
        image = np.minimum(image >> 2, 255).astype(np.uint8)
    elif kind == "few levels":
        image = (image >> 11).astype(np.uint8) * 40
    elif kind == "no marker":
        image[1] = 0
    assert_patches_do_not_show(image, step, has_wholecell=kind != "no marker")


def test_labels_do_not_depend_on_patches_on_a_lattice_of_ties():
    image = np.zeros((2, 150, 150), np.uint8)
    image[0, 4::7, 4::7] = image[0, 5::7, 4::7] = 255  # every saddle equals every other
    image[0, 60:75, 20:35] = 255
    whole = assert_patches_do_not_show(
        image, (37, 41), min_nucleus_area_um2=1, nucleus_diameter_um=6.5
    )
    assert whole.max() > 100


def test_labels_do_not_depend_on_patches_at_another_resolution():
    assert_patches_do_not_show(tissue(5), (60, 71), mpp=0.9, expansion_um=3.0)


def test_backend_fulfils_the_protocol():
    image = tissue(1)
    made = backend(image)
    labels = made.predict(np.stack([image, image[:, ::-1]]), [Window(0, 0, 170, 190)] * 2)
    assert isinstance(made, Backend)
    assert check_labels(labels, labels.shape, made.name) is labels
    assert made.channels == ("nucleus", "wholecell")
    assert made.mpp is None
    assert not is_paired(made)
    assert is_paired(backend(image, has_wholecell=False))
    assert backend(image, has_wholecell=False).channels == ("nucleus",)
    assert made.fingerprint() == "watershed-1"


def test_halo_follows_resolution_and_sizes():
    image = tissue(1)
    fine, coarse = backend(image, mpp=0.25), backend(image, mpp=1.0)
    large = backend(image, mpp=1.0, nucleus_diameter_um=16.0)
    assert fine.context_px == pytest.approx(4 * coarse.context_px, abs=8)
    assert large.context_px > 1.7 * coarse.context_px
    assert context_px(coarse) == coarse.context_px
    assert coarse.halo_px == coarse.context_px + 2 * 27  # 3 x 8 um + 2 x 1.5 um


def test_cells_contain_their_nuclei_under_the_same_label():
    cells, nuclei = segment(backend(tissue(2)), tissue(2))
    assert nuclei.max() > 20
    assert np.array_equal(cells[nuclei > 0], nuclei[nuclei > 0])
    assert np.array_equal(np.unique(cells), np.arange(nuclei.max() + 1))
    assert (cells > 0).sum() > (nuclei > 0).sum()


def test_cells_are_expanded_by_the_configured_distance():
    cells, nuclei = segment(backend(tissue(2), expansion_um=2.5), tissue(2))
    distance = ndimage.distance_transform_edt(nuclei == 0)
    assert np.array_equal(cells > 0, distance <= 2.5)


def test_nuclei_are_connected_and_have_the_minimum_area():
    _, nuclei = segment(backend(tissue(3), min_nucleus_area_um2=15.0), tissue(3))
    assert np.bincount(nuclei.ravel())[1:].min() >= 15
    for label in range(1, nuclei.max() + 1):
        assert ndimage.label(nuclei == label)[1] == 1


def test_noise_is_not_a_nucleus():
    image = np.random.default_rng(0).normal(300, 60, (2, 200, 200)).astype(np.uint16)
    for normalization in ("slide", "patch"):
        assert not segment(backend(image, normalization=normalization), image).any()


@pytest.mark.parametrize("normalization", ["slide", "patch"])
@pytest.mark.parametrize("value", [0, 7, 255])
def test_constant_patch_has_no_objects(normalization, value):
    image = np.full((2, 40, 50), value, np.uint8)
    assert not segment(backend(image, normalization=normalization), image).any()


def test_constant_patch_of_a_slide_with_signal_has_no_objects():
    made = backend(tissue(1))
    assert not segment(made, np.full((2, 90, 90), 200, np.uint16)).any()
    assert not segment(made, np.full((2, 90, 90), 60000, np.uint16)).any()


def test_patch_normalisation_equals_slide_normalisation_on_the_whole_slide():
    image = tissue(4)
    assert np.array_equal(
        segment(backend(image), image),
        segment(backend(image, normalization="patch"), image),
    )


def test_patch_normalisation_segments_dim_patches_of_a_bright_slide():
    image = tissue(4)
    slide = backend(np.concatenate([image, image * 7], axis=2))
    patch = backend(image, normalization="patch")
    assert segment(patch, image).max() > segment(slide, image).max()


def test_tissue_without_glass_around_it_keeps_its_nuclei():
    image = tissue(9)
    dense = image[:, :, :90]
    alone = segment(backend(dense), dense).max()
    assert alone == pytest.approx(
        len(np.unique(segment(backend(image), image)[0, :, :90])), rel=0.1
    )


def test_labels_do_not_depend_on_gain():
    dim = tissue(6) >> 2
    for image, other in ((dim, dim * 4), (as_float(dim), as_float(dim) / 4096)):
        assert np.array_equal(
            segment(backend(image), image), segment(backend(other), other)
        )


def test_floats_are_segmented_like_integers():
    """Their P99.9 is known to 0.8 %, so pixels may differ."""
    image = tissue(6)
    integer = segment(backend(image), image)
    real = segment(backend(as_float(image)), as_float(image))
    assert (integer > 0).sum() == pytest.approx((real > 0).sum(), rel=0.01)
    assert integer.max() == pytest.approx(real.max(), rel=0.03)


def test_zero_wholecell_channel_has_no_effect():
    image = tissue(7)
    image[1] = 0
    alone = segment(backend(image, has_wholecell=False), image)
    assert np.array_equal(segment(backend(image), image), alone)


def test_nuclei_rarer_than_the_percentile_are_segmented():
    image = np.full((2, 300, 300), 100, np.uint16)
    yy, xx = np.mgrid[:300, :300]
    image[0][(yy - 70) ** 2 + (xx - 200) ** 2 < 16] = 5000
    assert segment(backend(image), image).max() == 1


def test_missing_statistics_are_reported_with_the_remedy():
    config = SimpleNamespace(normalization="slide", watershed=WatershedOptions())
    made = Watershed(config, SlideContext((50, 50), 0.5))
    with pytest.raises(InputError, match="normalization to 'patch'"):
        made.predict(np.zeros((1, 2, 50, 50), np.uint16), [Window(0, 0, 50, 50)])
