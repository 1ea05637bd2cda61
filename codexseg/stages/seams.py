"""Seams: which patch speaks for which object, and what a core looks like in slide ids.

:mod:`codexseg.core.stitching` decides; this module reads the patches' labels for it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from codexseg.core.grid import PatchGrid, Window
from codexseg.core.labels import relabel
from codexseg.core.matching import pair_table
from codexseg.core.stitching import Objects, Versions, find_versions, settle
from codexseg.run import Arrays, Row, Tables
from codexseg.stages.base import Context, Job
from codexseg.stages.pixels import grid_of
from codexseg.stages.segment import COMPARTMENTS

Labels = NDArray[np.uint32]
Ints = NDArray[np.int64]


def segmented(job: Job) -> list[int]:
    """Return the patches that have labels."""
    return [p for p, row in job.rows("segment").items() if row["status"] == "done"]


def join(context: Context, min_remaining: float) -> list[Versions]:
    """Decide which objects are the slide's; write the tables that painting reads.

    Returns the versions of both compartments. The accepted ones have an id, 1..n in
    raster order: the table "seams".
    """
    job = context.job
    grid, patches = grid_of(job), segmented(job)
    found = []
    for name in COMPARTMENTS:  # one at a time: these lists grow with the cells
        listed = (Objects.from_tables(job.tables("segment", p), name) for p in patches)
        found.append(find_versions(dict(zip(patches, listed, strict=True)), grid))
    views = _views(job, grid)
    seams: Tables = {"segmented": np.array(patches, np.int64), "view": views}
    for rivals, versions, name in zip(
        _rivals(context, found, views), found, COMPARTMENTS, strict=True
    ):
        accepted = settle(versions, rivals, min_remaining)
        seams |= _table(versions, accepted, name, len(grid))
    job.write_tables("seams", seams)
    return found


def _views(job: Job, grid: PatchGrid) -> Ints:
    """Return the window that each patch saw: its outer one, or what that grew to.

    (n, 4): y0, x0, y1, x1; all 0 for a patch without labels.
    """
    views = np.zeros((len(grid), 4), np.int64)
    for number, row in job.rows("segment").items():
        if row["status"] == "done":
            outer = grid[number].outer
            views[number] = row.get("window", (outer.y0, outer.x0, outer.y1, outer.x1))
    return views


def _read_view(job: Job, number: int, view: Window, window: Window) -> Labels:
    """Read labels (2, y, x) of a window inside what a patch saw."""
    outer = grid_of(job)[number].outer
    if view == outer:
        return job.run.read_patch(number, outer, window)
    return job.run.read_grown(number, view, window)


def _table(versions: Versions, accepted: Ints, name: str, n_patches: int) -> Tables:
    """Give ids to what was accepted; disputed objects stand apart, in their order."""
    ids = np.zeros(len(versions.first), np.uint32)
    in_order = np.sort(accepted)  # versions are in raster order
    ids[in_order] = np.arange(1, len(in_order) + 1, dtype=np.uint32)
    disputed = accepted[~versions.agreed[accepted]]
    listed = np.where(versions.agreed[versions.version], ids[versions.version], 0)
    counts = np.bincount(versions.patch, minlength=n_patches)
    return {
        f"{name}_accepted": in_order,
        f"{name}_offset": np.concatenate([[0], np.cumsum(counts)]),
        f"{name}_label": versions.label,
        f"{name}_id": listed.astype(np.uint32),
        f"{name}_disputed_id": ids[disputed],
        f"{name}_disputed_patch": versions.speaker[disputed],
        f"{name}_disputed_label": versions.name[disputed],
        f"{name}_disputed_box": versions.box[disputed],
    }


# -- rivals: how many pixels do versions share that patches do not agree on? ---------------


def _rivals(context: Context, found: list[Versions], views: Ints) -> list[Ints]:
    job = context.job
    speakers = np.concatenate([v.speaker[~v.agreed] for v in found])
    if len(speakers) == 0:
        return [np.zeros((0, 3), np.int64) for _ in found]
    tables: Tables = {"view": views}
    for name, versions in zip(COMPARTMENTS, found, strict=True):
        counts = np.bincount(versions.patch, minlength=len(views))
        tables |= {
            f"{name}_offset": np.concatenate([[0], np.cumsum(counts)]),
            f"{name}_label": versions.label,
            f"{name}_version": versions.version,
            f"{name}_disputed": ~versions.agreed[versions.version]
            & (versions.speaker[versions.version] == versions.patch),
            f"{name}_box": versions.box[versions.version],
        }
    job.write_tables("versions", tables)
    patches = [int(p) for p in np.unique(speakers)]
    context.map_patches(measure_rivals, patches, part="rivals")
    measured = [job.tables("repair.rivals", p) for p in patches]
    return [np.concatenate([m[name] for m in measured]) for name in COMPARTMENTS]


@lru_cache(maxsize=1)
def _versions_of(job: Job) -> Arrays:
    return dict(job.tables("repair", "versions"))


def measure_rivals(job: Job, patches: Sequence[int]) -> Iterator[tuple[int, Row]]:
    """Count the pixels that disputed objects share with what others see. In a worker."""
    tables = _versions_of(job)
    for number in patches:
        rivals: Tables = {}
        for c, name in enumerate(COMPARTMENTS):
            rows = _listings(tables, name, number)
            mine = rows[tables[f"{name}_disputed"][rows]]
            found = [np.zeros((0, 3), np.int64)]
            if len(mine):
                bounds = _bounds(tables[f"{name}_box"][mine])
                near = np.flatnonzero(_overlap(tables["view"], bounds))
                others = (int(other) for other in near if other != number)
                found += [_shared(job, c, mine, (number, other)) for other in others]
            rivals[name] = np.concatenate(found)
        job.write_tables(number, rivals)
        yield number, {}


def _shared(job: Job, compartment: int, mine: Ints, patches: tuple[int, int]) -> Ints:
    """Count shared pixels of disputed objects of one patch and all of another."""
    tables, name = _versions_of(job), COMPARTMENTS[compartment]
    views = [Window(*tables["view"][p].tolist()) for p in patches]
    window = views[0].intersection(views[1])
    if window is not None:
        window = window.intersection(_bounds(tables[f"{name}_box"][mine]))
    if window is None:
        return np.zeros((0, 3), np.int64)
    labels, theirs = (
        _read_view(job, p, view, window)[compartment]
        for p, view in zip(patches, views, strict=True)
    )
    rows = _listings(tables, name, patches[1])
    number = [
        relabel(
            image, tables[f"{name}_label"][r], np.arange(1, len(r) + 1, dtype=np.uint32)
        )
        for image, r in ((labels, mine), (theirs, rows))
    ]
    pairs = pair_table(*number, interior=np.ones(window.shape, np.bool_))
    version = tables[f"{name}_version"]
    sides = version[mine[pairs.cell - 1]], version[rows[pairs.nucleus - 1]]
    return np.stack([*sides, pairs.shared], axis=1).astype(np.int64)


def _overlap(boxes: Ints, window: Window) -> NDArray[np.bool_]:
    """Tell which boxes (n, 4) share a pixel with a window."""
    inside = (boxes[:, 0] < window.y1) & (boxes[:, 2] > window.y0)
    return inside & (boxes[:, 1] < window.x1) & (boxes[:, 3] > window.x0)


def _listings(tables: Arrays, name: str, patch: int) -> Ints:
    start, stop = tables[f"{name}_offset"][patch : patch + 2]
    return np.arange(start, stop)


def _bounds(boxes: Ints) -> Window:
    y0, x0 = boxes[:, :2].min(axis=0).tolist()
    y1, x1 = boxes[:, 2:].max(axis=0).tolist()
    return Window(y0, x0, y1, x1)


# -- painting ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Painted:
    """A core and one pixel around it, in the ids of the slide's objects.

    `ids` is (2, y, x) uint32: cells, nuclei. `same` marks pixels at which the backend
    gave cell and nucleus one label, and those of disputed objects, of which it is not
    known. `disputed` lists, per compartment, the ids that were
    painted over what the patch itself saw.
    """

    window: Window
    ids: Labels
    same: NDArray[np.bool_]
    disputed: tuple[list[int], list[int]]


@lru_cache(maxsize=1)
def seams_of(job: Job) -> Arrays:
    """Return what :func:`join` wrote, opened once per worker."""
    return dict(job.tables("repair", "seams"))


def patches_to_paint(job: Job, grid: PatchGrid) -> list[int]:
    """Return the patches whose cores hold pixels of objects."""
    seams = seams_of(job)
    patches = set(seams["segmented"].tolist())
    for name in COMPARTMENTS:
        for box in seams[f"{name}_disputed_box"].tolist():
            window = Window(*box)
            near = grid.near(window)
            patches |= {p.number for p in near if p.core.intersection(window)}
    return sorted(patches)


def painted(job: Job, grid: PatchGrid, number: int) -> Painted:
    """Paint the core of a patch, with one pixel around it, in slide ids."""
    seams, patch = seams_of(job), grid[number]
    window = patch.core.grow(1, grid.shape)
    if number in seams["segmented"]:
        labels = job.run.read_patch(number, patch.outer, window)
    else:
        labels = np.zeros((2, *window.shape), np.uint32)
    same = (labels[0] == labels[1]) & (labels[0] > 0)
    ids = np.empty_like(labels)
    disputed: tuple[list[int], list[int]] = ([], [])
    for c, name in enumerate(COMPARTMENTS):
        rows = _listings(seams, name, number)
        rows = rows[seams[f"{name}_id"][rows] > 0]
        ids[c] = relabel(labels[c], seams[f"{name}_label"][rows], seams[f"{name}_id"][rows])
        for part, mask, number_of in _disputed(job, seams, c, window):
            free = ids[c][part.within(window)]
            free[mask & (free == 0)] = number_of
            same[part.within(window)] |= mask
            disputed[c].append(number_of)
    return Painted(window, ids, same, disputed)


def _disputed(
    job: Job, seams: Arrays, compartment: int, window: Window
) -> Iterator[tuple[Window, NDArray[np.bool_], int]]:
    """Yield the disputed objects under a window as their speakers see them, in order."""
    name = COMPARTMENTS[compartment]
    box = seams[f"{name}_disputed_box"]
    seen: dict[int, tuple[Window, Labels]] = {}
    for row in np.flatnonzero(_overlap(box, window)):
        speaker = int(seams[f"{name}_disputed_patch"][row])
        if speaker not in seen:
            view = Window(*seams["view"][speaker].tolist())
            part = view.intersection(window)
            if part is None:
                continue
            seen[speaker] = part, _read_view(job, speaker, view, part)[compartment]
        shown, labels = seen[speaker]
        part = Window(*box[row].tolist()).intersection(shown)
        if part is not None:
            mask = labels[part.within(shown)] == seams[f"{name}_disputed_label"][row]
            yield part, mask, int(seams[f"{name}_disputed_id"][row])
