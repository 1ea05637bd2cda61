import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codexseg.core.algorithms.tiles import (
    BLOCK_TILES,
    OVERLAP_PX,
    STRIDE_PX,
    TILE_PX,
    TileGrid,
)
from codexseg.core.grid import Window

sides = st.integers(1, 4000)
shapes = st.tuples(sides, sides)


@pytest.mark.parametrize(
    ("side", "count", "before"),
    [(1, 1, 127), (255, 1, 0), (256, 1, 0), (257, 2, 96), (448, 2, 0), (449, 3, 96)],
)
def test_tile_count_and_padding_of_an_axis(side, count, before):
    grid = TileGrid((side, 600))
    assert grid.counts[0] == count
    assert grid.padding[0] == before


def all_blocks(grid):
    return [grid.block(number) for number in range(len(grid.block_grid))]


@settings(max_examples=25, deadline=None)
@given(shapes)
def test_tile_weights_add_up_to_one_at_every_pixel(shape):
    shape = (min(shape[0], 1800), min(shape[1], 1800))
    grid = TileGrid(shape)
    total = np.zeros(shape)
    for block in all_blocks(grid):
        sums = np.zeros((1, *block.shape))
        for tile in block.tiles:
            block.add(sums, tile, np.ones((1, TILE_PX, TILE_PX), np.float32))
        total[block.window.slices] += block.crop(sums)[0]
    assert np.abs(total - 1).max() < 3e-4  # the spline is divided by its maximum


@settings(max_examples=100, deadline=None)
@given(shapes, st.data())
def test_blocks_of_window_are_those_that_intersect_it(shape, data):
    grid = TileGrid(shape)
    y0 = data.draw(st.integers(0, shape[0] - 1))
    x0 = data.draw(st.integers(0, shape[1] - 1))
    y1 = data.draw(st.integers(y0 + 1, shape[0]))
    x1 = data.draw(st.integers(x0 + 1, shape[1]))
    window = Window(y0, x0, y1, x1)
    expected = [b.number for b in all_blocks(grid) if b.window.intersection(window)]
    assert [block.number for block in grid.blocks(window)] == expected


@settings(max_examples=20, deadline=None)
@given(st.tuples(st.integers(1, 700), st.integers(1, 700)), st.integers(0, 9))
def test_block_tiles_equal_tiles_of_padded_image(shape, seed):
    image = np.random.default_rng(seed).random((2, *shape), np.float32)
    grid = TileGrid(shape)
    padded = image
    for axis in (0, 1):
        before = grid.padding[axis]
        side = TILE_PX + STRIDE_PX * (grid.counts[axis] - 1)
        width = [(0, 0)] * 3
        width[axis + 1] = (before, side - before - shape[axis])
        mode = "reflect" if shape[axis] < TILE_PX else "constant"
        padded = np.pad(padded, width, mode=mode)
    for block in all_blocks(grid):
        own = block.pad(image[:, *block.window.slices])
        assert own.shape[1:] == block.shape
        for i, j in block.tiles:
            y, x = i * STRIDE_PX, j * STRIDE_PX
            expected = padded[:, y : y + TILE_PX, x : x + TILE_PX]
            assert np.array_equal(own[:, *block.place((i, j))], expected)


def test_image_of_one_tile_height_is_pasted_without_blending():
    grid = TileGrid((256, 640))
    assert not grid.is_blended
    assert np.array_equal(grid.weights(1, 0)[-OVERLAP_PX:], np.zeros(OVERLAP_PX))
    assert grid.weights(1, grid.counts[1] - 1).min() == 1


def test_blocks_partition_the_tiles():
    grid = TileGrid((STRIDE_PX * 20, STRIDE_PX * 9))
    blocks = all_blocks(grid)
    assert max(len(block.tiles) for block in blocks) == BLOCK_TILES**2
    assert sorted(t for b in blocks for t in b.tiles) == [
        (i, j) for i in range(grid.counts[0]) for j in range(grid.counts[1])
    ]


@settings(max_examples=25, deadline=None)
@given(st.tuples(st.integers(1, 3500), st.integers(1, 3500)))
def test_edges_cover_exactly_the_overlap_with_other_blocks(shape):
    grid = TileGrid(shape)
    blocks = all_blocks(grid)
    for block in blocks:
        shared = np.zeros(block.window.shape, bool)
        for other in blocks:
            part = block.window.intersection(other.window)
            if part and other.number != block.number:
                shared[part.within(block.window)] = True
        marked = np.zeros_like(shared)
        for edge in block.edges:
            marked[edge.within(block.window)] = True
        assert np.array_equal(marked, shared)
