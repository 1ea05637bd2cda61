"""Tile grid and blending weights for networks with a fixed input size.

The grid and the squared-spline window are those of `tile_image` and `untile_image` in
deepcell_toolbox, so blended maps equal those of `Mesmer.predict`. Weighted outputs are
summed per block of tiles. Blocks can be predicted separately in any order, and their sums
are added. Sums in the overlap of blocks keep double precision until they are complete:
saturated network outputs form plateaus, where the last bit decides the flooding order.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil

import numpy as np

from codexseg.arrays import Float32, Float64
from codexseg.core.grid import PatchGrid, Window
from codexseg.core.intensity.clahe import reflected

TILE_PX = 256
STRIDE_PX = 192
OVERLAP_PX = TILE_PX - STRIDE_PX
BLOCK_TILES = 6
"""Number of tiles along each side of a block."""


@dataclass(frozen=True)
class TileGrid:
    """Grid of overlapping tiles over an image.

    Tiles of 256 px are placed at a stride of 192 px. An axis of at least 256 px is padded
    with zeros on both sides to 256 + 192 k px, with integer k. A shorter axis is padded to
    256 px by reflection.

    Attributes
    ----------
    shape : (int, int)
        Height and width of the image, px.
    """

    shape: tuple[int, int]

    @property
    def counts(self) -> tuple[int, int]:
        """Number of rows and columns of tiles."""
        rows, columns = (max(1, ceil((n - TILE_PX) / STRIDE_PX + 1)) for n in self.shape)
        return rows, columns

    @property
    def padding(self) -> tuple[int, int]:
        """Padding before the first row and the first column, px."""
        y, x = (
            (_padded(count) - n) // 2 if n < TILE_PX else ceil((_padded(count) - n) / 2)
            for n, count in zip(self.shape, self.counts, strict=True)
        )
        return y, x

    @property
    def is_blended(self) -> bool:
        """Whether overlapping tiles are blended.

        As in deepcell, an image that is one tile high or wide is pasted instead.
        """
        return min(self.counts) > 1

    @property
    def block_grid(self) -> PatchGrid:
        """Grid of the blocks; its unit is a tile instead of a pixel."""
        return PatchGrid(self.counts, (BLOCK_TILES, BLOCK_TILES), (0, 0))

    def block(self, number: int) -> "TileBlock":
        """Return a block by its number in raster order, from 0."""
        tiles = self.block_grid[number].core
        return TileBlock(self, number, (tiles.y0, tiles.y1), (tiles.x0, tiles.x1))

    def blocks(self, window: Window) -> Iterator["TileBlock"]:
        """Yield the blocks with tiles that intersect a window of the image."""
        y, x = self.padding
        tiles = Window(
            max(0, window.y0 + y - OVERLAP_PX) // STRIDE_PX,
            max(0, window.x0 + x - OVERLAP_PX) // STRIDE_PX,
            (window.y1 - 1 + y) // STRIDE_PX + 1,
            (window.x1 - 1 + x) // STRIDE_PX + 1,
        )
        return (self.block(block.number) for block in self.block_grid.near(tiles))

    def weights(self, axis: int, tile: int) -> Float64:
        """Return the blending weights (256,) float64 of a tile along an axis."""
        is_last = tile == self.counts[axis] - 1
        if not self.is_blended:
            weights = np.ones(TILE_PX)
            if not is_last:
                weights[-OVERLAP_PX:] = 0  # the next tile overwrites the overlap
            return weights
        return _spline_weights(rises=tile > 0, falls=not is_last)


@dataclass(frozen=True)
class TileBlock:
    """Rectangle of tiles in a grid.

    Attributes
    ----------
    grid : TileGrid
    number : int
        Number of the block in raster order, from 0.
    rows, columns : (int, int)
        Half-open ranges of the tile rows and columns.
    """

    grid: TileGrid
    number: int
    rows: tuple[int, int]
    columns: tuple[int, int]

    @property
    def corner(self) -> tuple[int, int]:
        """Row and column (px) of the first tile in the image; negative in the padding."""
        y, x = self.grid.padding
        return self.rows[0] * STRIDE_PX - y, self.columns[0] * STRIDE_PX - x

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the tiled area including padding, px."""
        rows, columns = self.rows[1] - self.rows[0], self.columns[1] - self.columns[0]
        return _padded(rows), _padded(columns)

    @property
    def window(self) -> Window:
        """Window of the image that the tiles cover."""
        (y, x), (height, width) = self.corner, self.shape
        return Window(y, x, y + height, x + width).grow(0, self.grid.shape)

    @property
    def edges(self) -> tuple[Window, ...]:
        """Windows of the image that overlap with tiles of other blocks."""
        window, (rows, columns) = self.window, self.grid.counts
        edges = (
            (self.rows[0] > 0, replace(window, y1=window.y0 + OVERLAP_PX)),
            (self.rows[1] < rows, replace(window, y0=window.y1 - OVERLAP_PX)),
            (self.columns[0] > 0, replace(window, x1=window.x0 + OVERLAP_PX)),
            (self.columns[1] < columns, replace(window, x0=window.x1 - OVERLAP_PX)),
        )
        return tuple(edge for has_neighbour, edge in edges if has_neighbour)

    @property
    def tiles(self) -> list[tuple[int, int]]:
        """Rows and columns of the tiles in raster order."""
        return [(i, j) for i in range(*self.rows) for j in range(*self.columns)]

    def place(self, tile: tuple[int, int]) -> tuple[slice, slice]:
        """Return the slices of a tile in an array of the block."""
        y, x = (tile[0] - self.rows[0]) * STRIDE_PX, (tile[1] - self.columns[0]) * STRIDE_PX
        return slice(y, y + TILE_PX), slice(x, x + TILE_PX)

    def tile_window(self, tile: tuple[int, int]) -> Window:
        """Return the window of the image that a tile covers."""
        (y, x), (rows, columns) = self.corner, self.place(tile)
        window = Window(y + rows.start, x + columns.start, y + rows.stop, x + columns.stop)
        return window.grow(0, self.grid.shape)

    def pad(self, pixels: Float32) -> Float32:
        """Pad the pixels (c, y, x) of `window` to the tiled area (c, *shape)."""
        padded = pixels
        for axis, (start, size) in enumerate(
            zip(self.corner, self.grid.shape, strict=True)
        ):
            side = self.shape[axis]
            if size < TILE_PX:  # a single tile covers the axis
                padded = padded.take(reflected(start, start + side, size), axis=axis + 1)
            else:
                before = max(0, -start)
                width = [(0, 0)] * 3
                width[axis + 1] = before, side - before - padded.shape[axis + 1]
                padded = np.pad(padded, width)
        return padded

    def cut_edges(self, summed: Float64) -> Float64:
        """Return the pixels of a map (y, x) of `window` at `edges`, concatenated (n,)."""
        parts = [summed[edge.within(self.window)].ravel() for edge in self.edges]
        return np.concatenate(parts) if parts else np.zeros(0)

    def lay_edges(self, summed: Float64, part: Window, cut: Float64) -> None:
        """Write the result of :meth:`cut_edges` into a part of the map, in place.

        Parameters
        ----------
        summed : (y, x) float64
            Map of `part`, modified in place.
        part : Window
        cut : (n,) float64
            Pixels at `edges`.
        """
        start = 0
        for edge in self.edges:
            shared, stop = edge.intersection(part), start + edge.area
            if shared is not None:
                pixels = cut[start:stop].reshape(edge.shape)
                summed[shared.within(part)] = pixels[shared.within(edge)]
            start = stop

    def crop(self, maps: Float64) -> Float64:
        """Return a view of maps (c, *shape), cropped to `window`."""
        (y, x), window = self.corner, self.window
        return maps[:, window.y0 - y : window.y1 - y, window.x0 - x : window.x1 - x]

    def add(self, total: Float64, tile: tuple[int, int], output: Float32) -> None:
        """Add the weighted output of a tile to the sums of the block, in place.

        Parameters
        ----------
        total : (c, *shape) float64
            Sums, modified in place.
        tile : (int, int)
            Row and column of the tile in the grid.
        output : (c, 256, 256) float32
        """
        rows = self.grid.weights(0, tile[0])[:, None]
        columns = self.grid.weights(1, tile[1])[None, :]
        total[:, *self.place(tile)] += output * (rows * columns)


def _padded(tiles: int) -> int:
    """Return the length of an axis of `tiles` tiles, px."""
    return TILE_PX + STRIDE_PX * (tiles - 1)


def _spline_weights(*, rises: bool, falls: bool) -> Float64:
    """Return weights (256,): a squared spline over the overlap at the chosen ends, else 1.

    As in deepcell, the spline is divided by its maximum. The weights of neighbouring tiles
    therefore add up to 1 within 0.02 %.
    """
    # With t = ramp: rise = 2 t^2 for t < 1/2, else 1 - 2 (1 - t)^2.
    ramp = (2 * np.arange(1, OVERLAP_PX + 1) - 1) / (2 * OVERLAP_PX)
    rise = np.where(ramp < 0.5, (2 * ramp) ** 2 / 2, 1 - (2 * (ramp - 1)) ** 2 / 2)
    rise /= rise.max()
    weights = np.ones(TILE_PX)
    if rises:
        weights[:OVERLAP_PX] = rise
    if falls:
        weights[-OVERLAP_PX:] = rise[::-1]
    return weights
