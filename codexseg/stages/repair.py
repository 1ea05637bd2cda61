"""Repair: every cell keeps one nucleus, and nothing of it lies outside the cell.

A pair is decided once for the slide. Each patch counts, in its core, the pixels that
nuclei share with the interiors of cells; the counts of all cores add up to the slide's,
and the pairs are chosen from the sums. So no pair depends on how the slide is cut.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from codexseg.core.grid import PatchGrid, Window
from codexseg.core.labels.matching import interior, match, matched_fraction, pair_table
from codexseg.core.labels.operations import object_table, relabel
from codexseg.core.labels.stitching import Versions
from codexseg.run.directory import Row, Tables
from codexseg.stages.base import Context, Job, Stage
from codexseg.stages.painting import Painted, painted, patches_to_paint
from codexseg.stages.pixels import grid_of
from codexseg.stages.seams import join
from codexseg.stages.segment import COMPARTMENTS

Ints = NDArray[np.int64]

REASONS = ("", "no partner", "overlap below min_overlap", "partner has a better match")
"""Why an object has no partner; the first: it has one."""
MATCHED, ALONE, TOO_LITTLE, BEATEN = range(4)


def repair(context: Context) -> Row:
    """Join the seams, count shared pixels in every core, and choose the pairs."""
    job = context.job
    grid = grid_of(job)
    versions = join(context)
    patches = patches_to_paint(job, grid)
    context.map_patches(count_pairs, patches, part="pairs")

    objects = _objects(job, versions, patches)
    cell, nucleus, shared = _sum_pairs(job, patches)
    by_label, rules = by_construction(job), job.config.repair
    least = 0.0 if by_label else rules.min_overlap
    accepted = match(
        cell,
        nucleus,
        shared,
        nucleus_area=objects["nucleus_area"],
        cell_first=objects["cell_first"],
        nucleus_first=objects["nucleus_first"],
        matching="best" if by_label else rules.matching,
        min_overlap=least,
    )
    n_cells, n_nuclei = len(objects["cell_first"]), len(objects["nucleus_first"])
    partner = np.full(n_cells, -1, np.int64)
    partner[cell[accepted]] = nucleus[accepted]
    kept = np.zeros(n_cells, np.int64)
    kept[cell[accepted]] = shared[accepted]
    enough = shared / objects["nucleus_area"][nucleus] >= least
    reasons = {
        "cell_reason": _reasons(n_cells, cell, enough, cell[accepted]),
        "nucleus_reason": _reasons(n_nuclei, nucleus, enough, nucleus[accepted]),
    }
    if job.config.segmentation.compartment == "whole-cell":
        reasons["cell_reason"][:] = MATCHED
    job.write_tables(
        "objects", {**objects, **reasons, "cell_nucleus": partner, "cell_shared": kept}
    )
    fraction = matched_fraction(len(accepted), n_cells, n_nuclei)
    return {
        "cells": n_cells,
        "nuclei": n_nuclei,
        "matched": len(accepted),
        "matched_fraction": None if np.isnan(fraction) else fraction,
        "disputed": {
            name: int((~v.agreed).sum())
            for name, v in zip(COMPARTMENTS, versions, strict=True)
        },
    }


def by_construction(job: Job) -> bool:
    """Whether cells and nuclei are paired by their labels and not by their pixels."""
    if job.config.segmentation.compartment == "nuclear":
        return True
    return job.source.paired


def matchable(view: Painted, *, by_label: bool) -> NDArray[np.bool_]:
    """Mark the pixels at which a nucleus may count for a cell: (y, x) bool.

    The interior of the cell; or, where labels pair them, wherever the labels are equal.
    """
    if by_label:
        return view.same
    return interior(view.ids[0])


def count_pairs(job: Job, patches: Sequence[int]) -> Iterator[tuple[int, Row]]:
    """Count shared pixels in the cores of patches. Runs in a worker."""
    grid, by_label = grid_of(job), by_construction(job)
    for number in patches:
        view, core = painted(job, grid, number), grid[number].core
        inside = np.zeros(view.window.shape, np.bool_)
        inside[core.within(view.window)] = True
        where = matchable(view, by_label=by_label) & inside
        pairs = pair_table(view.ids[0], view.ids[1], interior=where)
        tables: Tables = {
            "cell": pairs.cell.astype(np.int64) - 1,
            "nucleus": pairs.nucleus.astype(np.int64) - 1,
            "shared": pairs.shared,
        }
        for c, name in enumerate(COMPARTMENTS):
            if view.disputed[c]:
                tables[f"{name}_left"] = _left(view, c, core, grid)
        job.write_tables(number, tables)
        yield number, {}


def _left(view: Painted, compartment: int, core: Window, grid: PatchGrid) -> Ints:
    """Measure what a core holds of disputed objects.

    (n, 7): id, area, first pixel, and box (y0, x0, y1, x1).
    """
    ids = np.unique(view.disputed[compartment]).astype(np.uint32)
    numbers = np.arange(1, len(ids) + 1, dtype=np.uint32)
    image = relabel(view.ids[compartment][core.within(view.window)], ids, numbers)
    table = object_table(image)
    y, x = np.divmod(table.first, image.shape[1])
    first = (y + core.y0) * grid.shape[1] + x + core.x0
    slices = ndi.find_objects(image)
    boxes = [
        [core.y0 + ys.start, core.x0 + xs.start, core.y0 + ys.stop, core.x0 + xs.stop]
        for ys, xs in (slices[number - 1] for number in table.label)
    ]
    here = ids[table.label - 1].astype(np.int64)
    box = np.array(boxes, np.int64).reshape(-1, 4)
    return np.column_stack([here, table.area, first, box])


def _objects(job: Job, versions: list[Versions], patches: list[int]) -> Tables:
    """List the slide's objects in the order of their ids."""
    seams = job.tables("repair", "seams")
    tables: Tables = {}
    for name, found in zip(COMPARTMENTS, versions, strict=True):
        accepted = seams[f"{name}_accepted"]
        tables |= {
            f"{name}_first": found.first[accepted],
            f"{name}_area": found.area[accepted],
            f"{name}_box": found.box[accepted],
            f"{name}_patch": found.speaker[accepted],
            f"{name}_label": found.name[accepted],
        }
        disputed = np.unique(seams[f"{name}_disputed_id"]).astype(np.int64)
        if len(disputed):
            _correct(job, tables, name, disputed, patches)
    return tables


