import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from codexseg.core.drawing.overlay import (
    MAX_SHARED,
    blend,
    brightness,
    choose_figure_windows,
    crossing,
    draw_outlines,
    hatch,
    round_length,
    window_around,
)
from codexseg.core.grid import PatchGrid, Window
from codexseg.core.labels.operations import inner_boundary
from tests.helpers.drawing import draw

RED = (255, 0, 0)


def outlined(labels):
    picture = np.zeros((*labels.shape, 3), np.uint8)
    draw_outlines(picture, labels, RED)
    assert not picture[..., 1:].any()
    return picture[..., 0] > 0


def test_outline_is_on_the_object_and_one_pixel_wide():
    labels = draw("""
        .......
        .55555.
        .55555.
        .55555.
        .......
    """)
    expected = draw("""
        .......
        .11111.
        .1...1.
        .11111.
        .......
    """)
    np.testing.assert_array_equal(outlined(labels), expected > 0)


def test_touching_objects_have_one_line_on_the_lower_label():
    labels = draw("""
        777222
        777222
        777222
    """)
    expected = draw("""
        ...1..
        ...1..
        ...1..
    """)
    np.testing.assert_array_equal(outlined(labels), expected > 0)


label_images = arrays(np.uint32, (9, 11), elements=st.integers(0, 4))


@settings(deadline=None)  # the first call loads a kernel
@given(label_images)
def test_outlines_are_inner_boundaries_that_separate_all_objects(labels):
    line = outlined(labels)
    assert not (line & ~inner_boundary(labels)).any()
    for axis in (0, 1):
        before, after = (np.delete(labels, end, axis) for end in (-1, 0))
        drawn = [np.delete(line, end, axis) for end in (-1, 0)]
        assert (drawn[0] | drawn[1])[before != after].all()


def test_only_the_hatched_region_changes():
    picture = np.full((20, 20, 3), 100, np.uint8)
    where = np.zeros((20, 20), bool)
    where[:10] = True
    hatch(picture, where, RED)
    assert (picture[10:] == 100).all()
    assert {tuple(p) for p in picture[:10].reshape(-1, 3).tolist()} == {(50, 50, 50), RED}


def test_background_is_black_and_the_top_has_full_brightness():
    pixels = np.array([[0, 200, 600, 1000, 65535]], np.uint16)
    values = brightness(pixels, 200, 1000, gamma=1)
    np.testing.assert_allclose(values, [[0, 0, 0.5, 1, 1]])
    assert blend([(values, (10, 20, 255))])[0].tolist()[-1] == [10, 20, 255]


@pytest.mark.parametrize(("background", "top"), [(7, 7), (9, 3), (0, float("nan"))])
def test_empty_range_is_black(background, top):
    assert not brightness(np.full((2, 3), 7, np.uint8), background, top).any()


def test_layers_add_up_to_white_at_most():
    full = np.ones((1, 1), np.float32)
    assert blend([(full, (200, 0, 90)), (full, (100, 30, 0))]).tolist() == [[[255, 30, 90]]]


@given(st.floats(1e-3, 1e6))
def test_round_lengths_have_one_digit_and_fit(max_length):
    length = round_length(max_length)
    assert max_length / 2.6 < length <= max_length * 1.000001
    assert f"{length:e}"[0] in "125"


# -- windows -------------------------------------------------------------------------------


def first_of_each_kind(*args):
    first = {}
    for choice in choose_figure_windows(*args):
        first.setdefault(choice.kind, choice.window)
    return first


def boxes_at(*corners, size=6):
    return np.array([(y, x, y + size, x + size) for y, x in corners], np.int64).reshape(
        -1, 4
    )


NONE = boxes_at()
GRID = PatchGrid((400, 600), (200, 200), (20, 20))


def test_first_window_is_on_the_seam_with_most_crossing_cells():
    cells = boxes_at((50, 198), (30, 397), (40, 398), (60, 396), (300, 10))
    seam = choose_figure_windows(cells, NONE, GRID, 80, 6)[0]
    assert seam.kind == "seam"
    assert (seam.window.x0 + seam.window.x1) / 2 == 400
    assert crossing(cells, GRID).tolist() == [[False] * 5, [True, True, True, True, False]]


def test_corner_window_has_most_crossing_cells():
    elsewhere = ((197, 500 + 8 * i) for i in range(6))
    crowd = ((310 + 3 * i, 20 + 3 * i) for i in range(9))
    cells = boxes_at((197, 390), (197, 410), (210, 398), (197, 190), *elsewhere, *crowd)
    windows = first_of_each_kind(cells, NONE, GRID, 60, 6)
    assert windows["corner"] == Window(170, 370, 230, 430)


def test_dense_middle_and_unmatched_windows_contain_their_objects():
    cells = boxes_at(*((10 + 3 * i, 520 + 3 * i) for i in range(9)), (300, 40))
    unmatched = boxes_at((350, 300), (352, 310), (20, 20))
    windows = first_of_each_kind(cells, unmatched, GRID, 100, 6)
    assert windows["dense"] == Window(0, 500, 100, 600)
    assert windows["unmatched"].intersection(Window(350, 300, 358, 316))
    assert windows["middle"].intersection(Window(300, 40, 306, 46))


def test_single_patch_has_no_seam():
    windows = choose_figure_windows(
        boxes_at((3, 3), (8, 90)), NONE, PatchGrid((64, 99), (64, 99), (0, 0)), 32, 9
    )
    assert {w.kind for w in windows} <= {"dense", "middle", "sparse"}
    assert windows


@given(
    arrays(
        np.int64, st.tuples(st.integers(0, 60), st.just(2)), elements=st.integers(0, 10**6)
    ),
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
    st.tuples(st.integers(1, 150), st.integers(1, 150)),
    st.integers(1, 200),
    st.integers(0, 9),
)
def test_windows_are_within_the_slide_distinct_and_deterministic(
    corners, shape, step, side, count
):
    y0, x0 = (corners % shape).T
    boxes = np.stack(
        [y0, x0, np.minimum(y0 + 7, shape[0]), np.minimum(x0 + 7, shape[1])], axis=1
    )
    grid = PatchGrid(shape, step, (0, 0))
    windows = choose_figure_windows(boxes, boxes[::3], grid, side, count)
    assert len(windows) <= count
    assert bool(windows) == bool(len(boxes) and count)
    size = min(side, shape[0]), min(side, shape[1])
    for choice in windows:
        assert choice.window.shape == size
        assert choice.window.intersection(Window(0, 0, *shape)) == choice.window
    for i, choice in enumerate(windows):
        for earlier in windows[:i]:
            shared = choice.window.intersection(earlier.window)
            assert shared is None or np.prod(shared.shape) <= MAX_SHARED * np.prod(size)
    assert windows == choose_figure_windows(boxes, boxes[::3], grid, side, count)


def test_window_at_the_edge_is_moved_inside():
    assert window_around(0, 99, 20, (50, 100)) == Window(0, 80, 20, 100)
    assert window_around(9, 9, 20, (10, 12)) == Window(0, 0, 10, 12)
