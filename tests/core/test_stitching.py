"""Candidates of objects at seams, and the resolution of conflicts between them."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage as ndi

from codexseg.core.grid import PatchGrid, Window
from codexseg.core.labels.stitching import (
    describe_objects,
    find_candidates,
    largest_component,
    near_cut_edge,
    resolve_conflicts,
    select_discards,
)
from tests.helpers.drawing import draw

WHOLE = Window(0, 0, 4, 8)
GRID = PatchGrid((4, 8), (4, 4), (4, 4))
"""Two patches side by side, both with the whole slide as outer window."""


def candidates_of(*drawings, grid=GRID):
    objects = {
        patch.number: describe_objects(
            draw(drawing)[patch.outer.slices], patch.outer, patch.core, grid
        )
        for patch, drawing in zip(grid, drawings, strict=True)
    }
    return objects, find_candidates(objects, grid)


def no_conflicts():
    return np.zeros((0, 3), np.int64)


def reference_rows(labels, patch, grid):
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
def test_describe_objects_matches_numpy_at_any_patch(grid, data):
    patch = grid[data.draw(st.integers(0, len(grid) - 1))]
    few = st.sampled_from([0, 1, 2, 7, 2**31, 2**32 - 1])
    labels = data.draw(arrays(np.uint32, patch.outer.shape, elements=few))
    found = describe_objects(labels, patch.outer, patch.core, grid)
    columns = (found.label, found.first, found.area, *found.box.T, found.n_cores)
    rows = [list(row) for row in zip(*(c.tolist() for c in columns), strict=True)]
    assert rows == reference_rows(labels, patch, grid)


@given(arrays(np.uint32, (6, 9), elements=st.integers(0, 3)), st.data())
@settings(deadline=None)
def test_description_independent_of_window_and_label(labels, data):
    grid = data.draw(st.sampled_from(GRIDS[1:]))
    height, width = (n // 2 for n in grid.shape)
    here = Window(height, width, height + 6, width + 9)
    dy, dx = data.draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    wider = Window(here.y0 - dy, here.x0 - dx, here.y1 + 2, here.x1 + 1)
    again = np.pad((5 - labels) * (labels > 0), ((dy, 2), (dx, 1)))
    one = describe_objects(labels, here, here, grid)
    other = describe_objects(again, wider, here, grid)
    for name in ("first", "area", "pixels", "box"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name)[::-1])


def test_candidates_differ_if_only_first_pixel_and_area_are_equal():
    first_patch = "...11... ...1.... ........ ........"
    second_patch = "...11... ....1... ........ ........"
    _, candidates = candidates_of(first_patch, second_patch)
    assert candidates.first.tolist() == [3, 3]
    assert candidates.area.tolist() == [3, 3]
    assert not candidates.consistent.any()


@pytest.mark.parametrize("row", [0, 500_000_000])
def test_object_at_seam_has_one_source_patch_beyond_32_bit_positions(row):
    """First pixels exceed 2**31: 500 million rows of 8 px are 4e9 px."""
    grid = PatchGrid((row + 4, 8), (4, 4), (4, 4))
    drawing = "........ ..2222.. ......3. ........"
    objects = {}
    for patch in (grid[len(grid) - 2], grid[len(grid) - 1]):
        window = Window(row, 0, row + 4, 8)
        objects[patch.number] = describe_objects(draw(drawing), window, patch.core, grid)
    candidates = find_candidates(objects, grid)
    assert candidates.first.tolist() == [(row + 1) * 8 + 2, (row + 2) * 8 + 6]
    assert candidates.consistent.all()
    assert candidates.source_patch.tolist() == [len(grid) - 2, len(grid) - 1]
    assert candidates.owns_first_pixel.all()


def test_detections_are_objects_that_touch_the_core():
    drawing = """
        11....22
        ...33...
        ...33...
        4......4
    """
    objects, candidates = candidates_of(drawing, drawing)
    assert objects[0].label.tolist() == [1, 3, 4]
    assert objects[1].label.tolist() == [2, 3, 4]
    assert objects[0].area.tolist() == [2, 4, 2]
    assert objects[0].first.tolist() == [0, 11, 24]
    assert objects[0].n_cores.tolist() == [1, 2, 2]
    assert objects[0].box[1].tolist() == [1, 3, 3, 5]
    assert candidates.consistent.all()
    assert candidates.source_patch.tolist() == [0, 1, 0, 0]  # 1, 2, 3, 4 in raster order


def test_candidates_independent_of_label_numbers():
    first_patch = "11.22... 11.22... ........ ........"
    second_patch = "77.33... 77.33... ........ ........"
    _, candidates = candidates_of(first_patch, second_patch)
    assert candidates.consistent.all()
    assert len(candidates.first) == 2


def test_describe_objects_accepts_the_maximum_label():
    grid = PatchGrid((2, 4), (2, 4), (0, 0))
    labels = np.array([[0, 2**32 - 1, 0, 5], [0, 2**32 - 1, 0, 5]], np.uint32)
    objects = describe_objects(labels, grid[0].outer, grid[0].core, grid)
    assert objects.label.tolist() == [5, 2**32 - 1]
    assert objects.area.tolist() == [2, 2]


def test_conflicting_object_is_taken_whole_from_one_patch():
    first_patch = "..1111.. ..1111.. ........ ........"
    second_patch = "...111.. ...111.. ........ ........"
    _, candidates = candidates_of(first_patch, second_patch)
    assert not candidates.consistent.any()
    accepted = resolve_conflicts(candidates, np.array([[0, 1, 6]]), 0.5)
    assert accepted.tolist() == [0]
    assert candidates.area[accepted].tolist() == [8]
    assert candidates.source_patch[accepted].tolist() == [0]


def test_object_detected_by_one_patch_only_is_accepted():
    first_patch = "........ ..1111.. ........ ........"
    _, candidates = candidates_of(first_patch, "........ ........ ........ ........")
    assert resolve_conflicts(candidates, no_conflicts(), 0.5).tolist() == [0]


def test_resolve_rejects_candidates_below_min_remaining():
    first_patch = "..11.... ..11.... ..11.... ........"
    second_patch = "...222.. ...222.. ........ ........"
    _, candidates = candidates_of(first_patch, second_patch)
    by_area = resolve_conflicts(candidates, np.array([[0, 1, 2]]), 0.5)
    assert len(by_area) == 2  # the smaller one keeps 4 of 6 px
    assert len(resolve_conflicts(candidates, np.array([[0, 1, 2]]), 0.9)) == 1


@given(st.permutations(range(6)))
def test_result_independent_of_order_of_detections_and_conflicts(order):
    rng = np.random.default_rng(0)
    grid = PatchGrid((60, 24), (60, 12), (60, 12))
    seen = (ndi.label(rng.random(grid.shape) < 0.4)[0].astype(np.uint32) for _ in grid)
    objects = {
        p.number: describe_objects(labels, p.outer, p.core, grid)
        for p, labels in zip(grid, seen, strict=True)
    }
    candidates = find_candidates(objects, grid)
    again = find_candidates(dict(reversed(objects.items())), grid)
    np.testing.assert_array_equal(candidates.first, again.first)
    conflicting = np.flatnonzero(~candidates.consistent)
    conflicts = [(int(a), int(b), 1) for a in conflicting[:3] for b in conflicting[3:5]]
    assert len(conflicts) == 6
    shuffled = np.array([conflicts[i] for i in order])
    np.testing.assert_array_equal(
        resolve_conflicts(candidates, shuffled, 0.5),
        resolve_conflicts(candidates, np.array(conflicts)[:, [1, 0, 2]], 0.5),
    )


def pixels_of(candidates, images):
    """Return masks of the candidates in their source patches: (candidates, y, x)."""
    sources = zip(
        candidates.source_patch.tolist(), candidates.source_label.tolist(), strict=True
    )
    return np.array([images[patch] == label for patch, label in sources])


def conflicts_of(candidates, masks):
    """Return rows (candidate, candidate, shared pixels) of inconsistent candidates."""
    rows = [
        (i, j, int(np.sum(masks[i] & masks[j])))
        for i in np.flatnonzero(~candidates.consistent)
        for j in range(len(masks))
        if i != j
    ]
    found = [row for row in rows if row[2]]
    return np.array(found, np.int64).reshape(-1, 3)


@pytest.mark.parametrize(
    ("first_patch", "second_patch", "first"),
    [
        # a candidate whose patch owns its first pixel precedes a larger one without
        ("...11... ...11... ........ ........", "..222... ..222... ........ ........", 3),
        # both patches own the first pixels: the larger candidate
        ("...11... ...11... ........ ........", "....2... ...222.. ...222.. ........", 4),
        # equal areas: the first in raster order, from any patch
        ("........ ...11... ...11... ........", "....2... ...222.. ........ ........", 4),
    ],
)
def test_resolve_accepts_the_candidate_of_higher_priority(first_patch, second_patch, first):
    _, candidates = candidates_of(first_patch, second_patch)
    assert not candidates.consistent.any()
    conflicts = conflicts_of(
        candidates, pixels_of(candidates, [draw(first_patch), draw(second_patch)])
    )
    assert candidates.first[resolve_conflicts(candidates, conflicts, 0.6)].tolist() == [
        first
    ]


def test_duplicate_conflicts_count_once_with_maximum_pixels():
    first_patch = "..1111.. ..1111.. ........ ........"
    second_patch = "........ ..2222.. ..22.... ........"
    _, candidates = candidates_of(first_patch, second_patch)
    once = np.array([[0, 1, 4]])
    for conflicts in (once, np.array([[0, 1, 1], [1, 0, 4], [0, 1, 4]])):
        assert resolve_conflicts(candidates, conflicts, 1 / 3).tolist() == [0, 1]
        assert resolve_conflicts(candidates, conflicts, 0.4).tolist() == [0]


def four_patches(seed):
    """Return candidates, masks and conflicts of four patches with random differences."""
    rng, grid = np.random.default_rng(seed), PatchGrid((14, 18), (7, 9), (14, 18))
    tissue = rng.random(grid.shape) < 0.5
    flaws = rng.random((4, *grid.shape)) < rng.choice([0.01, 0.05, 0.3])
    images = [ndi.label(tissue ^ flaw)[0].astype(np.uint32) for flaw in flaws]
    objects = {
        p.number: describe_objects(images[p.number], p.outer, p.core, grid) for p in grid
    }
    candidates = find_candidates(objects, grid)
    masks = pixels_of(candidates, images)
    return candidates, masks, conflicts_of(candidates, masks)


@pytest.mark.slow
@given(st.integers(0, 2**31), st.floats(0.5, 1), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_resolve_properties_for_random_conflicts(seed, min_remaining, random):
    candidates, masks, conflicts = four_patches(seed)
    area = masks.sum(axis=(1, 2))
    accepted = resolve_conflicts(candidates, conflicts, min_remaining)

    assert len(set(accepted.tolist())) == len(accepted)
    consistent = np.flatnonzero(candidates.consistent)
    assert accepted[: len(consistent)].tolist() == consistent.tolist()
    # Consistent candidates first, then free pixels in the order of acceptance.
    composed = np.zeros(masks.shape[1:], int)
    assert masks[consistent].sum(axis=0).max(initial=0) <= 1
    for candidate in accepted:
        free = masks[candidate] & (composed == 0)
        assert free.sum() >= (
            1 if candidates.consistent[candidate] else min_remaining * area[candidate]
        )
        composed[free] = candidate + 1
    shared = np.tensordot(masks[accepted], masks[accepted], axes=((1, 2), (1, 2)))
    own = area[accepted]
    overlap = shared / (own[:, None] + own - shared)
    assert (overlap[~np.eye(len(own), dtype=bool)] <= 0.5).all()
    # A rejected candidate has too few pixels left by the accepted ones.
    for candidate in set(range(len(area))) - set(accepted.tolist()):
        taken = (masks[candidate] & masks[accepted]).sum()
        assert area[candidate] - taken < min_remaining * area[candidate]
    # The order of conflicts, and of the two candidates in them, has no effect.
    rows = [[*random.sample([a, b], 2), n] for a, b, n in conflicts.tolist() * 2]
    random.shuffle(rows)
    reordered = np.array(rows, np.int64).reshape(-1, 3)
    assert (
        resolve_conflicts(candidates, reordered, min_remaining).tolist()
        == accepted.tolist()
    )


@given(arrays(np.bool_, (6, 7)))
@settings(deadline=None)
def test_largest_component_matches_flood_fill(mask):
    best, seen = set(), set()
    for start in map(tuple, np.argwhere(mask).tolist()):
        piece, todo = set(), [start]
        while todo:
            y, x = todo.pop()
            if (y, x) not in seen and 0 <= y < 6 and 0 <= x < 7 and mask[y, x]:
                seen.add((y, x))
                piece.add((y, x))
                todo += [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        best = max(best, piece, key=len)  # the first of equal sizes
    assert set(map(tuple, np.argwhere(largest_component(mask)).tolist())) == best


def remaining_pixels(masks, accepted):
    """Return the pixels each candidate gets, in that order: (candidates, y, x)."""
    left, taken = np.zeros_like(masks), np.zeros(masks.shape[1:], bool)
    for candidate in accepted:
        left[candidate] = masks[candidate] & ~taken
        taken |= masks[candidate]
    return left


def is_fragmented(left, mask, min_remaining):
    if left.sum() == mask.sum():
        return False
    return largest_component(left).sum() < min_remaining * mask.sum()


def accepted_one_by_one(candidates, masks, min_remaining):
    """Accept or reject candidates one by one by the pixels that earlier ones leave."""
    consistent, area = candidates.consistent, masks.sum(axis=(1, 2))
    order = sorted(
        np.flatnonzero(~consistent).tolist(),
        key=lambda v: (
            *(not candidates.owns_first_pixel[v], -area[v]),
            *(candidates.first[v], candidates.source_patch[v]),
        ),
    )
    accepted = np.flatnonzero(consistent).tolist()
    for candidate in order:
        left = area[candidate] - (masks[candidate] & masks[accepted]).sum()
        if left > 0 and left >= min_remaining * area[candidate]:
            pixels = remaining_pixels(masks, [*accepted, candidate])[candidate]
            if not is_fragmented(pixels, masks[candidate], min_remaining):
                accepted.append(candidate)
    return accepted


def resolved_iteratively(candidates, masks, conflicts, min_remaining):
    discarded, before, affected = np.zeros(0, np.int64), None, range(len(masks))
    while True:
        accepted = resolve_conflicts(candidates, conflicts, min_remaining, discarded)
        left = remaining_pixels(masks, accepted)
        fragmented = [
            v for v in accepted if is_fragmented(left[v], masks[v], min_remaining)
        ]
        if before is not None:  # unaffected candidates keep their pixels
            changed = np.flatnonzero((left != before).any(axis=(1, 2)))
            assert set(changed) <= set(affected)
        if not fragmented:
            return accepted.tolist(), len(discarded)
        discards, affected = select_discards(candidates, conflicts, np.array(fragmented))
        assert len(discards) > 0
        assert set(discards) <= set(fragmented) <= set(affected)
        discarded, before = np.concatenate([discarded, discards]), left


@given(st.integers(0, 2**31), st.floats(0.3, 1))
@example(117149, 1.0)  # equal areas and first pixels: the lower patch comes first
@settings(deadline=None, max_examples=50)
def test_iterative_resolution_equals_accepting_one_by_one(seed, min_remaining):
    candidates, masks, conflicts = four_patches(seed)
    accepted, _ = resolved_iteratively(candidates, masks, conflicts, min_remaining)
    assert accepted == accepted_one_by_one(candidates, masks, min_remaining)


def test_discarding_fragmented_candidates_lets_others_be_accepted():
    found = [resolved_iteratively(*four_patches(seed), 0.4) for seed in range(12)]
    n_resolved = [
        len(resolve_conflicts(*four_patches(seed)[::2], 0.4)) for seed in range(12)
    ]
    gained = [
        len(accepted) + n_discarded - n
        for (accepted, n_discarded), n in zip(found, n_resolved, strict=True)
    ]
    assert sum(n for _, n in found) > 5
    assert max(gained) > 0


def test_near_cut_edge_is_true_only_near_cut_edges():
    drawing = """
        1......2
        ....3...
        ...4....
        ........
    """
    grid = PatchGrid((4, 16), (4, 8), (0, 0))
    left = describe_objects(draw(drawing), grid[0].outer, grid[0].core, grid)
    # the slide continues only at the right
    assert near_cut_edge(left, grid[0].outer, 3, grid.shape).tolist() == [
        False,
        True,
        True,
        False,
    ]
    assert not near_cut_edge(left, WHOLE, 3, (4, 8)).any()


@given(st.data())
@settings(deadline=None)
def test_near_cut_edge_matches_dilation_of_the_object(data):
    y0, x0 = data.draw(st.integers(0, 3)), data.draw(st.integers(0, 3))
    y1, x1 = data.draw(st.integers(20, 23)), data.draw(st.integers(20, 23))
    outer, shape = Window(y0, x0, y1, x1), (23, 23)
    top, left = data.draw(st.integers(y0, y1 - 1)), data.draw(st.integers(x0, x1 - 1))
    bottom = data.draw(st.integers(top + 1, y1))
    right = data.draw(st.integers(left + 1, x1))
    margin = data.draw(st.integers(0, 4))
    labels = np.zeros(shape, np.uint32)
    labels[top:bottom, left:right] = 1
    found = describe_objects(
        labels[outer.slices], outer, outer, PatchGrid(shape, shape, (0, 0))
    )
    # The object, its neighbours and `margin` more pixels must be inside the window.
    y, x = np.nonzero(ndi.binary_dilation(labels, np.ones((3, 3)), margin + 1))
    seen = (y >= y0) & (y < y1) & (x >= x0) & (x < x1)
    assert near_cut_edge(found, outer, margin, shape).tolist() == [not seen.all()]


@given(
    st.integers(0, 2**31),
    st.tuples(st.integers(5, 20), st.integers(5, 20)),
)
def test_candidates_are_consistent_if_windows_contain_whole_objects(seed, step):
    """Candidates equal the objects of the whole slide for any grid."""
    rng = np.random.default_rng(seed)
    whole = ndi.label(ndi.gaussian_filter(rng.random((40, 50)), 1) > 0.55)[0].astype(
        np.uint32
    )
    grid = PatchGrid(whole.shape, step, (50, 50))
    objects = {
        p.number: describe_objects(whole[p.outer.slices], p.outer, p.core, grid)
        for p in grid
    }
    candidates = find_candidates(objects, grid)
    assert candidates.consistent.all()
    ids, first, area = np.unique(whole, return_index=True, return_counts=True)
    assert candidates.first.tolist() == sorted(first[ids > 0])
    assert sorted(candidates.area) == sorted(area[ids > 0])
    home = grid.owner(*np.divmod(candidates.first, 50))
    assert candidates.source_patch.tolist() == home.tolist()
