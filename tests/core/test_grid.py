import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codexseg.core.grid import PatchGrid, Window
from codexseg.errors import InputError

sizes = st.integers(1, 60)
grids = st.builds(
    PatchGrid,
    st.tuples(sizes, sizes),
    st.tuples(sizes, sizes),
    st.tuples(st.integers(0, 20), st.integers(0, 20)),
)


@given(grids)
def test_cores_partition_the_slide(grid):
    count = np.zeros(grid.shape, int)
    for patch in grid:
        count[patch.core.slices] += 1
    assert np.all(count == 1)


@given(grids)
def test_owner_is_the_patch_with_the_pixel_in_its_core(grid):
    y, x = np.mgrid[: grid.shape[0], : grid.shape[1]]
    owner = grid.owner(y, x)
    for patch in grid:
        assert np.all(owner[patch.core.slices] == patch.number)


@given(grids, st.data())
def test_near_returns_all_patches_with_overlapping_outer_window(grid, data):
    height, width = grid.shape
    y0, x0 = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    y1, x1 = data.draw(st.integers(y0 + 1, height)), data.draw(st.integers(x0 + 1, width))
    window = Window(y0, x0, y1, x1)
    expected = [p.number for p in grid if p.outer.intersection(window)]
    assert [p.number for p in grid.near(window)] == expected


@given(grids)
def test_outer_windows_are_core_plus_halo_clipped_at_the_slide(grid):
    for patch in grid:
        assert patch.outer == patch.core.grow(grid.halo, grid.shape)
        assert patch.outer.intersection(patch.core) == patch.core
        height, width = patch.outer.shape
        assert height <= grid.outer_shape[0]
        assert width <= grid.outer_shape[1]
        assert (
            np.zeros(patch.outer.shape)[patch.core.within(patch.outer)].shape
            == patch.core.shape
        )


def test_patches_are_numbered_row_by_row():
    grid = PatchGrid((5, 7), (3, 3), (1, 1))
    assert [(p.row, p.column) for p in grid] == [(r, c) for r in range(2) for c in range(3)]
    assert grid[5].core == Window(3, 6, 5, 7)
    assert grid[5].outer == Window(2, 5, 5, 7)


def test_empty_grid_raises_input_error():
    with pytest.raises(InputError, match=r"shape \(0, 5\)"):
        PatchGrid((0, 5), (3, 3), (0, 0))
