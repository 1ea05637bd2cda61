"""Multiplex tissue that does not exist, with its truth: every cell, nucleus and marker.

Everything is a function of (seed, place): the random numbers are hashes of a lattice
point, so any window of a slide of any size is drawn by itself and is the same pixels.

The tissue: an outline with empty glass around it, nests of tumour with lumens, stroma
of spindle cells that follow the nests, and lymphoid aggregates. Cells are placed by
random sequential adsorption cut off after a few rounds, which bounds how far a cell can
depend on others, and share their borders like soap films. Lengths are micrometres
until they are scaled by the mpp; pixel centres are at integers.
"""

# mypy: disable-error-code="no-untyped-call"
from dataclasses import dataclass
from math import ceil, floor

import numpy as np
from numpy.typing import NDArray

from codexseg.core.grid import Window
from codexseg.errors import InputError
from codexseg.samples import tissue_camera as camera
from codexseg.samples import tissue_cells as anatomy

CHANNELS = anatomy.CHANNELS
MARKERS = CHANNELS[1:]
KINDS = ("tumour", "immune", "stroma")
CAMERA_OFFSET = camera.CAMERA_OFFSET
_BLOCK = 2048  # px; cells are listed in blocks of this side: bounds the memory
TRUTH = np.dtype(
    [("id", "u4"), ("y", "f8"), ("x", "f8"), ("kind", "u1"), ("n_nuclei", "u1")]
    + [(f"positive_{marker}", "?") for marker in MARKERS]
)


@dataclass(frozen=True)
class Scene:
    """A window of the tissue, drawn.

    Attributes
    ----------
    window : Window
        What of the slide this is.
    pixels : (c, y, x) uint16
        The channels `CHANNELS`, counts.
    cells, nuclei : (y, x) uint32
        Labels, 0 = background. Cell ids are odd. A nucleus carries the id of its cell;
        the second nucleus of a cell carries the id + 1. Nuclei lie inside their cells,
        and each object is one 4-connected piece.
    """

    window: Window
    pixels: NDArray[np.uint16]
    cells: NDArray[np.uint32]
    nuclei: NDArray[np.uint32]


@dataclass(frozen=True)
class Tissue:
    """A slide of synthetic tissue; holds no pixels.

    Parameters
    ----------
    size : (int, int)
        Height and width, px.
    seed : int
        The same seed, size and mpp give the same slide. At least 0.
    mpp : float
        Micrometres per pixel, 0.1 to 1.

    Raises
    ------
    InputError
        If a value is out of its range.
    """

    size: tuple[int, int]
    seed: int = 0
    mpp: float = 0.5

    def __post_init__(self) -> None:
        if min(self.size) < 1 or self.seed < 0 or not 0.1 <= self.mpp <= 1:
            raise InputError(
                f"synthetic tissue needs sides of at least 1 px, a seed of at least 0 and "
                f"0.1 to 1 um/px, got {self.size}, seed {self.seed}, {self.mpp} um/px."
            )
        rows, columns = self._lattice
        if 2 * rows * columns >= 2**32:
            raise InputError(
                f"a slide of {self.size} px at {self.mpp} um/px may hold more cells than "
                f"uint32 labels can number; make it smaller."
            )

    @property
    def window(self) -> Window:
        """The whole slide."""
        return Window(0, 0, *self.size)

    def render(self, window: Window) -> Scene:
        """Draw a window.

        Parameters
        ----------
        window : Window
            What to draw, inside the slide.

        Returns
        -------
        Scene
            Pixels, cells and nuclei; equal to the same part of any other window.

        Raises
        ------
        InputError
            If the window is empty or leaves the slide.
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
        return Scene(window, pixels, cells[inner].copy(), nuclei[inner].copy())

    def table(self, window: Window | None = None) -> NDArray[np.void]:
        """List the cells whose centre pixel lies in a window.

        Parameters
        ----------
        window : Window, optional
            Part of the slide; all of it by default. Tables of windows that partition
            the slide partition its cells.

        Returns
        -------
        (n,) structured array of dtype `TRUTH`
            Sorted by id: `id`; `y`, `x` a point (px) of the cell near its middle; `kind`
            an index into `KINDS`; `n_nuclei` 0, 1 or 2; `positive_<marker>`.

        Raises
        ------
        InputError
            If the window is empty or leaves the slide.
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
        """Rows and columns of candidate cells."""
        pitch = anatomy.PITCH_UM / self.mpp
        return ceil(self.size[0] / pitch), ceil(self.size[1] / pitch)

    def _keys(self) -> NDArray[np.uint64]:
        keys = np.random.SeedSequence(self.seed).generate_state(anatomy.N_STREAMS, "u8")
        return keys.astype(np.uint64)

    def _cells(self, window: Window) -> NDArray[np.void]:
        """List the cells whose centre lies in the window or 1 px around it, by slot."""
        scale = 1 / self.mpp
        pitch = anatomy.PITCH_UM * scale
        # What a cell can depend on: one reach per round, one more for its nuclei.
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
            raise InputError(f"{window} must be a part, not empty, of the slide {whole}.")
