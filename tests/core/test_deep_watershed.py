import os
from pathlib import Path

import numpy as np
import pytest
import skimage
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from skimage.measure import euler_number, label, regionprops
from skimage.morphology import disk
from skimage.morphology import h_maxima as skimage_h_maxima
from skimage.segmentation import watershed

from codexseg.core.algorithms.deep_watershed import (
    deep_watershed,
    euler_numbers,
    fill_holes,
    remove_small_objects,
)
from codexseg.core.algorithms.flood import flood
from codexseg.core.algorithms.h_maxima import h_maxima
from codexseg.errors import InputError
from tests.helpers.drawing import draw

GOLDEN = Path(__file__).parents[1] / "data" / "mesmer" / "golden.npz"
SHARED = Path(os.environ.get("CODEXSEG_SHARED", Path(__file__).parents[3] / "shared"))
CELL_H, NUCLEUS_H = 0.075, 0.1

# deepcell uses 0.25.2. The flooding order of 0.25.0, 0.25.1 and older versions can differ.
modern_watershed = pytest.mark.skipif(
    tuple(int(part) for part in skimage.__version__.split(".")[:2]) < (0, 26)
    and skimage.__version__ != "0.25.2",
    reason="scikit-image's watershed can differ before 0.25.2",
)
few = settings(max_examples=60, deadline=None)


@st.composite
def maps(draw, side=40, least=1):
    """Draw smooth, rough and quantized maps with large, small and negative values."""
    shape = draw(st.integers(least, side)), draw(st.integers(least, side))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    image = random.normal(size=shape)
    image = ndimage.gaussian_filter(image, draw(st.sampled_from([0, 0.7, 1.5, 3])))
    image = image / max(np.abs(image).max(), 1e-9)
    steps = draw(st.sampled_from([0, 3, 8, 40]))
    if steps:
        image = np.round(image * steps) / steps
    image = np.maximum(image, draw(st.sampled_from([-1, 0, 0.3])))
    noise = draw(st.sampled_from([0, 0, 1e-6, 3e-7, 1e-4]))
    image = image + noise * random.uniform(-1, 1, size=shape)
    return (image * draw(st.sampled_from([1, 0.5, 0.12, 100]))).astype(np.float32)


def discs(*centres, shape=(40, 60), radius=9.0):
    """Return the inner distance and interior of discs, like the output of a network."""
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    near = np.min([np.hypot(yy - y, xx - x) for y, x in centres], axis=0)
    inner = np.maximum(1 - near / radius, 0).astype(np.float32)
    return inner, np.clip((radius - near) / 3, 0, 1).astype(np.float32)


def maxima_of(image, h):
    return h_maxima(image, h)[0]


def labels_of(*maps, **options):
    return deep_watershed(*maps, **options)[0]


# --- maxima


@few
@given(maps(), st.sampled_from([CELL_H, NUCLEUS_H, 0.3, 1e-4]))
def test_h_maxima_equal_scikit_image(image, h):
    expected = skimage_h_maxima(image, h, footprint=disk(2))
    assert np.array_equal(maxima_of(image, h), expected)


def test_ripple_below_h_on_a_slope_is_no_maximum():
    image = np.array([[0, 0.5, 0.45, 1.0, 0.2, 0.1, 0.0, 0.3, 0.0]], np.float32)
    found = maxima_of(image, 0.1)
    assert np.flatnonzero(found).tolist() == [3, 7]
    assert np.flatnonzero(maxima_of(image, 0.4)).tolist() == [3]


def test_pixel_can_reject_a_maximum_and_not_a_slightly_higher_one():
    image = np.zeros((5, 7), np.float32)
    image[2, 2:5] = 0.5, 0.5 + 5e-7, 0.5 + 1.2e-6
    found = maxima_of(image, NUCLEUS_H)
    assert np.array_equal(found, skimage_h_maxima(image, NUCLEUS_H, footprint=disk(2)))
    assert np.argwhere(found).tolist() == [[2, 3], [2, 4]]


def test_h_above_the_range_gives_no_maximum():
    assert not maxima_of(np.full((5, 6), 0.7, np.float32), CELL_H).any()
    assert maxima_of(np.zeros((0, 4), np.float32), CELL_H).shape == (0, 4)


