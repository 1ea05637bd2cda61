import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from skimage.segmentation import find_boundaries

from codexseg.core.labels.matching import pair_table
from codexseg.core.labels.operations import object_table, relabel
from codexseg.errors import InputError
from codexseg.repair_masks import repair_masks, repair_masks_batch
from tests.helpers.drawing import draw

HERE = Path(__file__).parent
MASKS = (
    "cell_matched_mask",
    "nucleus_matched_mask",
    "cell_outside_nucleus_mask",
    "cell_matched_boundary",
    "nucleus_matched_boundary",
)


def repair(cells, nuclei, **options):
    return repair_masks_batch([{"cell": cells, "nucleus": nuclei}], **options)[0]


def disk(labels, label, y, x, radius):
    rows, columns = np.ogrid[: labels.shape[0], : labels.shape[1]]
    labels[(rows - y) ** 2 + (columns - x) ** 2 <= radius**2] = label


# Examples ----------------------------------------------------------------------------


def test_nucleus_is_trimmed_to_the_interior_of_its_cell():
    repaired = repair(
        draw("""
            .44444..
            .44444..
            .44444..
            ........
            ..999999
            ..999999
        """),
        draw("""
            ........
            ...3333.
            ........
            ........
            .....2..
            ....22..
        """),
    )
    expected = {
        "cell_matched_mask": """
            .11111..
            .11111..
            .11111..
            ........
            ..222222
            ..222222
        """,
        "nucleus_matched_mask": """
            ........
            ...11...
            ........
            ........
            ........
            ....22..
        """,
        "cell_outside_nucleus_mask": """
            .11111..
            .11..1..
            .11111..
            ........
            ..222222
            ..22..22
        """,
        "cell_matched_boundary": """
            .1...1..
            .1...1..
            .11111..
            ........
            ..222222
            ..2.....
        """,
        "nucleus_matched_boundary": """
            ........
            ...11...
            ........
            ........
            ........
            ....22..
        """,
    }
    for name, drawing in expected.items():
        assert repaired[name].dtype == np.uint32
        assert np.array_equal(repaired[name], draw(drawing)), name
    assert repaired["pairs"].tolist() == [[1, 4, 3], [2, 9, 2]]
    assert repaired["matched_fraction"] == 1


def test_pairs_map_ids_to_labels_before_repair():
    cells = draw("..333333 ..333333 ..333333 ........ 88888888 88888888 88888888")
    nuclei = draw("........ ....99.. ........ ........ ........ .222.... ........")
    repaired = repair(cells, nuclei)
    for number, cell, nucleus in repaired["pairs"].tolist():
        kept = repaired["nucleus_matched_mask"] == number
        assert np.array_equal(kept, nuclei == nucleus)  # untouched: retained fraction 1
        assert np.array_equal(repaired["cell_matched_mask"] == number, cells == cell)


def test_result_independent_of_gaps_in_labels():
    cells, nuclei = np.zeros((2, 40, 130), np.uint32)
    for number, x in enumerate((20, 65, 110), start=1):
        disk(cells, number, 20, x, 15)
        disk(nuclei, number, 20, x, 15)
    plain = repair(cells, nuclei)
    old = np.array([1, 2, 3], np.uint32)
    gaps = repair(relabel(cells, old, 4 * old - 3), nuclei)
    areas = np.bincount(plain["nucleus_matched_mask"].ravel())[1:]
    assert len(set(areas.tolist())) == 1
    for name in MASKS:
        assert np.array_equal(plain[name], gaps[name]), name
    assert gaps["pairs"].tolist() == [[1, 1, 1], [2, 5, 2], [3, 9, 3]]


@pytest.mark.parametrize("small", [1, 2])
@pytest.mark.parametrize("matching", ["best", "sequential"])
def test_larger_of_two_nuclei_in_a_cell_is_kept(small, matching):
    cells, nuclei = np.zeros((2, 40, 40), np.uint32)
    disk(cells, 1, 20, 20, 18)
    disk(nuclei, 3 - small, 20, 22, 9)
    disk(nuclei, small, 8, 20, 0)
    repaired = repair(cells, nuclei, matching=matching)
    assert repaired["pairs"].tolist() == [[1, 1, 3 - small]]
    assert repaired["unmatched_nuclei"].tolist() == [small]


