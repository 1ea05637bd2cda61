"""Windows of a slide, and the grid of patches that covers it.

A patch owns its *core* and reads its *outer* window, the core plus a halo. The cores
partition the slide exactly; the outer windows are clipped at its edges.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

import numpy as np

from codexseg.arrays import Int64
from codexseg.errors import InputError


@dataclass(frozen=True, order=True)
class Window:
    """Half-open rectangle of pixels of the slide: y0 <= y < y1, x0 <= x < x1."""

    y0: int
    x0: int
    y1: int
    x1: int

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.y1 - self.y0, self.x1 - self.x0

    @property
    def area(self) -> int:
        """Number of pixels."""
        return (self.y1 - self.y0) * (self.x1 - self.x0)

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index of the window in an array of the whole slide."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    def within(self, outer: "Window") -> tuple[slice, slice]:
        """Index of this window in an array that covers `outer`."""
        return (
            slice(self.y0 - outer.y0, self.y1 - outer.y0),
            slice(self.x0 - outer.x0, self.x1 - outer.x0),
        )

    def grow(self, margin: int | tuple[int, int], shape: tuple[int, int]) -> "Window":
        """Add a margin in pixels, scalar or (y, x), and clip at a slide of `shape`."""
        dy, dx = (margin, margin) if isinstance(margin, int) else margin
        return Window(
            max(0, self.y0 - dy),
            max(0, self.x0 - dx),
            min(shape[0], self.y1 + dy),
            min(shape[1], self.x1 + dx),
        )

    def intersection(self, other: "Window") -> "Window | None":
        """Return the overlap with another window, or None if they are disjoint."""
        y0, x0 = max(self.y0, other.y0), max(self.x0, other.x0)
        y1, x1 = min(self.y1, other.y1), min(self.x1, other.x1)
        return Window(y0, x0, y1, x1) if y0 < y1 and x0 < x1 else None


@dataclass(frozen=True)
class Patch:
    """Patch of the slide: the core that it owns and the outer window that it reads."""

    number: int
    row: int
    column: int
    core: Window
    outer: Window


@dataclass(frozen=True)
class PatchGrid:
    """All patches of a slide, numbered row by row.

    Parameters
    ----------
    shape : (int, int)
        Height and width of the slide, px.
    step : (int, int)
        Height and width of a core, px; smaller in the last row and column.
    halo : (int, int)
        Margin that the outer window adds to the core on each side, px.
    """

    shape: tuple[int, int]
    step: tuple[int, int]
    halo: tuple[int, int]

    def __post_init__(self) -> None:
        if min(self.shape) < 1 or min(self.step) < 1 or min(self.halo) < 0:
            raise InputError(
                f"Invalid patch grid: shape {self.shape}, step {self.step}, halo "
                f"{self.halo}. Pass a shape and step of at least 1 px and a halo of at "
                f"least 0 px."
            )

    @property
    def counts(self) -> tuple[int, int]:
        """Number of rows and of columns of patches."""
        return ceil(self.shape[0] / self.step[0]), ceil(self.shape[1] / self.step[1])

    def __len__(self) -> int:
        rows, columns = self.counts
        return rows * columns

    def __getitem__(self, number: int) -> Patch:
        if not 0 <= number < len(self):
            raise IndexError(f"Patch {number} is outside a grid of {len(self)} patches.")
        row, column = divmod(number, self.counts[1])
        (dy, dx), (height, width) = self.step, self.shape
        y0, x0 = row * dy, column * dx
        core = Window(y0, x0, min(height, y0 + dy), min(width, x0 + dx))
        return Patch(number, row, column, core, core.grow(self.halo, self.shape))

    def __iter__(self) -> Iterator[Patch]:
        return (self[number] for number in range(len(self)))

    @property
    def outer_shape(self) -> tuple[int, int]:
        """Height and width of the largest outer window, px."""
        (h, w), (dy, dx), (ey, ex) = self.shape, self.step, self.halo
        return min(h, dy + 2 * ey), min(w, dx + 2 * ex)

    def owner(self, y: Int64, x: Int64) -> Int64:
        """Return the numbers of the patches that own the pixels (y, x)."""
        return (y // self.step[0]) * self.counts[1] + x // self.step[1]

    def near(self, window: Window) -> list[Patch]:
        """Return the patches with an outer window that overlaps `window`."""
        cores, (dy, dx) = window.grow(self.halo, self.shape), self.step
        rows = range(cores.y0 // dy, (cores.y1 - 1) // dy + 1)
        columns = range(cores.x0 // dx, (cores.x1 - 1) // dx + 1)
        return [self[r * self.counts[1] + c] for r in rows for c in columns]


def pixels_in_window(pixels: Int64, window: Window, width: int) -> tuple[Int64, Int64]:
    """Return y and x, in a window, of the pixels that it contains.

    Parameters
    ----------
    pixels : (n,) int64
        Pixels of a slide: y * width + x, ascending.
    window : Window
        Any window of the slide.
    width : int
        Width of the slide, px.
    """
    start, stop = np.searchsorted(pixels, [window.y0 * width, window.y1 * width])
    y, x = np.divmod(pixels[start:stop], width)
    inside = (x >= window.x0) & (x < window.x1)
    return y[inside] - window.y0, x[inside] - window.x0
