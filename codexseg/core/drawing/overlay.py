"""Pictures of cells on tissue: which places to show, and how to draw them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import floor, log10, prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from codexseg.core.grid import PatchGrid, Window

Colour = tuple[int, int, int]
Picture = NDArray[np.uint8]
Boxes = NDArray[np.int64]
Kind = Literal["seam", "dense", "unmatched", "corner", "middle", "sparse"]

MOST_SHARED = 0.25
"""Two places may share this part of their area: more would show one thing twice."""

HATCH_PX = 8
"""Distance of the lines of a hatch."""


@dataclass(frozen=True)
class Place:
    """A window worth a look, and why.

    `kind` is seam (most cells that cross the border of two patches), corner (most of
    them where four patches meet), dense, middle, sparse (by number of cells, of the
    squares that hold any) or unmatched (most objects without a partner).
    """

    kind: Kind
    window: Window


# -- drawing -------------------------------------------------------------------------------


def brightness(
    pixels: NDArray[Any], background: float, top: float, gamma: float = 0.6
) -> NDArray[np.float32]:
    """Scale grey levels to 0..1: `background` and below is 0, `top` and above 1.

    Parameters
    ----------
    pixels : (y, x)
        Grey levels.
    background, top : float
        Limits, the same for all pictures of a slide. All is 0 where they leave no range.
    gamma : float
        Exponent; below 1 it lifts dim tissue.

    Returns
    -------
    (y, x) float32
    """
    if not top > background:
        return np.zeros(pixels.shape, np.float32)
    values = (pixels.astype(np.float32) - np.float32(background)) / np.float32(
        top - background
    )
    return values.clip(0, 1) ** np.float32(gamma)


def blend(layers: Sequence[tuple[NDArray[np.float32], Colour]]) -> Picture:
    """Add up layers of light, (brightness (y, x) in 0..1, colour): (y, x, 3) uint8."""
    light = np.zeros((*layers[0][0].shape, 3), np.float32)
    for values, colour in layers:
        light += values[..., None] * np.array(colour, np.float32)
    return light.clip(0, 255).astype(np.uint8)


def draw_outlines(picture: Picture, labels: NDArray[np.uint32], colour: Colour) -> None:
    """Paint the outlines of objects, one pixel wide, in place.

    An outline lies on the object's own pixels; where two objects touch, on those of the
    lower label only, so that the line between them stays thin.

    Parameters
    ----------
    picture : (y, x, 3) uint8
        Painted on.
    labels : (y, x) uint32
        Objects, 0 is background. The edge of the picture is no outline.
    colour : (int, int, int)
        Red, green, blue.
    """
    outline = np.zeros(labels.shape, np.bool_)
    for before, after in (
        (np.index_exp[:-1], np.index_exp[1:]),
        (np.index_exp[:, :-1], np.index_exp[:, 1:]),
    ):
        one, other = labels[before], labels[after]
        outline[before] |= (one > 0) & ((other == 0) | (one < other))
        outline[after] |= (other > 0) & ((one == 0) | (other < one))
    picture[outline] = colour


def hatch(picture: Picture, where: NDArray[np.bool_], colour: Colour) -> None:
    """Dim a part of a picture and draw slanted lines over it, in place.

    Parameters
    ----------
    picture : (y, x, 3) uint8
        Painted on.
    where : (y, x) bool
        The part.
    colour : (int, int, int)
        Of the lines.
    """
    height, width = where.shape
    lines = (np.arange(height)[:, None] + np.arange(width)) % HATCH_PX == 0
    picture[where] //= 2
    picture[where & lines] = colour


def round_length(longest: float) -> float:
    """Return the largest of 1, 2, 5, 10, 20, 50 ... (or 0.5, 0.2 ...) up to `longest`."""
    power = 10.0 ** floor(log10(longest))
    return max(step * power for step in (1, 2, 5) if step * power <= longest * (1 + 1e-9))


# -- places --------------------------------------------------------------------------------


def choose_places(
    cells: Boxes, unmatched: Boxes, grid: PatchGrid, side: int, most: int
) -> list[Place]:
    """Choose windows of a slide that say most about its cells; the same ones each time.

    One of each kind in the order of :data:`Kind`, then a second one of each, and so on.
    A kind without candidates is left out, so there may be fewer than `most`.

    Parameters
    ----------
    cells, unmatched : (n, 4) int64
        Boxes (y0, x0, y1, x1) of the cells and of the objects without a partner, px.
    grid : PatchGrid
        How the slide was cut.
    side : int
        Height and width of the windows, px; less where the slide is smaller.
    most : int
        Number of places.

    Returns
    -------
    places : list of Place
    """
    ranked = _ranked(cells, unmatched, grid, side)
    chosen: list[Place] = []
    while ranked and len(chosen) < most:
        for kind in list(ranked):
            free = (w for w in ranked[kind] if not any(_alike(w, p.window) for p in chosen))
            found = [Place(kind, w) for w in islice(free, 1)]
            chosen += found
            if not found:
                del ranked[kind]
    return chosen[:most]


def window_around(y: float, x: float, side: int, shape: tuple[int, int]) -> Window:
    """Return the square around a point, moved into a slide of `shape`, px."""
    height, width = (min(side, size) for size in shape)
    y0 = min(max(0, round(y - height / 2)), shape[0] - height)
    x0 = min(max(0, round(x - width / 2)), shape[1] - width)
    return Window(y0, x0, y0 + height, x0 + width)


def crossing(boxes: Boxes, grid: PatchGrid) -> NDArray[np.bool_]:
    """Say of (n, 4) boxes whether they reach over a border of cores, in y and x: (2, n)."""
    (dy, dx), (y0, x0, y1, x1) = grid.step, boxes.T
    return np.stack([y0 // dy != (y1 - 1) // dy, x0 // dx != (x1 - 1) // dx])


def _ranked(
    cells: Boxes, unmatched: Boxes, grid: PatchGrid, side: int
) -> dict[Kind, Iterator[Window]]:
    """List the candidates of each kind, the best first."""
    squares = _Squares(grid.shape, side)
    counts = squares.count(cells, shown=True)
    held = np.flatnonzero(counts)
    away = np.abs(counts[held] - np.median(counts[held])) if len(held) else counts[held]
    alone = squares.count(unmatched)
    by_count = held[np.argsort(counts[held], kind="stable")]
    return {
        "seam": _seams(cells, grid, squares, side),
        "dense": map(squares.window, _descending(squares.count(cells))),
        "unmatched": map(squares.window, _descending(alone)),
        "corner": _corners(cells, grid, side),
        "middle": map(squares.window, held[np.argsort(away, kind="stable")]),
        "sparse": map(squares.window, by_count),
    }


class _Squares:
    """Squares that cover a slide: at least `side` long, so that none is a mere rest."""

    def __init__(self, shape: tuple[int, int], side: int) -> None:
        self.shape, self._side = shape, side
        self.rows, self.columns = (max(1, size // side) for size in shape)

    def row(self, y: NDArray[np.int64]) -> NDArray[np.int64]:
        return y * self.rows // self.shape[0]

    def column(self, x: NDArray[np.int64]) -> NDArray[np.int64]:
        return x * self.columns // self.shape[1]

    def middle(self, row: Any, column: Any) -> tuple[Any, Any]:
        height, width = self.shape
        return (row + 0.5) * height / self.rows, (column + 0.5) * width / self.columns

    def count(self, boxes: Boxes, *, shown: bool = False) -> NDArray[np.int64]:
        """Count the middles of boxes in every square, or those that its window shows."""
        y, x = _middles(boxes)
        row, column = self.row(y), self.column(x)
        index = row * self.columns + column
        if shown:
            middle_y, middle_x = self.middle(row, column)
            off = np.maximum(np.abs(y - middle_y), np.abs(x - middle_x))
            index = index[off < self._side / 2 - 1]
        return np.bincount(index, minlength=self.rows * self.columns)

    def window(self, number: int) -> Window:
        y, x = self.middle(*divmod(int(number), self.columns))
        return window_around(y, x, self._side, self.shape)


def _seams(cells: Boxes, grid: PatchGrid, squares: _Squares, side: int) -> Iterator[Window]:
    """Yield windows on borders of two cores, those that most cells cross first."""
    crosses = crossing(cells, grid)
    found: list[tuple[int, float, float]] = []
    for axis in (0, 1):
        boxes = cells[crosses[axis]]
        along = _middles(boxes)[1 - axis]
        part = squares.column(along) if axis == 0 else squares.row(along)
        border = (boxes[:, 2 + axis] - 1) // grid.step[axis]
        pairs, counts = np.unique(np.stack([border, part]), axis=1, return_counts=True)
        for (number, index), count in zip(pairs.T.tolist(), counts.tolist(), strict=True):
            at = float(number * grid.step[axis])
            y, x = squares.middle(index, index)
            found.append((-count, at, x) if axis == 0 else (-count, y, at))
    return (window_around(y, x, side, grid.shape) for _, y, x in sorted(found))


def _corners(cells: Boxes, grid: PatchGrid, side: int) -> Iterator[Window]:
    """Yield windows where four cores meet, those with most crossing cells first."""
    rows, columns = (n - 1 for n in grid.counts)
    if rows < 1 or columns < 1:
        return iter(())
    (dy, dx), crosses = grid.step, crossing(cells, grid).any(axis=0)
    y, x = _middles(cells[crosses])
    row = ((y + dy // 2) // dy).clip(1, rows)
    column = ((x + dx // 2) // dx).clip(1, columns)
    near = np.maximum(np.abs(y - row * dy), np.abs(x - column * dx)) <= side // 2
    index = (row[near] - 1) * columns + column[near] - 1
    best = _descending(np.bincount(index, minlength=rows * columns))
    at = (divmod(int(number), columns) for number in best)
    return (window_around((r + 1) * dy, (c + 1) * dx, side, grid.shape) for r, c in at)


def _middles(boxes: Boxes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return (boxes[:, 0] + boxes[:, 2]) // 2, (boxes[:, 1] + boxes[:, 3]) // 2


def _descending(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the indexes of what is not 0, the most first, ties as they lie."""
    held = np.flatnonzero(counts)
    return held[np.argsort(-counts[held], kind="stable")]


def _alike(one: Window, other: Window) -> bool:
    shared = one.intersection(other)
    if shared is None:
        return False
    return prod(shared.shape) > MOST_SHARED * prod(one.shape)
