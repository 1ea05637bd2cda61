import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.segmentation import find_boundaries

from codexseg.core.labels.matching import (
    apply_pairs,
    interior,
    match,
    matched_fraction,
    matching_stats,
    pair_table,
)
from codexseg.core.labels.operations import object_table
from codexseg.errors import InputError
from tests.helpers.drawing import draw


def blocks(n, size):
    small = arrays(np.uint32, (n, n), elements=st.integers(0, 6))
    return small.map(lambda a: np.kron(a, np.ones((size, size), np.uint32)))


cell_images, nucleus_images = blocks(3, 4), blocks(6, 2)


def reference_pairs(cells, nuclei, min_overlap=0.0, *, sequential=False):
    inside = (cells > 0) & ~find_boundaries(cells, mode="inner")
    candidates = []
    for c in np.unique(cells[cells > 0]):
        for n in np.unique(nuclei[nuclei > 0]):
            shared = int(np.sum(inside & (cells == c) & (nuclei == n)))
            area = int(np.sum(nuclei == n))
            if not shared or shared / area < min_overlap:
                continue
            firsts = (np.argmax(nuclei == n), np.argmax(cells == c))
            key = (-Fraction(shared, area), -shared, -area, *firsts)
            candidates.append(((c, key) if sequential else key, int(c), int(n)))
    taken = []
    for _, c, n in sorted(candidates):
        if all(c != other[0] and n != other[1] for other in taken):
            taken.append((c, n))
    return sorted(taken)


def match_images(cells, nuclei, **options):
    pairs = pair_table(cells, nuclei)
    cell_table, nucleus_table = object_table(cells), object_table(nuclei)
    accepted = match(
        np.searchsorted(cell_table.label, pairs.cell),
        np.searchsorted(nucleus_table.label, pairs.nucleus),
        pairs.shared,
        nucleus_area=nucleus_table.area,
        cell_first=cell_table.first,
        nucleus_first=nucleus_table.first,
        **options,
    )
    return pairs.cell[accepted], pairs.nucleus[accepted]


def test_pair_table_counts_interior_pixels_only():
    cells = draw("""
        .....222
        .1111222
        .1111222
        .1111222
    """)
    nuclei = draw("""
        ........
        ..777777
        ..77.888
        ..77..88
    """)
    # The image border cuts the cells at the bottom and right: no boundary there.
    assert np.array_equal(
        interior(cells),
        draw("""
            ......11
            ......11
            ..11..11
            ..11..11
        """),
    )
    pairs = pair_table(cells, nuclei)
    assert pairs.cell.tolist() == [1, 2, 2]
    assert pairs.nucleus.tolist() == [7, 7, 8]
    assert pairs.shared.tolist() == [4, 2, 4]


@given(cell_images, nucleus_images)
@settings(deadline=None)
def test_pair_tables_of_windows_sum_to_table_of_image(cells, nuclei):
    whole = pair_table(cells, nuclei)
    inside, total = interior(cells), {}
    for rows in (slice(0, 5), slice(5, 12)):
        for columns in (slice(0, 7), slice(7, 12)):
            part = np.s_[rows, columns]
            table = pair_table(cells[part], nuclei[part], interior=inside[part])
            for c, n, shared in zip(*map(np.ndarray.tolist, table), strict=True):
                total[c, n] = total.get((c, n), 0) + shared
    assert sorted(total) == list(zip(whole.cell.tolist(), whole.nucleus, strict=True))
    assert [total[key] for key in sorted(total)] == whole.shared.tolist()


def test_pair_table_counts_thousands_of_pairs():
    rng = np.random.default_rng(3)
    cells = rng.integers(1, 2**32, (80, 90), dtype=np.uint32)
    nuclei = rng.integers(0, 50, cells.shape).astype(np.uint32) * np.uint32(85_899_345)
    everywhere = np.ones(cells.shape, bool)
    pairs = pair_table(cells, nuclei, interior=everywhere)
    is_nucleus = nuclei > 0
    keys = cells[is_nucleus].astype(np.uint64) << np.uint64(32) | nuclei[is_nucleus]
    expected, counts = np.unique(keys, return_counts=True)
    assert len(expected) > 5000
    assert np.array_equal(pairs.cell, expected >> np.uint64(32))
    assert np.array_equal(pairs.nucleus, expected & np.uint64(2**32 - 1))
    assert np.array_equal(pairs.shared, counts)


