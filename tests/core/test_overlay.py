import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from codexseg.core.drawing.overlay import (
    MOST_SHARED,
    blend,
    brightness,
    choose_places,
    crossing,
    draw_outlines,
    hatch,
    round_length,
    window_around,
)
from codexseg.core.grid import PatchGrid, Window
from codexseg.core.labels.operations import inner_boundary
from tests.drawing import draw

RED = (255, 0, 0)


def outlined(labels):
    picture = np.zeros((*labels.shape, 3), np.uint8)
    draw_outlines(picture, labels, RED)
    assert not picture[..., 1:].any()
    return picture[..., 0] > 0


def test_an_outline_lies_on_the_object_and_is_one_pixel_wide():
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


def test_touching_objects_share_one_line_on_the_lower_label():
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
def test_outlines_are_inner_boundaries_and_part_all_objects(labels):
    line = outlined(labels)
    assert not (line & ~inner_boundary(labels)).any()
    for axis in (0, 1):
        one, other = (np.delete(labels, end, axis) for end in (-1, 0))
        drawn = [np.delete(line, end, axis) for end in (-1, 0)]
        assert (drawn[0] | drawn[1])[one != other].all()


def test_only_the_hatched_part_changes():
    picture = np.full((20, 20, 3), 100, np.uint8)
    where = np.zeros((20, 20), bool)
    where[:10] = True
    hatch(picture, where, RED)
    assert (picture[10:] == 100).all()
    assert {tuple(p) for p in picture[:10].reshape(-1, 3).tolist()} == {(50, 50, 50), RED}


def test_background_is_black_and_the_top_is_full():
    pixels = np.array([[0, 200, 600, 1000, 65535]], np.uint16)
    found = brightness(pixels, 200, 1000, gamma=1)
    np.testing.assert_allclose(found, [[0, 0, 0.5, 1, 1]])
    assert blend([(found, (10, 20, 255))])[0].tolist()[-1] == [10, 20, 255]


@pytest.mark.parametrize(("background", "top"), [(7, 7), (9, 3), (0, float("nan"))])
def test_without_a_range_all_is_black(background, top):
    assert not brightness(np.full((2, 3), 7, np.uint8), background, top).any()


def test_light_adds_up_to_white_at_most():
    full = np.ones((1, 1), np.float32)
    assert blend([(full, (200, 0, 90)), (full, (100, 30, 0))]).tolist() == [[[255, 30, 90]]]


@given(st.floats(1e-3, 1e6))
def test_round_lengths_are_round_and_fit(longest):
    length = round_length(longest)
    assert longest / 2.6 < length <= longest * 1.000001
    assert f"{length:e}"[0] in "125"


# -- places --------------------------------------------------------------------------------


def first_of_each_kind(*args):
    found = {}
    for place in choose_places(*args):
        found.setdefault(place.kind, place.window)
    return found


def squares(*corners, size=6):
    return np.array([(y, x, y + size, x + size) for y, x in corners], np.int64).reshape(
        -1, 4
    )


NONE = squares()
GRID = PatchGrid((400, 600), (200, 200), (20, 20))


def test_the_first_place_is_the_seam_that_most_cells_cross():
    cells = squares((50, 198), (30, 397), (40, 398), (60, 396), (300, 10))
    place = choose_places(cells, NONE, GRID, 80, 6)[0]
    assert place.kind == "seam"
    assert (place.window.x0 + place.window.x1) / 2 == 400
    assert crossing(cells, GRID).tolist() == [[False] * 5, [True, True, True, True, False]]


def test_the_corner_is_where_most_cells_cross():
    elsewhere = ((197, 500 + 8 * i) for i in range(6))
    crowd = ((310 + 3 * i, 20 + 3 * i) for i in range(9))
    cells = squares((197, 390), (197, 410), (210, 398), (197, 190), *elsewhere, *crowd)
    places = first_of_each_kind(cells, NONE, GRID, 60, 6)
    assert places["corner"] == Window(170, 370, 230, 430)


def test_dense_and_unmatched_places_hold_what_they_say():
    cells = squares(*((10 + 3 * i, 520 + 3 * i) for i in range(9)), (300, 40))
    alone = squares((350, 300), (352, 310), (20, 20))
    places = first_of_each_kind(cells, alone, GRID, 100, 6)
    assert places["dense"] == Window(0, 500, 100, 600)
    assert places["unmatched"].intersection(Window(350, 300, 358, 316))
    assert places["middle"].intersection(Window(300, 40, 306, 46))


def test_one_patch_has_no_seam():
    places = choose_places(
        squares((3, 3), (8, 90)), NONE, PatchGrid((64, 99), (64, 99), (0, 0)), 32, 9
    )
    assert {p.kind for p in places} <= {"dense", "middle", "sparse"}
    assert places


@given(
    arrays(
        np.int64, st.tuples(st.integers(0, 60), st.just(2)), elements=st.integers(0, 10**6)
    ),
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
    st.tuples(st.integers(1, 150), st.integers(1, 150)),
    st.integers(1, 200),
    st.integers(0, 9),
)
def test_places_lie_in_the_slide_and_apart_and_are_the_same_each_time(
    corners, shape, step, side, most
):
    y0, x0 = (corners % shape).T
    boxes = np.stack(
        [y0, x0, np.minimum(y0 + 7, shape[0]), np.minimum(x0 + 7, shape[1])], axis=1
    )
    grid = PatchGrid(shape, step, (0, 0))
    places = choose_places(boxes, boxes[::3], grid, side, most)
    assert len(places) <= most
    assert bool(places) == bool(len(boxes) and most)
    size = min(side, shape[0]), min(side, shape[1])
    for place in places:
        assert place.window.shape == size
        assert place.window.intersection(Window(0, 0, *shape)) == place.window
    for i, place in enumerate(places):
        for other in places[:i]:
            shared = place.window.intersection(other.window)
            assert shared is None or np.prod(shared.shape) <= MOST_SHARED * np.prod(size)
    assert places == choose_places(boxes, boxes[::3], grid, side, most)


def test_a_window_at_the_edge_is_moved_inside():
    assert window_around(0, 99, 20, (50, 100)) == Window(0, 80, 20, 100)
    assert window_around(9, 9, 20, (10, 12)) == Window(0, 0, 10, 12)
