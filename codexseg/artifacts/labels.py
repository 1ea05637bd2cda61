"""Label images of the whole slide: ``segmentation.ome.zarr`` (stages stitch and repair)."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from codexseg.arrays import Columns, Labels, Mask
from codexseg.artifacts.columns import COMPARTMENTS
from codexseg.core.grid import PatchGrid, Window
from codexseg.io.labels.store import LabelStore
from codexseg.run.directory import Run

ORIGINAL = {name: f"{name}_original" for name in COMPARTMENTS}
"""Label images of all detected objects, by compartment."""
LABEL_NAMES = (*COMPARTMENTS, *ORIGINAL.values())
"""All label images; the matched ones first, as viewers list them."""


def slide_labels(run: Run) -> LabelStore:
    """Return the label images of a run."""
    return LabelStore(run.segmentation_path)


def read_original(labels: LabelStore, window: Window) -> tuple[Labels, Labels]:
    """Read cells and nuclei before matching, (y, x) uint32 each."""
    cells, nuclei = (labels.read(name, window) for name in ORIGINAL.values())
    return cells, nuclei


def label_folders(run: Run, names: Sequence[str]) -> list[str]:
    """Return the folders of label images, relative to the run directory."""
    return [f"{run.segmentation_path.name}/labels/{name}" for name in names]


def pack_mask(mask: Mask) -> Columns:
    """Return a mask (y, x) as a column of bits."""
    return {"mask": np.packbits(mask)}


def unpack_mask(columns: Columns, shape: tuple[int, int]) -> Mask:
    """Invert :func:`pack_mask`."""
    height, width = shape
    bits = np.unpackbits(columns["mask"], count=height * width)
    return bits.reshape(shape).astype(np.bool_)


def core_edges(cells: Labels) -> Columns:
    """Return the first and last rows and columns of the cells of a core."""
    return {
        "top": cells[0],
        "bottom": cells[-1],
        "left": np.ascontiguousarray(cells[:, 0]),
        "right": np.ascontiguousarray(cells[:, -1]),
    }


def with_border(
    cells: Labels, patch: int, grid: PatchGrid, edges: Callable[[int], Columns]
) -> tuple[Labels, tuple[slice, slice]]:
    """Add the neighbouring pixels of a core, without reading neighbouring chunks.

    Parameters
    ----------
    cells : (y, x) uint32
        The cells of the core.
    patch : int
        Number of the patch.
    grid : PatchGrid
        The patch grid.
    edges : callable
        Returns :func:`core_edges` of a patch, or an empty mapping.

    Returns
    -------
    bordered : (y + 2, x + 2) uint32
        At the edge of the slide one row or column less. Corners are 0.
    core : (slice, slice)
        The core in it.
    """
    rows, columns = grid.counts
    row, column = divmod(patch, columns)
    core = grid[patch].core
    window = core.grow(1, grid.shape)
    inside = core.within(window)
    bordered = np.zeros(window.shape, np.uint32)
    bordered[inside] = cells
    neighbours: tuple[tuple[bool, int, str, Any], ...] = (
        (row > 0, patch - columns, "bottom", (0, inside[1])),
        (row < rows - 1, patch + columns, "top", (-1, inside[1])),
        (column > 0, patch - 1, "right", (inside[0], 0)),
        (column < columns - 1, patch + 1, "left", (inside[0], -1)),
    )
    for exists, neighbour, edge, place in neighbours:
        known = edges(neighbour) if exists else {}
        if edge in known:
            bordered[place] = known[edge]
    return bordered, inside