@given(cell_images, nucleus_images, st.sampled_from([0, 0.25, 0.5, 1]), st.booleans())
@settings(deadline=None)
def test_match_agrees_with_reference_implementation(cells, nuclei, min_overlap, sequential):
    matching = "sequential" if sequential else "best"
    pairs = match_images(cells, nuclei, matching=matching, min_overlap=min_overlap)
    expected = reference_pairs(cells, nuclei, min_overlap, sequential=sequential)
    assert sorted(zip(*map(np.ndarray.tolist, pairs), strict=True)) == expected


@pytest.mark.parametrize(
    ("pairs", "nucleus_area", "firsts", "expected"),
    [
        # (cell, nucleus, shared); rules in the order in which they decide
        ([(0, 0, 6), (0, 1, 7)], [8, 10], [0, 1], 0),  # overlap: 0.75 before 0.70
        ([(0, 0, 3), (0, 1, 6)], [4, 8], [0, 1], 1),  # equal overlap: more pixels
        ([(0, 0, 5), (0, 1, 5)], [5, 5], [9, 4], 1),  # all equal: first in raster order
        ([(0, 0, 1), (0, 1, 33_333_333)], [3, 99_999_999], [0, 1], 1),  # 1/3 is 1/3
        ([(0, 0, 8_191), (0, 1, 8_192)], [8_192, 8_193], [0, 1], 1),
        ([(0, 0, 8_192), (0, 1, 16_382)], [8_193, 16_384], [0, 1], 0),  # by 1.5e-8
    ],
)
def test_match_resolves_ties_in_documented_order(pairs, nucleus_area, firsts, expected):
    cell, nucleus, shared = np.array(pairs).T
    for order in ([0, 1], [1, 0]):
        accepted = match(
            cell[order],
            nucleus[order],
            shared[order],
            nucleus_area=np.array(nucleus_area),
            cell_first=np.array([0]),
            nucleus_first=np.array(firsts),
        )
        assert nucleus[order][accepted].tolist() == [expected]


def test_nucleus_shared_equally_goes_to_first_cell():
    cells, nuclei = draw("2222211111"), draw("...5..5...")
    assert match_images(cells, nuclei)[0].tolist() == [2]
    assert match_images(cells, nuclei, matching="sequential")[0].tolist() == [1]


@pytest.mark.parametrize("limit", [2, 2**31, 2**32, 2**40])
def test_first_pixels_beyond_32_bits_are_compared_correctly(limit):
    accepted = match(
        np.array([0, 1]),
        np.array([0, 0]),
        np.array([3, 3]),
        nucleus_area=np.array([6]),
        cell_first=np.array([limit + 1, limit - 2]),
        nucleus_first=np.array([limit]),
    )
    assert accepted.tolist() == [1]


def test_tie_argument_orders_only_pairs_of_equal_overlap():
    def accepted(shared):
        return match(
            np.array([0, 0]),
            np.array([0, 1]),
            np.array(shared),
            nucleus_area=np.array([4, 2]),
            cell_first=np.array([0]),
            nucleus_first=np.array([0, 1]),
            tie=np.array([1, 0]),
        ).tolist()

    assert accepted([4, 2]) == [1]
    assert accepted([4, 1]) == [0]


