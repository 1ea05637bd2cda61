"""Painting: what a window of the slide looks like in the ids of the slide's objects.

Any window is painted in the same way: first the objects that patches agree on, from the
labels of the core that each pixel lies in; then the disputed ones in their order, each
where its speaker sees it and where it is free; at last what is to stay background. So
two windows show a pixel alike, and what a painting shows of an object is what it has.

The tables of :func:`codexseg.stages.seams.join` say which objects these are.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from codexseg.core.grid import Patch, PatchGrid, Window
from codexseg.core.labels.operations import relabel
from codexseg.run.directory import Arrays
from codexseg.stages.base import Job
from codexseg.stages.pixels import grid_of
from codexseg.stages.segment import COMPARTMENTS

Labels = NDArray[np.uint32]
Ints = NDArray[np.int64]

_NO_CRUMBS = np.zeros(0, np.int64)  # of runs of version 0.1.0

SEAMS = "seams"
"""The tables that say which objects are the slide's."""


@dataclass(frozen=True)
class Painted:
    """A window in the ids of the slide's objects.

    `ids` is (2, y, x) uint32: cells, nuclei. `same` marks pixels at which the backend
    gave cell and nucleus one label, and those of disputed objects, of which it is not
    known. `disputed` lists, per compartment, the ids of the disputed objects whose boxes
    share pixels with the window.
    """

    window: Window
    ids: Labels
    same: NDArray[np.bool_]
    disputed: tuple[list[int], list[int]]


@lru_cache(maxsize=1)
def seams_of(job: Job, name: str = SEAMS) -> Arrays:
    """Return what :func:`join` wrote under a name, opened once per worker."""
    return dict(job.tables("repair", name))


def patches_to_paint(job: Job, grid: PatchGrid) -> list[int]:
    """Return the patches whose cores hold pixels of objects."""
    seams = seams_of(job, SEAMS)
    patches = set(seams["segmented"].tolist())
    for name in COMPARTMENTS:
        for box in seams[f"{name}_disputed_box"].tolist():
            patches |= {patch.number for patch, _ in _parts(grid, Window(*box))}
    return sorted(patches)


def painted(job: Job, grid: PatchGrid, number: int) -> Painted:
    """Paint the core of a patch, with one pixel around it.

    Around the core, agreed objects that do not touch it are shown only near disputed
    ones: else, whether a pixel of the core lies on a boundary does not hang on them.
    """
    seams, patch = seams_of(job, SEAMS), grid[number]
    window = patch.core.grow(1, grid.shape)
    ids, same = _agreed(job, seams, patch, window)
    if _are_disputed(seams, window):
        for other, part in _parts(grid, window):
            if other.number != number and _are_disputed(seams, part):
                ids[:, *part.within(window)], _ = _agreed(job, seams, other, part)
    return _add_disputed(job, seams, Painted(window, ids, same, ([], [])), grid)


def paint(job: Job, grid: PatchGrid, window: Window, name: str = SEAMS) -> Painted:
    """Paint any window of the slide, by the tables of a name."""
    seams = seams_of(job, name)
    ids = np.zeros((2, *window.shape), np.uint32)
    same = np.zeros(window.shape, np.bool_)
    for patch, part in _parts(grid, window):
        at = part.within(window)
        ids[:, *at], same[at] = _agreed(job, seams, patch, part)
    return _add_disputed(job, seams, Painted(window, ids, same, ([], [])), grid)


def _agreed(
    job: Job, seams: Arrays, patch: Patch, window: Window
) -> tuple[Labels, NDArray[np.bool_]]:
    """Show what a patch sees of a window inside its outer one, agreed objects by ids.

    (2, y, x) uint32; and where cells and nuclei have one label, (y, x) bool.
    """
    if patch.number in seams["segmented"]:
        labels = job.run.read_patch(patch.number, patch.outer, window)
    else:
        labels = np.zeros((2, *window.shape), np.uint32)
    same = (labels[0] == labels[1]) & (labels[0] > 0)
    ids = np.empty_like(labels)
    for c, name in enumerate(COMPARTMENTS):
        rows = listings(seams, name, patch.number)
        rows = rows[seams[f"{name}_id"][rows] > 0]
        ids[c] = relabel(labels[c], seams[f"{name}_label"][rows], seams[f"{name}_id"][rows])
    return ids, same