def test_large_plateau_below_a_distant_peak_has_no_maximum():
    image = np.zeros((400, 400), np.float32)
    image[:, :200] = 0.05  # all pixels of the plateau search for the same peak
    image[399, 399] = 1
    assert np.argwhere(maxima_of(image, CELL_H)).tolist() == [[399, 399]]


# --- maxima of a window


@st.composite
def windows(draw, shape, least=1):
    """Draw a window as slices, and which of (top, left, bottom, right) are cut."""
    ends = []
    for size in shape:
        start = draw(st.one_of(st.just(0), st.integers(0, size - least)))
        stop = draw(st.one_of(st.just(size), st.integers(start + least, size)))
        ends.append((start, stop))
    (y0, y1), (x0, x1) = ends
    cut = (y0 > 0, x0 > 0, y1 < shape[0], x1 < shape[1])
    return np.s_[y0:y1, x0:x1], cut


def joined(image, pixel, h):
    """Return the pixels connected to a pixel by pixels less than h below it.

    Dilates step by step, because binary_propagation of scipy crashes if the image is
    smaller than the disk.
    """
    found = np.zeros(image.shape, bool)
    found[pixel] = True
    near = image[pixel] - image < np.float32(h)
    while True:
        wider = ndimage.binary_dilation(found, disk(2)) & near
        if np.array_equal(wider, found):
            return found
        found = wider


def at_cut_edge(shape, cut):
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    near = np.stack([yy < 2, xx < 2, yy >= shape[0] - 2, xx >= shape[1] - 2])
    return near[np.array(cut)].any(axis=0)


@settings(max_examples=150, deadline=None)
@given(maps(), st.data(), st.sampled_from([CELL_H, NUCLEUS_H, 0.3]))
def test_certain_maxima_of_a_window_equal_those_of_the_image(image, data, h):
    window, cut = data.draw(windows(image.shape))
    found, doubtful = h_maxima(image[window], h, cut)
    whole = maxima_of(image, h)[window]
    assert np.array_equal(found & ~doubtful, whole & ~doubtful)
    assert not np.any(whole & ~found)
    assert not np.any(doubtful & ~found)


@few
@given(maps(), st.data(), st.sampled_from([CELL_H, NUCLEUS_H]))
def test_maxima_are_doubtful_if_connected_pixels_reach_a_cut_edge(image, data, h):
    cut = data.draw(st.tuples(*[st.booleans()] * 4))
    found, doubtful = h_maxima(image, h, cut)
    if np.ptp(image) >= np.float32(h):
        assert np.array_equal(found, maxima_of(image, h))
    edge = at_cut_edge(image.shape, cut)
    for pixel in np.argwhere(found)[:20]:
        expected = np.any(joined(image, tuple(pixel), h) & edge)
        assert doubtful[tuple(pixel)] == expected


def test_window_without_cut_edges_has_no_doubtful_maxima():
    inner, _ = discs((20, 20), (20, 34))
    found, doubtful = h_maxima(inner, CELL_H, (False,) * 4)
    assert np.array_equal(found, maxima_of(inner, CELL_H))
    assert not doubtful.any()
    assert [part.shape for part in h_maxima(inner[:0], CELL_H, (True,) * 4)] == [
        (0, 60)
    ] * 2


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize(("row", "doubted"), [(2, False), (1, True)])
def test_maximum_is_doubtful_if_the_footprint_crosses_a_cut_edge(row, doubted, turns):
    image = np.zeros((20, 19), np.float32)
    image[row:8, 9], image[8, 9] = 0.95, 1
    image = np.rot90(image, turns)
    cut = np.arange(4) == turns  # the first rotation moves the top to the left
    found, doubtful = h_maxima(image, CELL_H, tuple(cut))
    assert np.array_equal(doubtful, found & doubted)
    assert not h_maxima(image, CELL_H, tuple(~cut))[1].any()


def test_highest_pixels_are_doubtful_if_h_exceeds_the_range_of_a_cut_window():
    image = np.zeros((9, 30), np.float32)
    image[4, 4], image[4, 8], image[:, 20:] = 0.05, 0.04, -1
    assert np.argwhere(maxima_of(image, CELL_H)).tolist() == [[4, 4]]
    assert not maxima_of(image[:, :15], CELL_H).any()
    found, doubtful = h_maxima(image[:, :15], CELL_H, (False, False, False, True))
    assert np.argwhere(found).tolist() == np.argwhere(doubtful).tolist() == [[4, 4]]