def test_match_without_candidates_returns_no_pairs():
    empty = np.zeros(0, np.int64)
    options = {"nucleus_area": empty, "cell_first": empty, "nucleus_first": empty}
    assert match(empty, empty, empty, **options).tolist() == []
    assert match(empty, empty, empty, **options, matching="sequential").tolist() == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"matching": "greedy"}, "'greedy'. Expected one of best, sequential"),
        ({"min_overlap": 50}, "min_overlap is 50"),
        ({"min_overlap": math.nan}, "min_overlap is nan"),
    ],
)
def test_match_rejects_invalid_settings(options, message):
    with pytest.raises(InputError, match=message):
        match_images(draw("111"), draw("..1"), **options)


@st.composite
def candidates(draw):
    """Candidate pairs of up to seven cells and nuclei, and arrays per object."""
    pair = st.tuples(st.integers(0, 6), st.integers(0, 6))
    pairs = draw(st.lists(pair, unique=True, max_size=20))
    cell, nucleus = np.array(pairs, np.int64).reshape(-1, 2).T
    shared = draw(arrays(np.int64, len(pairs), elements=st.integers(1, 4)))
    area = 4 + draw(arrays(np.int64, 7, elements=st.integers(0, 4)))
    firsts = [np.array(draw(st.permutations(range(7)))) for _ in range(2)]
    return (cell, nucleus, shared), {
        "nucleus_area": area,
        "cell_first": firsts[0],
        "nucleus_first": firsts[1],
    }


@given(candidates())
@settings(deadline=None)
def test_pairs_are_one_to_one_and_stable(table):
    """Each rejected pair competes with an accepted pair of higher priority."""
    (cell, nucleus, shared), objects = table
    accepted = match(cell, nucleus, shared, **objects)
    assert len(set(cell[accepted])) == len(set(nucleus[accepted])) == len(accepted)
    keys = [
        (-Fraction(int(s), int(objects["nucleus_area"][n])), -s, *firsts)
        for n, s, *firsts in zip(
            nucleus,
            shared,
            objects["nucleus_first"][nucleus],
            objects["cell_first"][cell],
            strict=True,
        )
    ]
    for row in set(range(len(cell))) - set(accepted.tolist()):
        competitors = accepted[
            (cell[accepted] == cell[row]) | (nucleus[accepted] == nucleus[row])
        ]
        assert min(keys[pair] for pair in competitors) < keys[row]


@given(candidates(), st.randoms(use_true_random=False), st.booleans())
@settings(deadline=None)
def test_match_independent_of_order_of_candidates(table, random, sequential):
    columns, objects = table
    options = objects | {"matching": "sequential" if sequential else "best"}
    order = np.array(random.sample(range(len(columns[0])), len(columns[0])), np.int64)
    shuffled = match(*(column[order] for column in columns), **options)
    assert order[shuffled].tolist() == match(*columns, **options).tolist()


@given(candidates(), st.sampled_from([2**31, 2**32, 2**53, 2**62]), st.booleans())
@settings(deadline=None)
def test_match_independent_of_offset_of_first_pixels(table, limit, sequential):
    """Raster indexes range around powers of two."""
    columns, objects = table
    options = {"matching": "sequential" if sequential else "best"}
    far = {
        name: values + (limit - 4 if name.endswith("first") else 0)
        for name, values in objects.items()
    }
    near = match(*columns, **objects, **options)
    assert match(*columns, **far, **options).tolist() == near.tolist()


def test_tables_have_int64_columns():
    labels = draw("1122")
    table, pairs = object_table(labels), pair_table(labels, labels)
    for column in (table.area, table.first, pairs.shared):
        assert column.dtype == np.int64


def test_apply_pairs_writes_masks_and_boundaries():
    cells = draw("""
        ........
        .1111222
        .1111222
        .1111222
        ........
    """)
    nuclei = draw("""
        ........
        ..7..8..
        ..77788.
        .....99.
        ........
    """)
    ids = [np.array(column, np.uint32) for column in ([2, 40], [9, 1], [5, 6])]
    masks = apply_pairs(cells, nuclei, *ids)
    expected = {
        "cell": cells // 2 * 5,
        "nucleus": np.zeros_like(cells),
        "cytoplasm": cells // 2 * 5,
        "cell_boundary": draw("""
            ........
            .....555
            .....5..
            .....555
            ........
        """),
        "nucleus_boundary": np.zeros_like(cells),
    }
    for name, mask in expected.items():
        assert np.array_equal(getattr(masks, name), mask), name
    masks = apply_pairs(cells, nuclei, *(np.array([v], np.uint32) for v in (1, 7, 3)))
    expected = draw("........ ........ ..33.... ........ ........")
    assert np.array_equal(masks.nucleus, expected)
    assert np.array_equal(masks.nucleus_boundary, masks.nucleus)
    assert np.array_equal(masks.cytoplasm, masks.cell - masks.nucleus)


