"""Which patch speaks for an object, and what becomes of versions that disagree."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage as ndi

from codexseg.core.grid import PatchGrid, Window
from codexseg.core.stitching import describe, find_versions, reach_cut_edge, settle
from tests.drawing import draw

WHOLE = Window(0, 0, 4, 8)
GRID = PatchGrid((4, 8), (4, 4), (4, 4))
"""Two patches side by side, each of which sees the whole slide."""


def versions_of(*pictures, grid=GRID):
    objects = {
        patch.number: describe(
            draw(picture)[patch.outer.slices], patch.outer, patch.core, grid
        )
        for patch, picture in zip(grid, pictures, strict=True)
    }
    return objects, find_versions(objects, grid)


def no_rivals():
    return np.zeros((0, 3), np.int64)


def test_a_patch_lists_the_objects_that_touch_its_core():
    picture = """
        11....22
        ...33...
        ...33...
        4......4
    """
    objects, versions = versions_of(picture, picture)
    assert objects[0].label.tolist() == [1, 3, 4]
    assert objects[1].label.tolist() == [2, 3, 4]
    assert objects[0].area.tolist() == [2, 4, 2]
    assert objects[0].first.tolist() == [0, 11, 24]
    assert objects[0].n_cores.tolist() == [1, 2, 2]
    assert objects[0].box[1].tolist() == [1, 3, 3, 5]
    assert versions.agreed.all()
    assert versions.speaker.tolist() == [0, 1, 0, 0]  # 1, 2, 3, 4 in raster order


def test_numbers_of_labels_do_not_matter():
    one = "11.22... 11.22... ........ ........"
    other = "77.33... 77.33... ........ ........"
    _, versions = versions_of(one, other)
    assert versions.agreed.all()
    assert len(versions.first) == 2


def test_labels_up_to_the_highest():
    grid = PatchGrid((2, 4), (2, 4), (0, 0))
    labels = np.array([[0, 2**32 - 1, 0, 5], [0, 2**32 - 1, 0, 5]], np.uint32)
    objects = describe(labels, grid[0].outer, grid[0].core, grid)
    assert objects.label.tolist() == [5, 2**32 - 1]
    assert objects.area.tolist() == [2, 2]


def test_what_patches_do_not_agree_on_goes_to_one_of_them_whole():
    one = "..1111.. ..1111.. ........ ........"
    other = "...111.. ...111.. ........ ........"
    _, versions = versions_of(one, other)
    assert not versions.agreed.any()
    accepted = settle(versions, np.array([[0, 1, 6]]), 0.5)
    assert accepted.tolist() == [0]
    assert versions.area[accepted].tolist() == [8]
    assert versions.speaker[accepted].tolist() == [0]


def test_a_cell_that_only_one_patch_sees_is_not_lost():
    one = "........ ..1111.. ........ ........"
    _, versions = versions_of(one, "........ ........ ........ ........")
    assert settle(versions, no_rivals(), 0.5).tolist() == [0]


def test_no_sliver_is_kept():
    one = "..11.... ..11.... ..11.... ........"
    other = "...222.. ...222.. ........ ........"
    _, versions = versions_of(one, other)
    by_area = settle(versions, np.array([[0, 1, 2]]), 0.5)
    assert len(by_area) == 2  # the smaller one keeps 4 of 6 px
    assert len(settle(versions, np.array([[0, 1, 2]]), 0.9)) == 1


@given(st.permutations(range(6)))
def test_the_order_of_reports_does_not_matter(order):
    rng = np.random.default_rng(0)
    grid = PatchGrid((60, 24), (60, 12), (60, 12))
    seen = (ndi.label(rng.random(grid.shape) < 0.4)[0].astype(np.uint32) for _ in grid)
    objects = {
        p.number: describe(labels, p.outer, p.core, grid)
        for p, labels in zip(grid, seen, strict=True)
    }
    versions = find_versions(objects, grid)
    again = find_versions(dict(reversed(objects.items())), grid)
    np.testing.assert_array_equal(versions.first, again.first)
    disputed = np.flatnonzero(~versions.agreed)
    rivals = [(int(a), int(b), 1) for a in disputed[:3] for b in disputed[3:5]]
    assert len(rivals) == 6
    shuffled = np.array([rivals[i] for i in order])
    np.testing.assert_array_equal(
        settle(versions, shuffled, 0.5),
        settle(versions, np.array(rivals)[:, [1, 0, 2]], 0.5),
    )


def test_an_object_near_a_cut_edge_is_not_proven():
    picture = """
        1......2
        ....3...
        ...4....
        ........
    """
    grid = PatchGrid((4, 16), (4, 8), (0, 0))
    left = describe(draw(picture), grid[0].outer, grid[0].core, grid)
    # the slide goes on at the right alone
    assert reach_cut_edge(left, grid[0].outer, 3, grid.shape).tolist() == [
        False,
        True,
        True,
        False,
    ]
    assert not reach_cut_edge(left, WHOLE, 3, (4, 8)).any()


@given(
    st.integers(0, 2**31),
    st.tuples(st.integers(5, 20), st.integers(5, 20)),
)
def test_windows_that_show_objects_whole_agree(seed, step):
    """Reassembly: whatever the grid, the versions are the objects of the whole."""
    rng = np.random.default_rng(seed)
    whole = ndi.label(ndi.gaussian_filter(rng.random((40, 50)), 1) > 0.55)[0].astype(
        np.uint32
    )
    grid = PatchGrid(whole.shape, step, (50, 50))
    objects = {
        p.number: describe(whole[p.outer.slices], p.outer, p.core, grid) for p in grid
    }
    versions = find_versions(objects, grid)
    assert versions.agreed.all()
    ids, first, area = np.unique(whole, return_index=True, return_counts=True)
    assert versions.first.tolist() == sorted(first[ids > 0])
    assert sorted(versions.area) == sorted(area[ids > 0])
    home = grid.owner(*np.divmod(versions.first, 50))
    assert versions.speaker.tolist() == home.tolist()