def test_cut_with_two_elements_raises():
    with pytest.raises(InputError, match="top, left, bottom, right"):
        h_maxima(np.zeros((4, 5), np.float32), CELL_H, (True, False))


# --- flood


@st.composite
def floods(draw, *, distinct=False):
    image = draw(maps(least=3))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    markers = np.zeros(image.shape, np.uint32)
    chosen = random.random(image.shape) < draw(st.sampled_from([0.01, 0.1, 0.4]))
    markers[chosen] = random.integers(1, 2**31, np.count_nonzero(chosen))
    if distinct:
        values = image.min() - 1 + np.linspace(0, 0.5, np.count_nonzero(chosen))
        image[chosen] = random.permutation(values).astype(np.float32)
    mask = random.random(image.shape) < draw(st.sampled_from([0.6, 0.9, 1]))
    return image, markers, mask


@modern_watershed
@few
@given(floods())
def test_flood_with_heap_ties_equals_scikit_image(case):
    image, markers, mask = case
    expected = watershed(image, markers.astype(np.int64), mask=mask)
    assert np.array_equal(flood(image, markers, mask, ties="heap"), expected)


@few
@given(floods(distinct=True))
def test_ties_have_no_effect_on_distinct_marker_values(case):
    assert np.array_equal(flood(*case), flood(*case, ties="heap"))


@few
@given(floods(), st.sampled_from(["raster", "heap"]))
def test_flood_labels_exactly_the_components_with_a_marker(case, ties):
    image, markers, mask = case
    labels = flood(image, markers, mask, ties=ties)
    parts, n = ndimage.label(mask)
    reached = np.zeros(n + 1, bool)
    reached[parts[(markers > 0) & mask]] = True
    reached[0] = False
    assert np.array_equal(labels > 0, reached[parts])
    kept = (markers > 0) & mask
    assert np.array_equal(labels[kept], markers[kept])


@few
@given(floods(), st.integers(0, 2**32 - 1))
def test_raster_ties_depend_on_one_component_of_the_mask_only(case, seed):
    image, markers, mask = case
    parts, n = ndimage.label(mask)
    part = parts == 1 + seed % max(n, 1)
    elsewhere = np.random.default_rng(seed).permuted(image)
    changed = np.where(part, image, elsewhere)
    expected = np.where(part, flood(image, markers, mask), 0)
    labels = flood(changed, np.where(part, markers, 7), mask)
    assert np.array_equal(np.where(part, labels, 0), expected)


def test_negative_zero_floods_like_zero():
    image = np.array([[0.0, 0.0, -0.0, -0.0, 0.0]], np.float32)
    markers = np.array([[3, 0, 0, 0, 5]], np.uint32)
    labels = flood(image, markers, np.ones(image.shape, bool))
    assert labels.tolist() == [[3, 3, 3, 5, 5]]


def test_flood_queue_grows_for_a_wide_front():
    random = np.random.default_rng(0)
    image = random.random((150, 150), np.float32)
    image[::2] += 5  # more waiting pixels than the initial queue holds
    markers = np.zeros(image.shape, np.uint32)
    markers[0, 0], markers[-1, -1] = 2**32 - 1, 4
    mask = np.ones(image.shape, bool)
    assert np.array_equal(
        flood(image, markers, mask), flood(image, markers, mask, ties="heap")
    )
    assert set(np.unique(flood(image, markers, mask))) == {4, 2**32 - 1}


# --- small objects and holes

label_images = arrays(np.uint32, st.tuples(st.integers(1, 14), st.integers(1, 14)),
                      elements=st.sampled_from([0, 1, 1, 1, 2, 3]))  # fmt: skip


def holes_by_the_book(labels, max_hole):
    """Fill holes like deepcell, with regionprops of scikit-image."""
    filled = labels.copy()
    for region in regionprops(labels.astype(int)):
        if region.euler_number < 1:
            patch = filled[region.slice]
            gaps, _ = ndimage.label(patch != region.label)
            small = np.bincount(gaps.ravel()) < max_hole
            small[0] = False
            patch[small[gaps]] = region.label
    return filled