@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 6_000))
@settings(deadline=None, max_examples=30)
def test_apply_pairs_matches_numpy_on_random_images(seed, height, width):
    """Images of several thousand pixels, runs of any length, labels up to 2**32 - 1."""
    rng = np.random.default_rng(seed)
    labels = np.array([0, 1, 7, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1], np.uint32)
    cells, nuclei = (
        labels[rng.integers(0, 7, 1 + width // run)[np.arange(width) // run]]
        * (rng.random((height, width)) < 0.95).astype(np.uint32)
        for run in rng.integers(1, 3_000, 2)
    )
    inside = interior(cells)
    chosen = rng.integers(0, 6)
    pair_cell, pair_nucleus, ids = (rng.permutation(labels[1:])[:chosen] for _ in range(3))
    masks = apply_pairs(cells, nuclei, pair_cell, pair_nucleus, ids)
    cell, nucleus = np.zeros_like(cells), np.zeros_like(cells)
    for c, n, number in zip(pair_cell, pair_nucleus, ids, strict=True):
        cell[cells == c] = number
        nucleus[inside & (cells == c) & (nuclei == n)] = number
    assert np.array_equal(masks.cell, cell)
    assert np.array_equal(masks.nucleus, nucleus)
    assert np.array_equal(masks.cytoplasm, np.where(nucleus > 0, 0, cell))
    for mask, boundary in ((cell, masks.cell_boundary), (nucleus, masks.nucleus_boundary)):
        assert np.array_equal(boundary, find_boundaries(mask, mode="inner") * mask)


def test_pairs_of_absent_objects_are_ignored():
    cells, nuclei = draw("1111 1111 1111"), draw(".... .22. ....")
    present = [np.array([v], np.uint32) for v in (1, 2, 5)]
    with_absent = [np.array(v, np.uint32) for v in ([8, 1, 9], [2, 2, 7], [4, 5, 6])]
    for mask, expected in zip(
        apply_pairs(cells, nuclei, *present),
        apply_pairs(cells, nuclei, *with_absent),
        strict=True,
    ):
        assert np.array_equal(mask, expected)


def test_matching_rejects_unequal_shapes_and_duplicate_cells():
    cells = draw("111")
    one, two = np.array([1], np.uint32), np.array([1, 2], np.uint32)
    with pytest.raises(InputError, match=r"\(1, 3\), \(1, 2\) and \(1, 3\)"):
        pair_table(cells, draw("11"))
    with pytest.raises(InputError, match="1 cells, 2 nuclei and 1 ids"):
        apply_pairs(cells, cells, one, two, one)
    with pytest.raises(InputError, match="Label 1 in row 1"):
        apply_pairs(cells, cells, np.array([1, 1], np.uint32), two, two)


def test_matching_stats_and_matched_fraction():
    assert matched_fraction(3, 4, 5) == 0.5
    assert matched_fraction(0, 0, 2) == 0
    assert math.isnan(matched_fraction(0, 0, 0))
    assert matching_stats(3, 4, 5) == {
        "nucleus": {"total": (5, 100.0), "matched": (3, 60.0), "unmatched": (2, 40.0)},
        "whole_cell": {"total": (4, 100.0), "matched": (3, 75.0), "unmatched": (1, 25.0)},
    }
    count, percentage = matching_stats(0, 0, 0)["nucleus"]["matched"]
    assert count == 0
    assert math.isnan(percentage)