def _add_disputed(job: Job, seams: Arrays, view: Painted, grid: PatchGrid) -> Painted:
    """Paint disputed objects where it is free, then what is background again; in place."""
    for c, name in enumerate(COMPARTMENTS):
        for part, mask, number in _disputed(job, seams, c, view.window):
            at = part.within(view.window)
            free = view.ids[c][at]
            free[mask & (free == 0)] = number
            view.same[at] |= mask
            view.disputed[c].append(number)
        y, x = _inside(seams.get(f"{name}_crumbs", _NO_CRUMBS), view.window, grid.shape[1])
        view.ids[c][y, x] = 0
    return view


def _disputed(
    job: Job, seams: Arrays, compartment: int, window: Window
) -> Iterator[tuple[Window, NDArray[np.bool_], int]]:
    """Yield the disputed objects under a window as their speakers see them, in order."""
    name = COMPARTMENTS[compartment]
    box = seams[f"{name}_disputed_box"]
    seen: dict[int, tuple[Window, Labels]] = {}
    for row in np.flatnonzero(overlapping(box, window)):
        speaker = int(seams[f"{name}_disputed_patch"][row])
        if speaker not in seen:
            view = Window(*seams["view"][speaker].tolist())
            part = view.intersection(window)
            if part is None:
                continue
            seen[speaker] = part, read_view(job, speaker, view, part)[compartment]
        shown, labels = seen[speaker]
        part = Window(*box[row].tolist()).intersection(shown)
        if part is not None:
            mask = labels[part.within(shown)] == seams[f"{name}_disputed_label"][row]
            yield part, mask, int(seams[f"{name}_disputed_id"][row])


def read_view(job: Job, number: int, view: Window, window: Window) -> Labels:
    """Read labels (2, y, x) of a window inside what a patch saw."""
    outer = grid_of(job)[number].outer
    if view == outer:
        return job.run.read_patch(number, outer, window)
    return job.run.read_grown(number, view, window)


def _inside(places: Ints, window: Window, width: int) -> tuple[Ints, Ints]:
    """Return the pixels of a window, y and x, among sorted places on the slide."""
    start, stop = np.searchsorted(places, [window.y0 * width, window.y1 * width])
    y, x = np.divmod(places[start:stop], width)
    inside = (x >= window.x0) & (x < window.x1)
    return y[inside] - window.y0, x[inside] - window.x0


def _are_disputed(seams: Arrays, window: Window) -> bool:
    """Whether a disputed object may have pixels in a window."""
    boxes = (seams[f"{name}_disputed_box"] for name in COMPARTMENTS)
    return any(bool(overlapping(box, window).any()) for box in boxes)


def _parts(grid: PatchGrid, window: Window) -> Iterator[tuple[Patch, Window]]:
    """Yield the patches whose cores share pixels with a window, and these pixels."""
    for patch in grid.near(window):
        part = patch.core.intersection(window)
        if part is not None:
            yield patch, part


def overlapping(boxes: Ints, window: Window) -> NDArray[np.bool_]:
    """Tell which boxes (n, 4) share a pixel with a window."""
    inside = (boxes[:, 0] < window.y1) & (boxes[:, 2] > window.y0)
    return inside & (boxes[:, 1] < window.x1) & (boxes[:, 3] > window.x0)


def listings(tables: Arrays, name: str, patch: int) -> Ints:
    """Return the rows of tables of listings that are those of a patch."""
    start, stop = tables[f"{name}_offset"][patch : patch + 2]
    return np.arange(start, stop)


def bounds(boxes: Ints) -> Window:
    """Return the smallest window that holds boxes (n, 4); an empty one for none."""
    if len(boxes) == 0:
        return Window(0, 0, 0, 0)
    y0, x0 = boxes[:, :2].min(axis=0).tolist()
    y1, x1 = boxes[:, 2:].max(axis=0).tolist()
    return Window(y0, x0, y1, x1)