@settings(max_examples=200, deadline=None)
@given(label_images, st.integers(0, 20))
def test_filled_holes_equal_deepcell_algorithm(labels, max_hole):
    expected = holes_by_the_book(labels, max_hole)
    assert np.array_equal(fill_holes(labels, max_hole), expected)


@few
@given(label_images)
def test_euler_numbers_equal_scikit_image(labels):
    found = euler_numbers(labels, 3)
    for number in np.unique(labels[labels > 0]):
        assert found[number] == euler_number(labels == number, connectivity=2)
    assert found[0] == 1


def square_with_hole(hole_px):
    labels = np.zeros((9, 9), np.uint32)
    labels[1:8, 1:8] = 1
    y, x = np.divmod(np.arange(hole_px), 5)
    labels[2 + y, 2 + x] = 0
    return labels


@pytest.mark.parametrize(("pixels", "is_filled"), [(1, True), (14, True), (15, False)])
def test_hole_of_fewer_than_15_pixels_is_filled(pixels, is_filled):
    labels = square_with_hole(pixels)
    assert np.count_nonzero(labels) == 49 - pixels
    assert np.count_nonzero(fill_holes(labels, 15)) == 49 - pixels * (not is_filled)


def test_object_inside_a_small_hole_is_overwritten():
    labels = draw("""
        11111
        1.2.1
        12221
        1...1
        11111
    """)
    assert (fill_holes(labels, 15) == 1).all()
    assert np.array_equal(fill_holes(labels, 9), labels)


def test_notches_are_filled_only_in_objects_with_a_hole():
    labels = draw("""
        ..111.
        111.1.
        .1111.
        ......
        .222..
        .2222.
    """)
    expected = draw("""
        11111.
        11111.
        11111.
        ......
        .222..
        .2222.
    """)
    assert np.array_equal(fill_holes(labels, 3), expected)


def test_fill_holes_raises_for_labels_above_the_pixel_count():
    with pytest.raises(InputError, match="4000000000"):
        fill_holes(np.full((3, 3), 4_000_000_000, np.uint32), 15)


def test_object_of_14_pixels_is_removed_and_of_15_is_kept():
    labels = np.zeros((6, 12), np.uint32)
    labels[0:2, 0:7] = 9
    labels[3:6, 2:7] = 4
    labels[0:4, 8:12] = 6
    numbered = remove_small_objects(labels, 15)
    assert np.array_equal(numbered, np.where(labels == 4, 1, np.where(labels == 6, 2, 0)))


# --- deep watershed


def test_touching_discs_are_two_objects():
    labels = labels_of(*discs((20, 20), (20, 34)), h=CELL_H)
    assert labels.dtype == np.uint32
    assert labels.max() == 2
    assert labels[20, 20] == 1
    assert labels[20, 34] == 2
    assert not np.any(labels[:, :26] == 2)
    assert not np.any(labels[:, 29:] == 1)
    assert np.count_nonzero(labels) > 350


def test_pixels_at_the_interior_threshold_are_background():
    inner, _ = discs((20, 30))
    interior = np.zeros_like(inner)
    interior[15:26, 25:36], interior[15:26, 30] = 0.25, 0.5
    labels = labels_of(inner, interior, h=CELL_H, interior_threshold=0.25,
                            smoothing_px=0, min_area=1)  # fmt: skip
    assert np.array_equal(labels == 1, interior == 0.5)


@pytest.mark.parametrize("value", [0, 0.5, 1])
def test_constant_maps_give_no_object(value):
    constant = np.full((30, 20), value, np.float32)
    assert not labels_of(constant, constant, h=CELL_H).any()
    assert labels_of(constant[:0], constant[:0], h=CELL_H).shape == (0, 20)


