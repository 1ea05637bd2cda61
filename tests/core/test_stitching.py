"""Which patch speaks for an object, and what becomes of versions that disagree."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage as ndi

from codexseg.core.grid import PatchGrid, Window
from codexseg.core.labels.stitching import (
    choose_drops,
    describe,
    find_versions,
    largest_piece,
    reach_cut_edge,
    settle,
)
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


def listed_by_hand(labels, patch, grid):
    rows = []
    for label in np.unique(labels[labels > 0]).tolist():
        y, x = np.nonzero(labels == label)
        y, x = y + patch.outer.y0, x + patch.outer.x0
        owners = np.unique(grid.owner(y, x))
        if patch.number in owners:
            box = [y.min(), x.min(), y.max() + 1, x.max() + 1]
            first = int(y[0]) * grid.shape[1] + int(x[0])
            rows.append([label, first, len(y), *map(int, box), len(owners)])
    return rows


GRIDS = [
    PatchGrid((20, 23), (5, 7), (4, 3)),
    PatchGrid((66_000, 70_001), (5, 7), (4, 3)),  # up to 4.6e9 px: beyond 32 bits
    PatchGrid((30_000, 200_000), (7, 5), (2, 6)),
]


@given(st.sampled_from(GRIDS), st.data())
@settings(deadline=None)
def test_objects_are_those_counted_by_hand_wherever_the_patch_lies(grid, data):
    patch = grid[data.draw(st.integers(0, len(grid) - 1))]
    few = st.sampled_from([0, 1, 2, 7, 2**31, 2**32 - 1])
    labels = data.draw(arrays(np.uint32, patch.outer.shape, elements=few))
    found = describe(labels, patch.outer, patch.core, grid)
    columns = (found.label, found.first, found.area, *found.box.T, found.n_cores)
    rows = [list(row) for row in zip(*(c.tolist() for c in columns), strict=True)]
    assert rows == listed_by_hand(labels, patch, grid)


@given(arrays(np.uint32, (6, 9), elements=st.integers(0, 3)), st.data())
@settings(deadline=None)
def test_an_object_is_known_by_its_pixels_alone(labels, data):
    """The same pixels in another window, under another label: the same object."""
    grid = data.draw(st.sampled_from(GRIDS[1:]))
    height, width = (n // 2 for n in grid.shape)
    here = Window(height, width, height + 6, width + 9)
    dy, dx = data.draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    wider = Window(here.y0 - dy, here.x0 - dx, here.y1 + 2, here.x1 + 1)
    again = np.pad((5 - labels) * (labels > 0), ((dy, 2), (dx, 1)))
    one = describe(labels, here, here, grid)
    other = describe(again, wider, here, grid)
    for name in ("first", "area", "pixels", "box"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name)[::-1])


def test_equal_first_pixels_and_areas_are_not_equal_objects():
    one = "...11... ...1.... ........ ........"
    other = "...11... ....1... ........ ........"
    _, versions = versions_of(one, other)
    assert versions.first.tolist() == [3, 3]
    assert versions.area.tolist() == [3, 3]
    assert not versions.agreed.any()


@pytest.mark.parametrize("row", [0, 500_000_000])
def test_an_object_at_a_seam_far_down_the_slide_has_one_owner(row):
    """First pixels beyond 2**31: 500 million rows of 8 px are 4e9 px."""
    grid = PatchGrid((row + 4, 8), (4, 4), (4, 4))
    picture = "........ ..2222.. ......3. ........"
    objects = {}
    for patch in (grid[len(grid) - 2], grid[len(grid) - 1]):
        window = Window(row, 0, row + 4, 8)
        objects[patch.number] = describe(draw(picture), window, patch.core, grid)
    versions = find_versions(objects, grid)
    assert versions.first.tolist() == [(row + 1) * 8 + 2, (row + 2) * 8 + 6]
    assert versions.agreed.all()
    assert versions.speaker.tolist() == [len(grid) - 2, len(grid) - 1]
    assert versions.at_home.all()


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


def pixels_of(versions, images):
    """Mark the pixels of every version, as its speaker sees them: (versions, y, x)."""
    speaks = zip(versions.speaker.tolist(), versions.name.tolist(), strict=True)
    return np.array([images[patch] == name for patch, name in speaks])


def rivals_of(versions, masks):
    """Count what versions share that are not agreed on: rows (version, version, px)."""
    rows = [
        (i, j, int(np.sum(masks[i] & masks[j])))
        for i in np.flatnonzero(~versions.agreed)
        for j in range(len(masks))
        if i != j
    ]
    found = [row for row in rows if row[2]]
    return np.array(found, np.int64).reshape(-1, 3)


@pytest.mark.parametrize(
    ("one", "other", "first"),
    [
        # the owner of its first pixel sees it, before a larger one that nobody owns
        ("...11... ...11... ........ ........", "..222... ..222... ........ ........", 3),
        # both are seen by their owners: the larger one
        ("...11... ...11... ........ ........", "....2... ...222.. ...222.. ........", 4),
        # and of two alike the first one, whichever patch sees it
        ("........ ...11... ...11... ........", "....2... ...222.. ........ ........", 4),
    ],
)
def test_which_of_two_versions_stands(one, other, first):
    _, versions = versions_of(one, other)
    assert not versions.agreed.any()
    rivals = rivals_of(versions, pixels_of(versions, [draw(one), draw(other)]))
    assert versions.first[settle(versions, rivals, 0.6)].tolist() == [first]


def test_a_pair_of_rivals_counts_once_by_the_most_that_was_seen():
    one = "..1111.. ..1111.. ........ ........"
    other = "........ ..2222.. ..22.... ........"
    _, versions = versions_of(one, other)
    once = np.array([[0, 1, 4]])
    for rivals in (once, np.array([[0, 1, 1], [1, 0, 4], [0, 1, 4]])):
        assert settle(versions, rivals, 1 / 3).tolist() == [0, 1]
        assert settle(versions, rivals, 0.4).tolist() == [0]


def seen_by_four(seed):
    """Four patches see the whole of a slide, each with flaws of its own."""
    rng, grid = np.random.default_rng(seed), PatchGrid((14, 18), (7, 9), (14, 18))
    tissue = rng.random(grid.shape) < 0.5
    flaws = rng.random((4, *grid.shape)) < rng.choice([0.01, 0.05, 0.3])
    images = [ndi.label(tissue ^ flaw)[0].astype(np.uint32) for flaw in flaws]
    objects = {p.number: describe(images[p.number], p.outer, p.core, grid) for p in grid}
    versions = find_versions(objects, grid)
    masks = pixels_of(versions, images)
    return versions, masks, rivals_of(versions, masks)


@given(st.integers(0, 2**31), st.floats(0.5, 1), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_what_stands_where_patches_disagree(seed, least, random):
    versions, masks, rivals = seen_by_four(seed)
    area = masks.sum(axis=(1, 2))
    accepted = settle(versions, rivals, least)

    assert len(set(accepted.tolist())) == len(accepted)
    agreed = np.flatnonzero(versions.agreed)
    assert accepted[: len(agreed)].tolist() == agreed.tolist()
    painted = np.zeros(masks.shape[1:], int)  # those agreed on, then in order what is free
    assert masks[agreed].sum(axis=0).max(initial=0) <= 1
    for version in accepted:
        free = masks[version] & (painted == 0)
        assert free.sum() >= (1 if versions.agreed[version] else least * area[version])
        painted[free] = version + 1
    shared = np.tensordot(masks[accepted], masks[accepted], axes=((1, 2), (1, 2)))
    own = area[accepted]
    overlap = shared / (own[:, None] + own - shared)
    assert (overlap[~np.eye(len(own), dtype=bool)] <= 0.5).all()
    # Nothing is left out but for what others have of it.
    for version in set(range(len(area))) - set(accepted.tolist()):
        taken = (masks[version] & masks[accepted]).sum()
        assert area[version] - taken < least * area[version]
    # Nor does it matter who told of two rivals, and when.
    rows = [[*random.sample([a, b], 2), n] for a, b, n in rivals.tolist() * 2]
    random.shuffle(rows)
    told = np.array(rows, np.int64).reshape(-1, 3)
    assert settle(versions, told, least).tolist() == accepted.tolist()


@given(arrays(np.bool_, (6, 7)))
@settings(deadline=None)
def test_the_largest_piece_is_that_found_by_hand(mask):
    best, seen = set(), set()
    for start in map(tuple, np.argwhere(mask).tolist()):
        piece, todo = set(), [start]
        while todo:
            y, x = todo.pop()
            if (y, x) not in seen and 0 <= y < 6 and 0 <= x < 7 and mask[y, x]:
                seen.add((y, x))
                piece.add((y, x))
                todo += [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        best = max(best, piece, key=len)  # the first of equals
    assert set(map(tuple, np.argwhere(largest_piece(mask)).tolist())) == best


def left_of(masks, accepted):
    """Paint versions in their order: the pixels that each gets, (versions, y, x)."""
    left, taken = np.zeros_like(masks), np.zeros(masks.shape[1:], bool)
    for version in accepted:
        left[version] = masks[version] & ~taken
        taken |= masks[version]
    return left


def is_torn(left, mask, least):
    if left.sum() == mask.sum():
        return False
    return largest_piece(left).sum() < least * mask.sum()


def taken_one_by_one(versions, masks, least):
    """Let each version stand at once, or not, by what those before it have left."""
    agreed, area = versions.agreed, masks.sum(axis=(1, 2))
    order = sorted(
        np.flatnonzero(~agreed).tolist(),
        key=lambda v: (
            *(not versions.at_home[v], -area[v]),
            *(versions.first[v], versions.speaker[v]),
        ),
    )
    stands = np.flatnonzero(agreed).tolist()
    for version in order:
        left = area[version] - (masks[version] & masks[stands]).sum()
        if left > 0 and left >= least * area[version]:
            pixels = left_of(masks, [*stands, version])[version]
            if not is_torn(pixels, masks[version], least):
                stands.append(version)
    return stands


def settled_in_turns(versions, masks, rivals, least):
    dropped, before, touched = np.zeros(0, np.int64), None, range(len(masks))
    while True:
        accepted = settle(versions, rivals, least, dropped)
        left = left_of(masks, accepted)
        torn = [v for v in accepted if is_torn(left[v], masks[v], least)]
        if before is not None:  # who is not touched keeps what it had
            changed = np.flatnonzero((left != before).any(axis=(1, 2)))
            assert set(changed) <= set(touched)
        if not torn:
            return accepted.tolist(), len(dropped)
        gone, touched = choose_drops(versions, rivals, np.array(torn))
        assert len(gone) > 0
        assert set(gone) <= set(torn) <= set(touched)
        dropped, before = np.concatenate([dropped, gone]), left


@given(st.integers(0, 2**31), st.floats(0.3, 1))
@example(117149, 1.0)  # equal areas and first pixels: the lower patch comes first
@settings(deadline=None, max_examples=50)
def test_who_stands_is_who_would_if_versions_were_taken_one_by_one(seed, least):
    versions, masks, rivals = seen_by_four(seed)
    accepted, _ = settled_in_turns(versions, masks, rivals, least)
    assert accepted == taken_one_by_one(versions, masks, least)


def test_versions_that_torn_ones_kept_out_stand_without_them():
    found = [settled_in_turns(*seen_by_four(seed), 0.4) for seed in range(12)]
    n_settled = [len(settle(*seen_by_four(seed)[::2], 0.4)) for seed in range(12)]
    gained = [
        len(accepted) + n_dropped - n
        for (accepted, n_dropped), n in zip(found, n_settled, strict=True)
    ]
    assert sum(n for _, n in found) > 5
    assert max(gained) > 0


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


@given(st.data())
@settings(deadline=None)
def test_proven_objects_keep_away_from_cut_edges_and_those_alone(data):
    y0, x0 = data.draw(st.integers(0, 3)), data.draw(st.integers(0, 3))
    y1, x1 = data.draw(st.integers(20, 23)), data.draw(st.integers(20, 23))
    outer, shape = Window(y0, x0, y1, x1), (23, 23)
    top, left = data.draw(st.integers(y0, y1 - 1)), data.draw(st.integers(x0, x1 - 1))
    bottom = data.draw(st.integers(top + 1, y1))
    right = data.draw(st.integers(left + 1, x1))
    margin = data.draw(st.integers(0, 4))
    labels = np.zeros(shape, np.uint32)
    labels[top:bottom, left:right] = 1
    found = describe(labels[outer.slices], outer, outer, PatchGrid(shape, shape, (0, 0)))
    # Of an object, its neighbours and `margin` px more, none may be cut away.
    y, x = np.nonzero(ndi.binary_dilation(labels, np.ones((3, 3)), margin + 1))
    seen = (y >= y0) & (y < y1) & (x >= x0) & (x < x1)
    assert reach_cut_edge(found, outer, margin, shape).tolist() == [not seen.all()]


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