def _correct(
    job: Job, tables: Tables, name: str, disputed: Ints, patches: list[int]
) -> None:
    """Give disputed objects the area, first pixel and box of what was left to them."""
    parts = [job.tables("repair.pairs", p).get(f"{name}_left") for p in patches]
    left = np.concatenate(
        [np.zeros((0, 7), np.int64), *(p for p in parts if p is not None)]
    )
    area, first, box = (tables[f"{name}_{what}"] for what in ("area", "first", "box"))
    rows, row = disputed - 1, left[:, 0] - 1
    area[rows], first[rows] = 0, np.iinfo(np.int64).max
    box[rows, :2], box[rows, 2:] = np.iinfo(np.int64).max, 0
    np.add.at(area, row, left[:, 1])
    np.minimum.at(first, row, left[:, 2])
    np.minimum.at(box[:, :2], row, left[:, 3:5])
    np.maximum.at(box[:, 2:], row, left[:, 5:])


def _sum_pairs(job: Job, patches: list[int]) -> tuple[Ints, Ints, Ints]:
    """Add up what the cores counted: cell row, nucleus row, shared pixels."""
    parts = [job.tables("repair.pairs", p) for p in patches]
    empty = np.zeros(0, np.int64)
    cell, nucleus, shared = (
        np.concatenate([empty, *(part[name] for part in parts)])
        for name in ("cell", "nucleus", "shared")
    )
    order = np.lexsort((nucleus, cell))
    cell, nucleus, shared = cell[order], nucleus[order], shared[order]
    if len(cell) == 0:
        return cell, nucleus, shared
    changes = (cell[1:] != cell[:-1]) | (nucleus[1:] != nucleus[:-1])
    starts = np.flatnonzero(np.concatenate([[True], changes]))
    return cell[starts], nucleus[starts], np.add.reduceat(shared, starts)


def _reasons(
    n: int, row: Ints, enough: NDArray[np.bool_], matched: Ints
) -> NDArray[np.int8]:
    """Say for each of n objects why it has no partner (see :data:`REASONS`)."""
    reasons = np.full(n, ALONE, np.int8)
    reasons[row] = TOO_LITTLE
    reasons[row[enough]] = BEATEN
    reasons[matched] = MATCHED
    return reasons


STAGE = Stage("repair", ("repair", "stitch"), ("patch", "segment"), repair)