@pytest.mark.parametrize(
    ("maxima", "interior", "message"),
    [
        (
            np.zeros((4, 5), np.float32),
            np.zeros((4, 6), np.float32),
            r"\(4, 5\) and \(4, 6\)",
        ),
        (np.zeros((4, 5)), np.zeros((4, 5), np.float32), "float64"),
        (np.zeros((4, 5), np.float32), np.zeros((4, 5)), "float64"),
        (np.full((4, 5), np.nan, np.float32), np.zeros((4, 5), np.float32), "finite"),
        (np.zeros((4, 5), np.float32), np.full((4, 5), np.inf, np.float32), "finite"),
    ],
)
def test_invalid_maps_raise(maxima, interior, message):
    with pytest.raises(InputError, match=message):
        labels_of(maxima, interior, h=CELL_H)


def test_h_of_zero_raises():
    with pytest.raises(InputError, match="h is 0"):
        labels_of(*discs((9, 9)), h=0)


def by_the_book(maxima, interior, h):
    """Run the deep watershed of deepcell with functions of scikit-image."""
    markers = label(skimage_h_maxima(maxima, h, footprint=disk(2)))
    smooth = ndimage.gaussian_filter(interior, 2)
    labels = watershed(-1 * smooth, markers, mask=smooth > 0.2)
    area = np.bincount(labels.ravel())
    labels = holes_by_the_book(np.where(area[labels] < 15, 0, labels), 15)
    numbers = np.unique(np.append(labels, 0), return_inverse=True)[1]
    return numbers[:-1].reshape(labels.shape)


@modern_watershed
@few
@given(maps(70), maps(70), st.sampled_from([CELL_H, NUCLEUS_H]))
def test_labels_equal_scikit_image_pipeline(maxima, interior, h):
    y, x = np.minimum(maxima.shape, interior.shape)
    maxima, interior = maxima[:y, :x], interior[:y, :x]
    expected = by_the_book(maxima, interior, h)
    assert np.array_equal(labels_of(maxima, interior, h=h, ties="heap"), expected)


@pytest.mark.parametrize("seed", range(4))
def test_objects_do_not_depend_on_distant_pixels(seed):
    random = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(random.normal(size=(330, 350)), 4)
    inner = np.maximum(smooth / smooth.std(), 0).astype(np.float32)
    interior = np.clip(inner, 0, 1)
    whole = labels_of(inner, interior, h=CELL_H)[104:-104, 104:-104]
    window = np.s_[40:-40, 40:-40]
    part = labels_of(inner[window], interior[window], h=CELL_H)[64:-64, 64:-64]
    pairs = np.unique(np.stack([whole.ravel(), part.ravel()]), axis=1)
    assert whole.max() > 20
    assert len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]


MARGIN = 64


def bumps(shape, *bumps, floor):
    """Return maps of Gaussian bumps (y, x, height), sigma 6 px, and interior discs."""
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    inner, interior = np.full(shape, floor), np.zeros(shape)
    for y, x, height in bumps:
        square = (yy - y) ** 2 + (xx - x) ** 2
        inner = np.maximum(inner, height * np.exp(-square / 72))
        interior = np.maximum(interior, square < 100)
    return inner.astype(np.float32), interior.astype(np.float32)


@pytest.mark.parametrize(("floor", "differs"), [(0.0, False), (0.006, True)])
def test_weak_peak_on_a_plateau_is_doubtful_far_from_the_cut_edge(floor, differs):
    maps = bumps((200, 500), (100, 100, 0.08), (100, 450, 1.0), floor=floor)
    maps[0][10:30, 10:30] = 0
    whole = labels_of(*maps, h=CELL_H)[:, :300]
    cut = (False, False, False, True)
    part, doubtful = deep_watershed(*(m[:, :300] for m in maps), h=CELL_H, cut=cut)
    assert part[100, 100] == 1
    assert whole[100, 100] == (0 if differs else 1)
    assert doubtful.any() == differs
    assert np.any((part > 0) & ~doubtful) != differs
    assert not doubtful[:, 130:].any()


def test_neighbour_of_doubtful_object_is_doubtful_at_their_contact():
    weak, strong = (30, 230), (30, 246)
    inner, interior = bumps((60, 300), (30, 20, 1.0), (*weak, 0.08), floor=0.006)
    inner[:, 237:] = 0  # separates the two bumps
    side, disc = bumps((60, 300), (*strong, 1.0), floor=0)
    inner[:, 240:], interior = side[:, 240:], np.maximum(interior, disc)
    whole = labels_of(inner, interior, h=CELL_H)[:, 150:]
    cut = (False, True, False, False)
    part, doubtful = deep_watershed(inner[:, 150:], interior[:, 150:], h=CELL_H, cut=cut)
    first, second = part == part[30, 80], part == part[30, 96]
    assert np.all(whole[first] == whole[second][0])  # the strong one occupies both
    assert not np.array_equal(first, second)
    assert doubtful[first].all()
    assert doubtful[second].any()
    assert not doubtful[30, 96]