@pytest.mark.parametrize("first", [1, 2])
def test_best_matches_nucleus_to_cell_of_highest_overlap(first):
    cells, nuclei = np.zeros((2, 20, 40), np.uint32)
    cells[:, :10], cells[:, 10:] = first, 3 - first
    nuclei[5:15, 6:32] = 1
    assert repair(cells, nuclei)["pairs"].tolist() == [[1, 3 - first, 1]]
    sequential = repair(cells, nuclei, matching="sequential")
    assert sequential["pairs"].tolist() == [[1, 1, 1]]


def test_cell_that_fills_the_patch_has_no_boundary():
    cells, nuclei = np.full((20, 20), 7), np.zeros((20, 20), int)
    disk(nuclei, 4, 10, 10, 5)
    repaired = repair(cells, nuclei)
    assert repaired["pairs"].tolist() == [[1, 7, 4]]
    assert not repaired["cell_matched_boundary"].any()
    assert repaired["matching_stats"]["whole_cell"]["total"] == (1, 100.0)


def test_empty_patch_gives_empty_masks():
    repaired = repair(np.zeros((8, 9), int), np.zeros((8, 9), int))
    assert math.isnan(repaired["matched_fraction"])
    assert repaired["pairs"].shape == (0, 3)
    for name in MASKS:
        assert repaired[name].shape == (8, 9)
        assert not repaired[name].any()


def test_disjoint_cells_and_nuclei_are_unmatched():
    cells, nuclei = draw("111....2"), draw(".....3..")
    repaired = repair(cells, nuclei)
    assert repaired["matched_fraction"] == 0
    assert repaired["unmatched_cells"].tolist() == [1, 2]
    assert repaired["unmatched_nuclei"].tolist() == [3]
    assert not repaired["cell_matched_mask"].any()


def test_nucleus_below_min_overlap_is_unmatched():
    cells, nuclei = draw("1111...."), draw("..3333..")
    assert repair(cells, nuclei, min_overlap=0.25)["pairs"].tolist() == [[1, 1, 3]]
    assert repair(cells, nuclei, min_overlap=0.26)["pairs"].tolist() == []


def test_ids_follow_raster_order_or_match_order():
    cells, nuclei = draw("444..111"), draw("4......1")
    assert repair(cells, nuclei)["pairs"].tolist() == [[1, 4, 4], [2, 1, 1]]
    sequential = repair(cells, nuclei, matching="sequential")
    assert sequential["pairs"].tolist() == [[1, 1, 1], [2, 4, 4]]


def test_batch_returns_one_result_per_patch():
    """Each of 25 patches has a result, also the empty one."""
    cells = draw("1111222 1111222 1111222 3333333")
    nuclei = draw("....... .44..5. ....... ...6...")
    patches = [(np.roll(cells, i, axis=1), np.roll(nuclei, i, axis=1)) for i in range(25)]
    patches[13] = (np.zeros_like(cells), np.zeros_like(nuclei))
    batch = repair_masks_batch([{"cell": c, "nucleus": n} for c, n in patches])
    assert len(batch) == 25
    for found, (c, n) in zip(batch, patches, strict=True):
        alone = repair(c, n)
        for name in (*MASKS, "pairs", "unmatched_cells", "unmatched_nuclei"):
            assert np.array_equal(found[name], alone[name]), name
        assert len(found["pairs"]) + len(found["unmatched_nuclei"]) == 3 * bool(c.any())


def test_retained_fraction_uses_the_label_of_the_same_nucleus():
    """Nucleus 2 gets id 1 and is cut in half; nucleus 1 gets id 2 and is whole."""
    cells = draw("..444444 ..444444 ..444444 ........ 11111111 11111111 11111111")
    nuclei = draw("........ ....22.. ....22.. ........ ........ ..111... ........")
    repaired = repair(cells, nuclei)
    assert repaired["pairs"].tolist() == [[1, 4, 2], [2, 1, 1]]
    before, after = (np.bincount(labels.ravel()) for labels in (nuclei, repaired[MASKS[1]]))
    number, _, nucleus = repaired["pairs"].T
    assert (after[number] / before[nucleus]).tolist() == [0.5, 1]


