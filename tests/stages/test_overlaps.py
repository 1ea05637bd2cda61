"""Overlaps of cells and nuclei, counted core by core."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from codexseg.artifacts.overlaps import CoreOverlaps
from codexseg.core.grid import PatchGrid, pixels_in_window
from codexseg.core.labels.matching import interior, pair_table
from codexseg.run.records import StageRecords
from codexseg.stages.repair import sum_overlaps


def count_by_core(cells, nuclei, grid, same_label=None):
    return {
        patch.number: CoreOverlaps.count(
            *(np.ascontiguousarray(image[patch.core.slices]) for image in (cells, nuclei)),
            None if same_label is None else same_label[patch.core.slices],
        )
        for patch in grid
        if cells[patch.core.slices].any() or nuclei[patch.core.slices].any()
    }


def blocks(seed, shape, block, empty):
    """Return labels (y, x) uint32 of random blocks; a fraction is background."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(1, 5, [-(-n // block) for n in shape])
    coarse[rng.random(coarse.shape) < empty] = 0
    image = np.kron(coarse, np.ones((block, block), int))[: shape[0], : shape[1]]
    return np.ascontiguousarray(image, dtype=np.uint32)


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    step=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    block=st.integers(1, 6),
    empty=st.floats(0, 0.9),
)
def test_cores_give_the_pairs_and_interiors_of_the_whole_image(
    seed, shape, step, block, empty
):
    grid = PatchGrid(shape, step, (0, 0))
    cells = blocks(seed, shape, block, empty)
    nuclei = blocks(seed + 1, shape, max(1, block - 1), empty)
    counted = count_by_core(cells, nuclei, grid)
    pairs, boundary = sum_overlaps(counted, counted.__getitem__, grid)
    for column, expected in zip(pairs, pair_table(cells, nuclei), strict=True):
        np.testing.assert_array_equal(column, expected)
    kept = np.zeros(shape, bool)
    for patch in grid:
        if patch.number in counted:
            pairable = counted[patch.number].pairable
            pairable[pixels_in_window(boundary, patch.core, shape[1])] = False
            kept[patch.core.slices] = pairable
    has_nucleus = nuclei > 0
    np.testing.assert_array_equal(kept & has_nucleus, interior(cells) & has_nucleus)


def test_corner_that_touches_cells_on_two_sides_is_subtracted_once():
    cells = np.ones((4, 4), np.uint32)
    cells[:2, 2:] = 2
    cells[2:, :2] = 3
    nuclei = np.full((4, 4), 7, np.uint32)
    counted = count_by_core(cells, nuclei, PatchGrid((4, 4), (2, 2), (0, 0)))
    pairs, boundary = sum_overlaps(
        counted, counted.__getitem__, PatchGrid((4, 4), (2, 2), (0, 0))
    )
    assert boundary.tolist() == [1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14]
    assert [column.tolist() for column in pairs] == [[1, 2, 3], [7, 7, 7], [2, 1, 1]]


def test_equal_labels_count_without_regard_to_neighbouring_cores():
    cells = np.array([[1, 1, 2, 2]], np.uint32)
    grid = PatchGrid((1, 4), (1, 2), (0, 0))
    counted = count_by_core(cells, cells, grid, same_label=cells > 0)
    pairs, boundary = sum_overlaps(counted, counted.__getitem__, grid)
    assert [column.tolist() for column in pairs] == [[1, 2], [1, 2], [2, 2]]
    assert len(boundary) == 0


def test_overlaps_of_a_core_are_the_same_after_writing_and_reading(tmp_path):
    cells, nuclei = blocks(3, (7, 11), 4, 0.2), blocks(4, (7, 11), 3, 0.2)
    counted, records = (
        CoreOverlaps.count(cells, nuclei),
        StageRecords(tmp_path, "stitch", ""),
    )
    counted.write(records, 5)
    read = CoreOverlaps.read(records, 5, (7, 11))
    np.testing.assert_array_equal(read.pairable, counted.pairable)
    for column, expected in zip(read.pairs, counted.pairs, strict=True):
        np.testing.assert_array_equal(column, expected)
    assert read.edges.keys() == {"top", "bottom", "left", "right"}
    for side, edge in counted.edges.items():
        np.testing.assert_array_equal(read.edges[side], edge)
