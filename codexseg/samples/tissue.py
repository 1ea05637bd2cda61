"""Synthetic multiplexed tissue with its truth: every cell, nucleus and marker.

Every pixel is a function of seed and position, because random numbers are hashes of
lattice points. Any window of a slide can be rendered alone and gives the same pixels.

The tissue has an outline on empty glass, tumour nests with lumens, stroma of spindle
cells that follow the nests, and lymphoid aggregates. Cells are placed by random
sequential adsorption with a fixed number of rounds, which bounds the distance over which
cells influence each other. Touching cells share their borders. Lengths are micrometres
until they are divided by the mpp; pixel centres are at integers.
"""

# mypy: disable-error-code="no-untyped-call"
from dataclasses import dataclass
from math import ceil, floor

import numpy as np
from numpy.typing import NDArray

from codexseg.arrays import Labels, Pixels, UInt64
from codexseg.core.grid import Window
from codexseg.errors import InputError
from codexseg.samples import tissue_camera as camera
from codexseg.samples import tissue_cells as anatomy

CHANNELS = anatomy.CHANNELS
MARKERS = CHANNELS[1:]
KINDS = ("tumour", "immune", "stroma")
CAMERA_OFFSET = camera.CAMERA_OFFSET
_BLOCK = 2048  # px; side of the blocks in which cells are listed, to bound the memory
TRUTH = np.dtype(
    [("id", "u4"), ("y", "f8"), ("x", "f8"), ("kind", "u1"), ("n_nuclei", "u1")]
    + [(f"positive_{marker}", "?") for marker in MARKERS]
)


@dataclass(frozen=True)
class RenderedWindow:
    """Pixels and labels of a window of the tissue.

    Attributes
    ----------
    window : Window
        The window, px of the slide.
    pixels : (c, y, x) uint16
        Counts of the channels `CHANNELS`.
    cells, nuclei : (y, x) uint32
        Labels, 0 is background. Cell ids are odd. A nucleus has the id of its cell, the
        second nucleus of a cell has that id + 1. Nuclei are inside their cells, and every
        object is 4-connected.
    """

    window: Window
    pixels: Pixels
    cells: Labels
    nuclei: Labels