@pytest.mark.parametrize("matching", ["best", "sequential"])
def test_repair_accepts_labels_up_to_maximum(matching):
    cells = draw("111222 111222 111222 333444 333444 333444")
    nuclei = draw("...... 1....2 ...... ...... 3.4... ......")
    high = np.array([2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1], np.uint32)
    plain = np.arange(1, 5, dtype=np.uint32)
    low = repair(cells, nuclei, matching=matching)
    found = repair(
        relabel(cells, plain, high), relabel(nuclei, plain, high), matching=matching
    )
    for name in MASKS:
        assert np.array_equal(found[name], low[name]), name
    assert low["pairs"].tolist() == [[1, 1, 1], [2, 2, 2], [3, 3, 3]]
    assert found["pairs"][:, 1:].tolist() == [[label, label] for label in high[:3].tolist()]
    assert found["unmatched_cells"].tolist() == [2**32 - 1]
    assert found["unmatched_nuclei"].tolist() == [2**32 - 1]


# Properties --------------------------------------------------------------------------


def blocks(n, size):
    small = arrays(np.uint32, (n, n), elements=st.integers(0, 9))
    return small.map(lambda a: np.kron(a, np.ones((size, size), np.uint32)))


cell_images, nucleus_images = blocks(4, 5), blocks(10, 2)
min_overlaps = st.sampled_from([0, 0.2, 0.5, 1])
rules = st.sampled_from(["best", "sequential"])


@given(cell_images, nucleus_images, rules, min_overlaps)
@settings(deadline=None)
def test_repair_properties_for_random_masks(cells, nuclei, matching, min_overlap):
    repaired = repair(cells, nuclei, matching=matching, min_overlap=min_overlap)
    number, cell, nucleus = repaired["pairs"].T
    new_cell, new_nucleus = (repaired[name] for name in MASKS[:2])

    assert number.tolist() == list(range(1, len(number) + 1))
    for pair in repaired["pairs"]:
        inside = (cells == pair[1]) & ~find_boundaries(cells, mode="inner")
        kept = inside & (nuclei == pair[2])
        assert kept.any()
        assert kept.sum() / np.sum(nuclei == pair[2]) >= min_overlap
        assert np.array_equal(new_cell == pair[0], cells == pair[1])
        assert np.array_equal(new_nucleus == pair[0], kept)
    for labels, kind, matched in ((cells, "cells", cell), (nuclei, "nuclei", nucleus)):
        both = [*matched.tolist(), *repaired[f"unmatched_{kind}"].tolist()]
        assert sorted(both) == np.unique(labels[labels > 0]).tolist()  # each exactly once
    assert np.array_equal(repaired[MASKS[2]], new_cell - new_nucleus)
    for mask, boundary in ((new_cell, MASKS[3]), (new_nucleus, MASKS[4])):
        expected = find_boundaries(mask, mode="inner", connectivity=1) * mask
        assert np.array_equal(repaired[boundary], expected)
    m, c, n = (
        len(number),
        len(np.unique(cells[cells > 0])),
        len(np.unique(nuclei[nuclei > 0])),
    )
    assert repaired["matched_fraction"] == pytest.approx(
        m / (c + n - m) if c + n else np.nan, nan_ok=True
    )
    assert repaired["matching_stats"]["nucleus"]["unmatched"][0] == n - m