def test_doubtful_peak_outside_the_mask_is_ignored():
    inner, interior = bumps((60, 60), (30, 30, 0.08), floor=0.006)
    inner[0] = 0
    cut = (False, True, True, False)
    assert h_maxima(inner, CELL_H, cut)[1].any()
    labels, doubtful = deep_watershed(inner, 0 * interior, h=CELL_H, cut=cut)
    assert not labels.any()
    assert not doubtful.any()


def depth(shape, cut):
    """Return the distance (px) of each pixel to the nearest cut edge; 1 at the edge."""
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    away = np.stack([yy + 1, xx + 1, shape[0] - yy, shape[1] - xx])
    return np.where(np.array(cut)[:, None, None], away, shape[0] + shape[1]).min(axis=0)


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(0, 2**32 - 1))
def test_certain_objects_of_a_window_equal_those_of_the_image(data, seed):
    random = np.random.default_rng(seed)
    shape = (280, 300)
    count = data.draw(st.sampled_from([4, 12, 30]))
    weak = data.draw(st.sampled_from([0.07, 0.085, 0.3]))
    heights = random.choice([weak, 0.08, 0.9], count) * random.uniform(0.9, 1.1, count)
    centres = random.integers(0, shape, (count, 2))
    floor = data.draw(st.sampled_from([0.0, 0.006, 0.02]))
    noise = data.draw(st.sampled_from([0.0, 0.1, 0.5])) * floor
    peaks = [(*at, top) for at, top in zip(centres, heights, strict=True)]
    inner, interior = bumps(shape, *peaks, floor=floor)
    smooth = ndimage.gaussian_filter(random.normal(size=shape), 2)
    inner += (noise * smooth / smooth.std()).astype(np.float32)
    window, cut = data.draw(windows(shape, least=140))
    whole = labels_of(inner, interior, h=CELL_H)[window]
    part, doubtful = deep_watershed(inner[window], interior[window], h=CELL_H, cut=cut)
    deep = depth(part.shape, cut) > MARGIN
    assume(not np.any(doubtful & deep))
    for one, other in [(part, whole), (whole, part)]:
        for number in np.setdiff1d(one[deep], np.append(one[~deep], 0)):
            mine = one == number
            assert np.array_equal(mine, other == other[mine][0])


@pytest.mark.parametrize("ties", ["raster", "heap"])
@pytest.mark.parametrize(("compartment", "h"), [(0, CELL_H), (1, NUCLEUS_H)])
def test_labels_equal_deepcell(compartment, h, ties):
    golden = np.load(GOLDEN)
    maxima, interior = golden["maps"][2 * compartment : 2 * compartment + 2]
    labels = labels_of(maxima, interior, h=h, ties=ties)
    assert np.array_equal(labels, golden["labels"][compartment])


def oracle(name):
    path = SHARED / "oracles" / "mesmer" / name
    if not path.exists():
        pytest.skip(f"reference file {name} not found")
    return np.load(path)


@pytest.mark.parametrize("ties", ["raster", "heap"])
@pytest.mark.parametrize(
    ("names", "channel", "h"), [(("wc0", "wc1"), 0, CELL_H), (("n0", "n1"), 1, NUCLEUS_H)]
)
def test_labels_of_the_toy_network_equal_deepcell(names, channel, h, ties):
    outputs, expected = oracle("toy_outputs.npz"), oracle("toy_contract.npz")
    maxima, interior = (outputs[name][0, ..., 0] for name in names)
    labels = labels_of(maxima, interior, h=h, ties=ties)
    assert np.array_equal(labels, expected["both"][0, ..., channel])


def test_filled_holes_equal_deepcell_reference():
    reference = oracle("holes_ref.npz")
    filled = fill_holes(reference["lab"].astype(np.uint32), 15)
    assert np.array_equal(filled, reference["out"])