@dataclass(frozen=True)
class Tissue:
    """A slide of synthetic tissue, rendered on request.

    Parameters
    ----------
    size : (int, int)
        Height and width, px.
    seed : int
        Random seed, at least 0; equal seed, size and mpp give the same slide.
    mpp : float
        Micrometres per pixel, 0.1 to 1.

    Raises
    ------
    InputError
        If a value is out of range.
    """

    size: tuple[int, int]
    seed: int = 0
    mpp: float = 0.5

    def __post_init__(self) -> None:
        if min(self.size) < 1 or self.seed < 0 or not 0.1 <= self.mpp <= 1:
            raise InputError(
                f"Synthetic tissue needs sides of at least 1 px, a seed of at least 0 and "
                f"0.1 to 1 um/px, got {self.size}, seed {self.seed}, {self.mpp} um/px."
            )
        rows, columns = self._lattice
        if 2 * rows * columns >= 2**32:
            raise InputError(
                f"A slide of {self.size} px at {self.mpp} um/px may have more cells than "
                f"uint32 labels can number. Choose a smaller size."
            )

    @property
    def window(self) -> Window:
        """The whole slide."""
        return Window(0, 0, *self.size)

    def render(self, window: Window) -> RenderedWindow:
        """Render a window.

        Parameters
        ----------
        window : Window
            Window inside the slide, px.

        Returns
        -------
        RenderedWindow
            Pixels, cells and nuclei; independent of the window's extent.

        Raises
        ------
        InputError
            If the window is empty or not inside the slide.
        """
        self._check(window)
        keys, scale = self._keys(), 1 / self.mpp
        reach = ceil(anatomy.REACH_UM * scale) + 2
        # A cell that touches the window is whole in the grown one.
        outer = window.grow(2 * reach, self.size)
        listed = self._cells(outer.grow(2 * reach, self.size))
        area = (outer.y0, outer.x0, *outer.shape)
        bent = camera.bend(keys, area, scale)
        near, gap = camera.share(listed, bent, area, scale)
        cells, nuclei = camera.label(listed, bent, near, gap, area, scale)
        inner = window.within(outer)
        bent, near, gap = (np.ascontiguousarray(a[:, *inner]) for a in (bent, near, gap))
        area = (window.y0, window.x0, *window.shape)
        slow = camera.fields(keys, area, self.size, scale)
        pixels = camera.shade(keys, listed, bent, near, gap, slow, area, scale)
        return RenderedWindow(window, pixels, cells[inner].copy(), nuclei[inner].copy())

    def table(self, window: Window | None = None) -> NDArray[np.void]:
        """List the cells with their centre pixel in a window.

        Parameters
        ----------
        window : Window, optional
            Window of the slide; the whole slide by default. Each cell is in exactly one
            of the windows that partition the slide.

        Returns
        -------
        (n,) structured array of dtype `TRUTH`
            Sorted by id: `id`; `y`, `x` of a point (px) near the centre of the cell;
            `kind`, an index of `KINDS`; `n_nuclei` 0, 1 or 2; `positive_<marker>`.

        Raises
        ------
        InputError
            If the window is empty or not inside the slide.
        """
        window = self.window if window is None else window
        self._check(window)
        parts = [
            self._rows(Window(y, x, min(window.y1, y + _BLOCK), min(window.x1, x + _BLOCK)))
            for y in range(window.y0, window.y1, _BLOCK)
            for x in range(window.x0, window.x1, _BLOCK)
        ]
        return np.sort(np.concatenate(parts), order="id")

    def _rows(self, window: Window) -> NDArray[np.void]:
        cells = self._cells(window)
        y, x = np.rint(cells["y"]), np.rint(cells["x"])
        inside = (y >= window.y0) & (y < window.y1) & (x >= window.x0) & (x < window.x1)
        cells = cells[inside]
        rows = np.zeros(len(cells), TRUTH)
        rows["id"] = 2 * cells["slot"] + 1
        for name in ("y", "x", "kind", "n_nuclei"):
            rows[name] = cells[name]
        for number, marker in enumerate(MARKERS, start=1):
            rows[f"positive_{marker}"] = cells["positive"][:, number]
        return rows

    @property
    def _lattice(self) -> tuple[int, int]:
        """Numbers of rows and columns of candidate cells."""
        pitch = anatomy.PITCH_UM / self.mpp
        return ceil(self.size[0] / pitch), ceil(self.size[1] / pitch)

    def _keys(self) -> UInt64:
        keys = np.random.SeedSequence(self.seed).generate_state(anatomy.N_STREAMS, "u8")
        return keys.astype(np.uint64)

    def _cells(self, window: Window) -> NDArray[np.void]:
        """List the cells with a centre in the window or up to 1 px around it, by slot."""
        scale = 1 / self.mpp
        pitch = anatomy.PITCH_UM * scale
        # A cell depends on others up to one reach per round, and one for its nuclei.
        reach = anatomy.CONTACT_UM * scale
        outer = window.grow(ceil((anatomy.ROUNDS + 2) * reach), self.size)
        rows, columns = self._lattice
        y0, x0 = floor(outer.y0 / pitch), floor(outer.x0 / pitch)
        y1 = min(rows, ceil(outer.y1 / pitch))
        x1 = min(columns, ceil(outer.x1 / pitch))
        keys, block = self._keys(), (y0, x0)
        cells = np.zeros((y1 - y0, x1 - x0), anatomy.CELL)
        state = anatomy.propose(keys, cells, block, columns, self.size, scale)
        anatomy.adsorb(cells, state, scale)
        anatomy.furnish(keys, cells, state, block, self.size, scale)
        y, x = cells["y"], cells["x"]
        inside = (
            (y > window.y0 - 1) & (y < window.y1) & (x > window.x0 - 1) & (x < window.x1)
        )
        listed: NDArray[np.void] = cells[(state == anatomy.PLACED) & inside]
        return listed

    def _check(self, window: Window) -> None:
        whole = self.window
        if window.intersection(whole) != window:
            raise InputError(
                f"{window} is empty or not inside the slide {whole}. Choose a window in it."
            )