@given(cell_images, nucleus_images, min_overlaps, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_result_independent_of_label_numbers(cells, nuclei, min_overlap, random):
    def renumber(labels):
        old = object_table(labels).label
        new = np.array(random.sample(range(1, 2**32), len(old)), np.uint32)
        return relabel(labels, old, new), dict(zip(old.tolist(), new.tolist(), strict=True))

    (cells_2, new_cell), (nuclei_2, new_nucleus) = renumber(cells), renumber(nuclei)
    before = repair(cells, nuclei, min_overlap=min_overlap)
    after = repair(cells_2, nuclei_2, min_overlap=min_overlap)
    for name in MASKS:
        assert np.array_equal(before[name], after[name]), name
    expected = [[i, new_cell[c], new_nucleus[n]] for i, c, n in before["pairs"].tolist()]
    assert after["pairs"].tolist() == expected


# The published rule ------------------------------------------------------------------


def published(name):
    shared = Path(os.environ.get("CODEXSEG_SHARED", HERE.parents[1] / "shared"))
    for folder in (HERE / "data" / "repair", shared / "oracles" / "repair"):
        if (folder / f"{name}.input.npz").exists():
            given = np.load(folder / f"{name}.input.npz")
            masks = np.load(folder / f"{name}.reference.npz")
            counts = json.loads((folder / f"{name}.reference.json").read_text())
            cells, nuclei = (given[key].astype(np.uint32) for key in ("cell", "nucleus"))
            return cells, nuclei, masks, counts
    pytest.skip(f"{name} is in neither tests/data/repair nor {shared / 'oracles/repair'}")


def python_set_order(cells, nuclei):
    def rank(pairs):
        flat, ranks = cells.ravel(), np.zeros(len(pairs.cell), np.int64)
        order = np.argsort(flat, kind="stable")
        starts = np.searchsorted(flat[order], np.arange(int(flat.max()) + 2))
        for row, (cell, nucleus) in enumerate(zip(pairs.cell, pairs.nucleus, strict=True)):
            under = nuclei.ravel()[order[starts[cell] : starts[int(cell) + 1]]]
            ranks[row] = list(set(under.tolist())).index(int(nucleus))
        return ranks

    return rank


@pytest.mark.parametrize("name", ["tiny", "t1k", "t1k_shuffled", "t5k"])
def test_sequential_with_published_ties_equals_published_repair(name):
    cells, nuclei, masks, counts = published(name)
    tie = python_set_order(cells, nuclei)
    repaired = repair_masks(cells, nuclei, matching="sequential", tie=tie)
    assert np.array_equal(repaired["pairs"], masks["pairs"][:, :3])
    for mask in MASKS:
        assert np.array_equal(repaired[mask], masks[mask]), mask
    for kind, stats in repaired["matching_stats"].items():
        assert {key: list(value) for key, value in stats.items()} == (
            counts["matching_stats"][kind]
        )


@pytest.mark.parametrize("name", ["tiny", "t1k", "t1k_shuffled", "t5k"])
def test_sequential_differs_from_published_repair_only_near_ties(name):
    cells, nuclei, masks, _ = published(name)
    pairs = pair_table(cells, nuclei)
    shape = int(cells.max()) + 1, int(nuclei.max()) + 1
    overlap = pairs.shared / np.bincount(nuclei.ravel())[pairs.nucleus]
    node = pairs.nucleus.astype(np.int64) + shape[0]
    graph = coo_array((np.ones(len(node)), (pairs.cell, node)), shape=(sum(shape),) * 2)
    group = connected_components(graph, directed=False)[1]
    choices = np.column_stack([pairs.cell, overlap])
    _, inverse, count = np.unique(choices, axis=0, return_inverse=True, return_counts=True)
    tied = set(group[pairs.cell[count[inverse.ravel()] > 1]].tolist())

    def free_of_ties(table):
        return {(c, n) for c, n in table[:, 1:3].tolist() if group[c] not in tied}

    repaired = repair(cells, nuclei, matching="sequential")
    expected = free_of_ties(masks["pairs"])
    assert free_of_ties(repaired["pairs"]) == expected
    assert len(expected) > 0.5 * len(masks["pairs"])


def test_best_gives_same_masks_for_shuffled_labels():
    plain, shuffled = (repair(*published(name)[:2]) for name in ("t1k", "t1k_shuffled"))
    for name in MASKS:
        assert np.array_equal(plain[name], shuffled[name]), name


# Invalid input -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ({"cell": draw("1")}, r"Patch 1 .* keys \['cell'\].*nucleus missing"),
        ({"cell": draw("1"), "nucleus": draw("11")}, r"of patch 1 .*\(1, 1\) and \(1, 2\)"),
        (
            {"cell": draw("1")[None], "nucleus": draw("1")},
            r"'cell' of patch 1 .*\(1, 1, 1\)",
        ),
        ({"cell": draw("1"), "nucleus": draw("1") * 1.0}, "'nucleus' of patch 1 .*float64"),
        ({"cell": draw("1"), "nucleus": np.array([[-1]])}, "labels from -1 to -1"),
    ],
)
def test_invalid_patch_is_named_in_the_error(patch, message):
    good = {"cell": draw("1"), "nucleus": draw("1")}
    with pytest.raises(InputError, match=message):
        repair_masks_batch([good, patch])


def test_settings_are_checked_for_empty_batch():
    with pytest.raises(InputError, match="min_overlap is -1"):
        repair_masks_batch([], min_overlap=-1)


@pytest.mark.slow
def test_input_is_not_modified():
    cells, nuclei = draw("1111. 1111. 1111."), draw("..... .22.. .22..")
    before = cells.copy(), nuclei.copy()
    cells.flags.writeable = nuclei.flags.writeable = False
    repair(cells, nuclei)
    assert np.array_equal(before, (cells, nuclei))
