"""Drawing of cells on tissue, and choice of the windows to show."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import floor, log10
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from codexseg.arrays import Float32, Int64, Labels, Mask, Pixels
from codexseg.core.grid import PatchGrid, Window

Colour = tuple[int, int, int]
Picture = NDArray[np.uint8]
Kind = Literal["seam", "dense", "unmatched", "corner", "middle", "sparse"]

MAX_SHARED = 0.25
"""Maximum fraction of its area that a window shares with another chosen window."""

HATCH_PX = 8
"""Period of hatching lines, px."""


@dataclass(frozen=True)
class FigureWindow:
    """Window of a slide to show in the report.

    Attributes
    ----------
    kind : str
        Criterion of the choice: "seam" (most cells across the border of two patches),
        "corner" (most cells across the borders of four patches), "dense", "middle",
        "sparse" (number of cells, of the windows with any) or "unmatched" (most objects
        without a partner).
    window : Window
        Of the slide, px.
    """

    kind: Kind
    window: Window


# -- drawing -------------------------------------------------------------------------------


def brightness(
    pixels: Pixels, background: float, top: float, gamma: float = 0.6
) -> Float32:
    """Scale intensities to 0..1, with a gamma correction.

    Parameters
    ----------
    pixels : (y, x) uint8, uint16 or float32
    background, top : float
        Intensities that become 0 and 1; values beyond them are clipped. The result is 0
        if the range is empty.
    gamma : float
        Exponent. Values below 1 brighten dim tissue.

    Returns
    -------
    (y, x) float32
    """
    if not top > background:
        return np.zeros(pixels.shape, np.float32)
    span = np.float32(top - background)
    values = (pixels.astype(np.float32) - np.float32(background)) / span
    return values.clip(0, 1) ** np.float32(gamma)


def blend(layers: Sequence[tuple[Float32, Colour]]) -> Picture:
    """Add up coloured layers.

    Parameters
    ----------
    layers : sequence of ((y, x) float32, colour)
        Brightness, 0 to 1, and colour of each layer.

    Returns
    -------
    (y, x, 3) uint8
        Sums are clipped to 255.
    """
    total = np.zeros((*layers[0][0].shape, 3), np.float32)
    for values, colour in layers:
        total += values[..., None] * np.array(colour, np.float32)
    return total.clip(0, 255).astype(np.uint8)


def draw_outlines(picture: Picture, labels: Labels, colour: Colour) -> None:
    """Draw outlines of objects, one pixel wide, in place.

    Outlines are drawn on the pixels of the object. Between two touching objects only the
    lower label has one, so that the line stays one pixel wide.

    Parameters
    ----------
    picture : (y, x, 3) uint8
        Modified in place.
    labels : (y, x) uint32
        Objects, 0 is background. Objects have no outline at the edge of the picture.
    colour : (int, int, int)
        Red, green, blue.
    """
    outline = np.zeros(labels.shape, np.bool_)
    for before, after in (
        (np.index_exp[:-1], np.index_exp[1:]),
        (np.index_exp[:, :-1], np.index_exp[:, 1:]),
    ):
        first, second = labels[before], labels[after]
        outline[before] |= (first > 0) & ((second == 0) | (first < second))
        outline[after] |= (second > 0) & ((first == 0) | (second < first))
    picture[outline] = colour


def hatch(picture: Picture, where: Mask, colour: Colour) -> None:
    """Dim a region of a picture and draw diagonal lines over it, in place.

    Parameters
    ----------
    picture : (y, x, 3) uint8
        Modified in place.
    where : (y, x) bool
        The region.
    colour : (int, int, int)
        Of the lines.
    """
    height, width = where.shape
    lines = (np.arange(height)[:, None] + np.arange(width)) % HATCH_PX == 0
    picture[where] //= 2
    picture[where & lines] = colour


def round_length(max_length: float) -> float:
    """Return the largest 1, 2 or 5 times a power of ten of at most `max_length`."""
    power = 10.0 ** floor(log10(max_length))
    limit = max_length * (1 + 1e-9)  # rounding of log10
    return max(step * power for step in (1, 2, 5) if step * power <= limit)


# -- windows -------------------------------------------------------------------------------


def choose_figure_windows(
    cells: Int64, unmatched: Int64, grid: PatchGrid, side: int, max_windows: int
) -> list[FigureWindow]:
    """Choose informative windows of a slide; the choice is deterministic.

    The result has one window of each kind in the order of :data:`Kind`, then a second
    one of each, and so on. Kinds without further candidates are skipped.

    Parameters
    ----------
    cells, unmatched : (n, 4) int64
        Int64 (y0, x0, y1, x1) of the cells and of the objects without a partner, px.
    grid : PatchGrid
        Patches of the slide.
    side : int
        Height and width of the windows, px; limited by the size of the slide.
    max_windows : int
        Maximum number of windows.

    Returns
    -------
    list of FigureWindow
    """
    ranked = _ranked(cells, unmatched, grid, side)
    chosen: list[FigureWindow] = []
    while ranked and len(chosen) < max_windows:
        for kind in list(ranked):
            free = (w for w in ranked[kind] if not any(_alike(w, c.window) for c in chosen))
            best = [FigureWindow(kind, w) for w in islice(free, 1)]
            chosen += best
            if not best:
                del ranked[kind]
    return chosen[:max_windows]


def window_around(y: float, x: float, side: int, shape: tuple[int, int]) -> Window:
    """Return a square window around a point, moved into a slide of `shape`, px."""
    height, width = (min(side, size) for size in shape)
    y0 = min(max(0, round(y - height / 2)), shape[0] - height)
    x0 = min(max(0, round(x - width / 2)), shape[1] - width)
    return Window(y0, x0, y0 + height, x0 + width)


def crossing(boxes: Int64, grid: PatchGrid) -> Mask:
    """Return which boxes cross a border of cores.

    Parameters
    ----------
    boxes : (n, 4) int64
        Int64 (y0, x0, y1, x1), px.
    grid : PatchGrid
        Patches of the slide.

    Returns
    -------
    (2, n) bool
        Whether a box crosses a border along y and along x.
    """
    (dy, dx), (y0, x0, y1, x1) = grid.step, boxes.T
    return np.stack([y0 // dy != (y1 - 1) // dy, x0 // dx != (x1 - 1) // dx])


def _ranked(
    cells: Int64, unmatched: Int64, grid: PatchGrid, side: int
) -> dict[Kind, Iterator[Window]]:
    """Return the candidates of each kind, best first."""
    blocks = _FigureBlocks(grid.shape, side)
    counts = blocks.count(cells, shown=True)
    occupied = np.flatnonzero(counts)
    n_cells = counts[occupied]
    deviation = np.abs(n_cells - np.median(n_cells)) if len(occupied) else n_cells
    return {
        "seam": _seams(cells, grid, blocks, side),
        "dense": map(blocks.window, _descending(blocks.count(cells))),
        "unmatched": map(blocks.window, _descending(blocks.count(unmatched))),
        "corner": _corners(cells, grid, side),
        "middle": map(blocks.window, occupied[np.argsort(deviation, kind="stable")]),
        "sparse": map(blocks.window, occupied[np.argsort(n_cells, kind="stable")]),
    }


class _FigureBlocks:
    """Partition of a slide into blocks of equal size, at least `side` wide and high."""

    def __init__(self, shape: tuple[int, int], side: int) -> None:
        self.shape, self._side = shape, side
        self.rows, self.columns = (max(1, size // side) for size in shape)

    def row(self, y: Int64) -> Int64:
        """Return the rows of blocks at y, px."""
        return y * self.rows // self.shape[0]

    def column(self, x: Int64) -> Int64:
        """Return the columns of blocks at x, px."""
        return x * self.columns // self.shape[1]

    def centre(self, row: Any, column: Any) -> tuple[Any, Any]:
        """Return y and x of the centres of blocks, px."""
        height, width = self.shape
        return (row + 0.5) * height / self.rows, (column + 0.5) * width / self.columns

    def count(self, boxes: Int64, *, shown: bool = False) -> Int64:
        """Count the centres of boxes in each block, or in its window if `shown`."""
        y, x = _centres(boxes)
        row, column = self.row(y), self.column(x)
        index = row * self.columns + column
        if shown:
            centre_y, centre_x = self.centre(row, column)
            distance = np.maximum(np.abs(y - centre_y), np.abs(x - centre_x))
            index = index[distance < self._side / 2 - 1]
        return np.bincount(index, minlength=self.rows * self.columns)

    def window(self, number: int) -> Window:
        """Return the window around the centre of a block."""
        y, x = self.centre(*divmod(int(number), self.columns))
        return window_around(y, x, self._side, self.shape)


def _seams(
    cells: Int64, grid: PatchGrid, blocks: _FigureBlocks, side: int
) -> Iterator[Window]:
    """Yield windows on borders of two cores, most crossing cells first."""
    crosses = crossing(cells, grid)
    seams: list[tuple[int, float, float]] = []
    for axis in (0, 1):
        boxes = cells[crosses[axis]]
        along = _centres(boxes)[1 - axis]
        block = blocks.column(along) if axis == 0 else blocks.row(along)
        border = (boxes[:, 2 + axis] - 1) // grid.step[axis]
        pairs, counts = np.unique(np.stack([border, block]), axis=1, return_counts=True)
        for (number, index), count in zip(pairs.T.tolist(), counts.tolist(), strict=True):
            position = float(number * grid.step[axis])
            y, x = blocks.centre(index, index)
            seams.append((-count, position, x) if axis == 0 else (-count, y, position))
    return (window_around(y, x, side, grid.shape) for _, y, x in sorted(seams))


def _corners(cells: Int64, grid: PatchGrid, side: int) -> Iterator[Window]:
    """Yield windows around corners of four cores, most crossing cells first."""
    rows, columns = (n - 1 for n in grid.counts)
    if rows < 1 or columns < 1:
        return iter(())
    (dy, dx), crosses = grid.step, crossing(cells, grid).any(axis=0)
    y, x = _centres(cells[crosses])
    row = ((y + dy // 2) // dy).clip(1, rows)
    column = ((x + dx // 2) // dx).clip(1, columns)
    near = np.maximum(np.abs(y - row * dy), np.abs(x - column * dx)) <= side // 2
    index = (row[near] - 1) * columns + column[near] - 1
    best = _descending(np.bincount(index, minlength=rows * columns))
    corners = (divmod(int(number), columns) for number in best)
    return (window_around((r + 1) * dy, (c + 1) * dx, side, grid.shape) for r, c in corners)


def _centres(boxes: Int64) -> tuple[Int64, Int64]:
    return (boxes[:, 0] + boxes[:, 2]) // 2, (boxes[:, 1] + boxes[:, 3]) // 2


def _descending(counts: Int64) -> Int64:
    """Return the indices of non-zero counts, largest first; ties keep their order."""
    occupied = np.flatnonzero(counts)
    return occupied[np.argsort(-counts[occupied], kind="stable")]


def _alike(window: Window, chosen: Window) -> bool:
    shared = window.intersection(chosen)
    return shared is not None and shared.area > MAX_SHARED * window.area
