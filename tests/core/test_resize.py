from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.transform import resize as skimage_resize

from codexseg.core.grid import PatchGrid, Window
from codexseg.core.intensity.resize import Scaling
from codexseg.errors import InputError

GOLDEN = Path(__file__).parents[1] / "data" / "mesmer" / "golden.npz"


def whole(image, target):
    """Return the whole image resized by scikit-image with deepcell's arguments."""
    resized = skimage_resize(
        np.moveaxis(image, 0, -1), (*target, len(image)), mode="constant", order=1,
        preserve_range=True, anti_aliasing=True,
    )  # fmt: skip
    return np.moveaxis(resized.astype(image.dtype), -1, 0)


def whole_labels(labels, source):
    return skimage_resize(
        labels, source, order=0, mode="constant", preserve_range=True, anti_aliasing=False
    )


def part(array, window):
    return array[(..., *window.slices)]


def bounds(image):
    return float(image.min()), float(image.max())


def resize_window(scaling, image, window):
    read = scaling.source_window(window)
    return scaling.resize(part(image, read), read, window, bounds(image))


def nearest_window(scaling, labels, window, rule):
    read = scaling.target_window(window)
    return scaling.nearest(part(labels, read), read, window, rule=rule)


def identical(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def image_of(shape, dtype, seed, lowest=0):
    random = np.random.default_rng(seed)
    image = random.gamma(1, 60, (2, *shape)).clip(lowest, 255)
    image[:, random.random(shape) < 0.2] = lowest
    return image.astype(dtype)


@st.composite
def scalings(draw):
    source = draw(st.tuples(st.integers(1, 48), st.integers(1, 48)))
    if draw(st.booleans()):
        return Scaling.by(source, draw(st.floats(0.2, 4)))
    return Scaling(source, draw(st.tuples(st.integers(1, 48), st.integers(1, 48))))


def windows(shape):
    """Draw windows of any position and size, with edges and 1 px as frequent cases."""

    def span(side):
        ends = st.integers(0, side - 1).flatmap(
            lambda start: st.tuples(st.just(start), st.integers(start + 1, side))
        )
        return st.one_of(ends, st.sampled_from([(0, 1), (side - 1, side), (0, side)]))

    return st.builds(
        lambda y, x: Window(y[0], x[0], y[1], x[1]), span(shape[0]), span(shape[1])
    )


@settings(max_examples=150, deadline=None)
@given(
    scalings(),
    st.sampled_from([np.uint8, np.uint16, np.float32, np.float64]),
    st.sampled_from([0, 9]),
    st.integers(0, 99),
    st.data(),
)
def test_resized_window_equals_that_of_the_whole_image(scaling, dtype, lowest, seed, data):
    image = image_of(scaling.source, dtype, seed, lowest)
    expected = whole(image, scaling.target)
    for window in (Window(0, 0, *scaling.target), data.draw(windows(scaling.target))):
        resized = resize_window(scaling, image, window)
        assert identical(resized, part(expected, window))


@settings(max_examples=150, deadline=None)
@given(scalings(), st.data())
def test_label_window_equals_that_of_the_whole_image(scaling, data):
    labels = np.arange(np.prod(scaling.target), dtype=np.uint32).reshape(scaling.target)
    expected = whole_labels(labels, scaling.source)
    for window in (Window(0, 0, *scaling.source), data.draw(windows(scaling.source))):
        labels_of_window = nearest_window(scaling, labels, window, "skimage")
        assert identical(labels_of_window, part(expected, window))


def opencv(source, target):
    """Return the indices of INTER_NEAREST: floor(i * (1 / (source / target)))."""
    inverse = 1.0 / (source / target)
    return [min(int(i * inverse), target - 1) for i in range(source)]


# index lists of cv2 4.11: cv2.resize(np.arange(b), (a, 1), interpolation=INTER_NEAREST)
OPENCV = {
    (7, 3): [0, 0, 0, 1, 1, 2, 2],
    (3, 7): [0, 2, 4],
    (10, 10): [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
    (13, 10): [0, 0, 1, 2, 3, 3, 4, 5, 6, 6, 7, 8, 9],
    (16, 20): [0, 1, 2, 3, 5, 6, 7, 8, 10, 11, 12, 13, 15, 16, 17, 18],
    (6, 118): [0, 19, 39, 58, 78, 98],  # 58 although 3 * 118 / 6 is 59
    (5, 1): [0, 0, 0, 0, 0],
}


@pytest.mark.parametrize("sides", OPENCV)
def test_opencv_rule_equals_indices_of_opencv(sides):
    source, target = sides
    assert opencv(source, target) == OPENCV[sides]
    scaling = Scaling((source, 1), (target, 1))
    labels = np.arange(target, dtype=np.uint32)[:, None]
    labels_of_window = nearest_window(scaling, labels, Window(0, 0, source, 1), "opencv")
    assert labels_of_window[:, 0].tolist() == OPENCV[sides]
    scaling = Scaling((1, source), (1, target))
    labels_of_window = nearest_window(scaling, labels.T, Window(0, 0, 1, source), "opencv")
    assert labels_of_window[0].tolist() == OPENCV[sides]


@settings(max_examples=150, deadline=None)
@given(scalings(), st.data())
def test_opencv_rule_in_windows_equals_the_whole_image(scaling, data):
    labels = np.arange(np.prod(scaling.target), dtype=np.uint32).reshape(scaling.target)
    y, x = (opencv(*sides) for sides in zip(scaling.source, scaling.target, strict=True))
    window = data.draw(windows(scaling.source))
    labels_of_window = nearest_window(scaling, labels, window, "opencv")
    assert np.array_equal(labels_of_window, part(labels[np.ix_(y, x)], window))


def test_rules_differ_by_a_pixel():
    scaling = Scaling((4, 1), (3, 1))
    labels = np.array([[1], [2], [3]], np.uint32)
    window = Window(0, 0, 4, 1)
    assert nearest_window(scaling, labels, window, "skimage").T.tolist() == [[1, 2, 2, 3]]
    assert nearest_window(scaling, labels, window, "opencv").T.tolist() == [[1, 1, 2, 3]]


@pytest.mark.parametrize("factor", [0.754, 1.3])
@pytest.mark.parametrize("step", [(7, 60), (31, 13)])
def test_resized_image_does_not_depend_on_patches(factor, step):
    image = image_of((60, 77), np.uint16, 3)
    scaling = Scaling.by((60, 77), factor)
    resized = np.zeros((2, *scaling.target), np.uint16)
    for patch in PatchGrid(scaling.target, step, (0, 0)):
        part(resized, patch.core)[:] = resize_window(scaling, image, patch.core)
    assert np.array_equal(resized, whole(image, scaling.target))


def slabs(shape, axis):
    """Yield windows across a long image: at both ends and in the middle."""
    side = shape[axis]
    for start, stop in ((0, 9), (side // 2, side // 2 + 700), (side - 3, side)):
        ends = [0, 0, *shape]
        ends[axis], ends[2 + axis] = start, stop
        yield Window(*ends)


@pytest.mark.parametrize("factor", [0.754, 1.3])
@pytest.mark.parametrize("axis", [0, 1])
def test_coordinates_on_long_slides_are_exact(factor, axis):
    shape = (100_003, 5) if axis == 0 else (5, 100_003)
    image = image_of(shape, np.uint16, 5)
    scaling = Scaling.by(shape, factor)
    expected = whole(image, scaling.target)
    for window in slabs(scaling.target, axis):
        resized = resize_window(scaling, image, window)
        assert np.array_equal(resized, part(expected, window))
    labels = np.arange(expected[0].size).reshape(scaling.target)
    back = whole_labels(labels, shape)
    for window in slabs(shape, axis):
        labels_of_window = nearest_window(scaling, labels, window, "skimage")
        assert np.array_equal(labels_of_window, part(back, window))


def test_resized_integers_are_truncated():
    scaling = Scaling((1, 2), (1, 4))
    image = np.array([[[0, 3]]], np.uint8)
    resized = resize_window(scaling, image, Window(0, 0, 1, 4))
    assert resized.tolist() == [
        [[0, 0, 2, 2]]
    ]  # truncated from 0, 0.75, 2.25 and 2.25 (edge)


def test_edge_is_clipped_to_the_given_range():
    scaling = Scaling((1, 2), (1, 4))
    read = Window(0, 0, 1, 2)
    flat = np.full((1, 1, 2), 8.0, np.float32)
    window = Window(0, 0, 1, 4)
    assert scaling.resize(flat, read, window, (8, 9)).tolist() == [[[8, 8, 8, 8]]]
    assert scaling.resize(flat, read, window, (0, 9)).tolist() == [[[6, 8, 8, 6]]]


@settings(max_examples=100, deadline=None)
@given(scalings(), st.data())
def test_source_window_is_limited_to_the_filter_radius(scaling, data):
    window = data.draw(windows(scaling.target))
    read = scaling.source_window(window)
    assert read.intersection(Window(0, 0, *scaling.source)) == read
    for side in range(2):
        factor = scaling.source[side] / scaling.target[side]
        radius = max(0.0, 2 * (factor - 1)) + 1.5  # of the filter, and one neighbour
        assert read.shape[side] <= factor * window.shape[side] + 2 * radius + 2


@settings(max_examples=100, deadline=None)
@given(scalings(), st.data())
def test_target_window_is_the_smallest_and_reaches_the_edges(scaling, data):
    labels = np.indices(scaling.target)
    window = data.draw(windows(scaling.source))
    read = scaling.target_window(window)
    used = [
        nearest_window(scaling, labels[axis], window, rule)
        for axis in (0, 1)
        for rule in ("skimage", "opencv")
    ]
    ends = ((read.y0, read.y1), (read.x0, read.x1))
    requested = ((window.y0, window.y1), (window.x0, window.x1))
    for axis in (0, 1):
        indexes = np.stack(used[2 * axis : 2 * axis + 2])
        at_start, at_end = (
            requested[axis][0] == 0,
            requested[axis][1] == scaling.source[axis],
        )
        assert ends[axis][0] == (0 if at_start else indexes.min())
        expected = scaling.target[axis] if at_end else indexes.max() + 1
        assert ends[axis][1] == expected


def test_resize_to_the_same_size_returns_a_copy():
    scaling = Scaling.by((5, 9), 1.05)
    assert scaling.is_identity
    image = image_of((5, 9), np.float32, 1)
    window = Window(1, 2, 4, 9)
    assert scaling.source_window(window) == scaling.target_window(window) == window
    resized = resize_window(scaling, image, window)
    assert np.array_equal(resized, part(image, window))
    assert not np.shares_memory(resized, image)


def test_axis_of_the_same_size_reads_no_neighbours():
    scaling = Scaling((8, 20), (8, 30))
    assert scaling.source_window(Window(3, 6, 5, 9)) == Window(3, 3, 5, 7)


def test_sides_are_truncated_to_at_least_one_pixel():
    assert Scaling.by((600, 501), 0.377 / 0.5).target == (452, 377)
    assert Scaling.by((3, 1), 0.2).target == (1, 1)


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan"), float("inf")])
def test_factor_that_is_not_positive_is_refused(factor):
    with pytest.raises(InputError, match="positive number"):
        Scaling.by((4, 4), factor)


def test_larger_source_window_gives_the_same_result():
    image = image_of((40, 40), np.uint16, 2)
    scaling = Scaling.by((40, 40), 0.5)
    window, read = Window(5, 5, 9, 9), Window(0, 0, 40, 40)
    resized = scaling.resize(image, read, window, bounds(image))
    assert np.array_equal(resized, resize_window(scaling, image, window))


def test_source_window_that_is_too_small_is_refused():
    scaling = Scaling((40, 40), (20, 20))
    image = image_of((40, 40), np.uint16, 2)
    window, read = Window(5, 5, 9, 9), Window(10, 10, 18, 18)
    with pytest.raises(InputError, match="does not contain"):
        scaling.resize(part(image, read), read, window, (0, 255))
    with pytest.raises(InputError, match="does not contain"):
        scaling.nearest(image[0, :4, :4], Window(0, 0, 4, 4), window, rule="skimage")


def test_invalid_arrays_and_windows_are_refused():
    scaling = Scaling((4, 4), (8, 8))
    whole_image = Window(0, 0, 4, 4)
    with pytest.raises(InputError, match="shape"):
        scaling.resize(np.zeros((4, 4)), whole_image, whole_image, (0, 1))
    with pytest.raises(InputError, match="bool"):
        scaling.resize(np.zeros((1, 4, 4), bool), whole_image, whole_image, (0, 1))
    with pytest.raises(InputError, match="cover"):
        scaling.nearest(
            np.zeros((3, 3), int), whole_image, Window(0, 0, 1, 1), rule="opencv"
        )
    with pytest.raises(InputError, match="rule"):
        scaling.nearest(np.zeros((4, 4), int), whole_image, whole_image, rule="round")
    for window in (Window(0, 0, 9, 8), Window(2, 2, 2, 4), Window(-1, 0, 2, 2)):
        with pytest.raises(InputError, match="not a window of the target"):
            scaling.source_window(window)
    with pytest.raises(InputError, match="not a window of the source"):
        scaling.target_window(Window(0, 0, 5, 4))
    with pytest.raises(InputError, match="at least 1 px"):
        Scaling((0, 4), (1, 4))


@pytest.mark.skipif(not GOLDEN.exists(), reason=f"{GOLDEN.name} is missing")
@pytest.mark.parametrize(
    ("source", "expected", "mpp"),
    [
        ("image", "resized_0377", 0.377),
        ("image_u16", "resized_u16_0377", 0.377),
        ("image_u16", "resized_u16_0650", 0.65),
    ],
)
def test_resized_image_equals_deepcell(source, expected, mpp):
    with np.load(GOLDEN) as golden:
        image, reference = golden[source], golden[expected]
    scaling = Scaling.by(image.shape[1:], mpp / 0.5)
    assert scaling.target == reference.shape[1:]
    for patch in PatchGrid(scaling.target, (100, 128), (0, 0)):
        resized = resize_window(scaling, image, patch.core)
        assert np.array_equal(resized, part(reference, patch.core))
