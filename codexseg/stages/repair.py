"""Repair: pair cells and nuclei, trim nuclei to their cells, and number the cells.

Pairs are chosen once for the slide, from the pixels that nuclei share with the interiors of
cells. stitch has counted them in each core; whether the pixels along its sides are interior
depends on its neighbours and is decided here. Cells are numbered 1 to n in raster
order of their first pixels; a nucleus has the number of its cell.
"""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from codexseg.arrays import Int64, Labels, Mask
from codexseg.artifacts.cells import (
    ALONE,
    MATCHED,
    OVERLAP_TOO_SMALL,
    PARTNER_TAKEN,
    CellIndex,
    Unmatched,
)
from codexseg.artifacts.columns import COMPARTMENTS, object_column
from codexseg.artifacts.labels import (
    label_folders,
    read_original,
)
from codexseg.artifacts.objects import (
    SlideObjects,
    missing_value,
    read_patches_with_objects,
)
from codexseg.artifacts.overlaps import CoreOverlaps, side_pixels
from codexseg.artifacts.patches import patch_rows, write_patches_metadata
from codexseg.config.schema import RepairConfig
from codexseg.core.grid import PatchGrid, pixels_in_window
from codexseg.core.labels.matching import PairTable, match, matched_fraction
from codexseg.core.labels.operations import renumber
from codexseg.core.labels.overlaps import add_overlaps
from codexseg.errors import RunStateError
from codexseg.io.labels.chunks import core_levels
from codexseg.run.records import Record
from codexseg.workflow.pyramid import build_pyramid
from codexseg.workflow.stage import Finished, Stage, StageContext, StageInputs
from codexseg.workflow.worker import WorkerState, worker_state

log = logging.getLogger(__name__)

BOUNDARY = "boundary"
"""Table of the pixels that only neighbouring cores show to be on the boundary of a cell."""


def repair(context: StageContext) -> Record:
    """Choose the pairs, number the cells, and write the matched labels."""
    inputs = context.inputs
    state = worker_state(inputs)
    _restore_labels(inputs, state)
    grid, stitched = state.grid, inputs.records("stitch")
    cells, nuclei = (SlideObjects.read(stitched, name) for name in COMPARTMENTS)
    patches = read_patches_with_objects(stitched)
    overlaps, boundary = sum_overlaps(set(patches), partial(read_overlaps, inputs), grid)
    inputs.own.write_table(BOUNDARY, {"pixel": boundary})
    matches = choose_pairs(
        cells,
        nuclei,
        overlaps,
        inputs.config.repair,
        by_label=inputs.paired_by_label,
        keep_all_cells=inputs.config.segmentation.compartment == "whole-cell",
    )
    index = number_cells(cells, nuclei, matches, grid)
    index.write(inputs.own)
    context.map_patches(write_matched_cores, patches)
    build_pyramid(context, state.labels, COMPARTMENTS)
    state.labels.finish()
    rows = patch_rows(grid, inputs.records("flag"), inputs.records("segment"), index.counts)
    write_patches_metadata(inputs.run.path, rows)
    fraction = matched_fraction(matches.n_pairs, len(cells), len(nuclei))
    return {
        "cells": len(index),
        "unmatched": len(index.unmatched),
        "cells_found": len(cells),
        "nuclei_found": len(nuclei),
        "matched": matches.n_pairs,
        "matched_fraction": None if np.isnan(fraction) else fraction,
        "written": label_folders(inputs.run, COMPARTMENTS),
    }


def _restore_labels(inputs: StageInputs, state: WorkerState) -> None:
    """Create the matched label images again if their metadata are lost or damaged."""
    try:
        state.labels.check(COMPARTMENTS)
    except RunStateError as error:
        log.warning("%s The label images are written again.", error)
        inputs.run.forget("repair")  # the labels of its records are gone
        state.labels.restore(
            COMPARTMENTS,
            state.grid.shape,
            state.grid.step,
            inputs.slide.mpp,
            inputs.config.export.ome_zarr_version,
        )


# -- pairs --------------------------------------------------------------------------------


def sum_overlaps(
    patches: Collection[int], read: Callable[[int], CoreOverlaps], grid: PatchGrid
) -> tuple[PairTable, Int64]:
    """Sum the overlaps of all cores.

    Parameters
    ----------
    patches : collection of int
        Patches with objects.
    read : callable
        Returns the overlaps of a patch; called once for each, in ascending order.
    grid : PatchGrid
        The patch grid.

    Returns
    -------
    pairs : PairTable
        Pixels by cell and nucleus on the slide.
    boundary : (n,) int64
        Pixels inside a cell in their core that touch another cell, or background, in a
        neighbouring core: y * width + x, ascending. They do not count.
    """
    tables: list[PairTable] = []
    edges: dict[int, Mapping[str, Labels]] = {}
    found = [(np.zeros(0, np.int64), np.zeros(0, np.uint32), np.zeros(0, np.uint32))]
    for patch in grid:
        number, above = patch.number, patch.number - grid.counts[1]
        if number in patches:
            core = read(number)
            tables.append(core.pairs)
            edges[number] = core.edges
        if patch.row > 0:
            found += _boundary_between(grid, edges, (number, "top"), (above, "bottom"))
        if patch.column > 0:
            found += _boundary_between(grid, edges, (number, "left"), (number - 1, "right"))
        edges.pop(above, None)  # its neighbours are done
    boundary, cells, nuclei = (
        np.concatenate(columns) for columns in zip(*found, strict=True)
    )
    # The corner of a core can be found on two sides.
    boundary, once = np.unique(boundary, return_index=True)
    excess = PairTable(cells[once], nuclei[once], np.full(len(once), -1))
    cells, nuclei, shared = add_overlaps([*tables, excess])
    occurs = shared > 0
    return PairTable(cells[occurs], nuclei[occurs], shared[occurs]), boundary


def _boundary_between(
    grid: PatchGrid, edges: Mapping[int, Mapping[str, Labels]], *sides: tuple[int, str]
) -> Iterator[tuple[Int64, Labels, Labels]]:
    """Yield pixels, cells and nuclei of the boundary along two sides that touch."""
    known = [edges.get(patch, {}).get(side) for patch, side in sides]
    present = [edge for edge in known if edge is not None]
    if not present:
        return
    background = np.zeros_like(present[0])
    first, second = (background if edge is None else edge for edge in known)
    differs = first[0] != second[0]
    for (patch, side), (cells, nuclei) in zip(sides, (first, second), strict=True):
        at = differs & (nuclei > 0)
        pixels = side_pixels(grid[patch].core, side, grid.shape[1])
        yield pixels[at], cells[at], nuclei[at]


@dataclass(frozen=True, eq=False)
class PairChoice:
    """Partners of cells and nuclei, by row.

    Attributes
    ----------
    n_pairs : int
        Number of pairs.
    nucleus : (cells,) int64
        Row of the nucleus of each cell, -1 for none.
    shared : (cells,) int64
        Pixels of the nucleus after repair, 0 for none.
    cell_reason, nucleus_reason : (cells,), (nuclei,) int8
        Index into REASONS: why an object has no partner, MATCHED if it is kept.
    """

    n_pairs: int
    nucleus: Int64
    shared: Int64
    cell_reason: np.ndarray
    nucleus_reason: np.ndarray


def choose_pairs(
    cells: SlideObjects,
    nuclei: SlideObjects,
    overlaps: PairTable,
    rules: RepairConfig,
    *,
    by_label: bool,
    keep_all_cells: bool,
) -> PairChoice:
    """Choose one nucleus for each cell.

    Parameters
    ----------
    cells, nuclei : SlideObjects
        The objects of the slide.
    overlaps : PairTable
        Shared pixels, in the ids of the objects: row i has the id i + 1.
    rules : RepairConfig
        The section repair of the configuration.
    by_label : bool
        Whether equal labels pair cells and nuclei; the rules then do not apply.
    keep_all_cells : bool
        Whether cells without a nucleus are kept.
    """
    min_overlap = 0.0 if by_label else rules.min_overlap
    cell, nucleus = (ids.astype(np.int64) - 1 for ids in overlaps[:2])
    shared = overlaps.shared
    # "sequential": cells choose in the order in which patches detected them.
    order = np.argsort(cells.detected_first, kind="stable")
    position = np.empty(len(order), np.int64)
    position[order] = np.arange(len(order))
    accepted = match(
        position[cell],
        nucleus,
        shared,
        nucleus_area=nuclei.area,
        cell_first=np.asarray(cells.first)[order],
        nucleus_first=nuclei.first,
        matching="best" if by_label else rules.matching,
        min_overlap=min_overlap,
    )
    partner = np.full(len(cells), -1, np.int64)
    partner[cell[accepted]] = nucleus[accepted]
    kept = np.zeros(len(cells), np.int64)
    kept[cell[accepted]] = shared[accepted]
    enough = shared / nuclei.area[nucleus] >= min_overlap
    cell_reason = _reasons(len(cells), cell, enough, cell[accepted])
    if keep_all_cells:
        cell_reason[:] = MATCHED
    nucleus_reason = _reasons(len(nuclei), nucleus, enough, nucleus[accepted])
    return PairChoice(len(accepted), partner, kept, cell_reason, nucleus_reason)


def _reasons(n: int, row: Int64, enough: Mask, matched: Int64) -> np.ndarray:
    """Return for each of n objects why it has no partner, (n,) int8."""
    reasons = np.full(n, ALONE, np.int8)
    reasons[row] = OVERLAP_TOO_SMALL
    reasons[row[enough]] = PARTNER_TAKEN
    reasons[matched] = MATCHED
    return reasons


# -- numbers ------------------------------------------------------------------------------


def number_cells(
    cells: SlideObjects, nuclei: SlideObjects, matches: PairChoice, grid: PatchGrid
) -> CellIndex:
    """Give the kept cells ids in raster order, and list the unmatched objects."""
    kept = np.flatnonzero(matches.cell_reason == MATCHED)  # objects are in raster order
    ids = np.arange(1, len(kept) + 1, dtype=np.uint32)
    nucleus = matches.nucleus[kept]
    has_nucleus = nucleus >= 0
    cell_lut = np.zeros(len(cells) + 1, np.uint32)
    cell_lut[1 + kept] = ids
    nucleus_lut = np.zeros(len(nuclei) + 1, np.uint32)
    nucleus_lut[1 + nucleus[has_nucleus]] = ids[has_nucleus]

    def of_nucleus(column: np.ndarray, missing: float = 0) -> np.ndarray:
        values = np.full(len(kept), missing, column.dtype)
        values[has_nucleus] = column[nucleus[has_nucleus]]
        return values

    columns = {object_column("cell", n): v[kept] for n, v in cells.columns.items()}
    columns |= {
        object_column("nucleus", name): of_nucleus(values, missing_value(str(values.dtype)))
        for name, values in nuclei.columns.items()
    }
    return CellIndex(
        cell_id=ids,
        patch_id=cells.owners(grid)[kept],
        box=cells.box[kept],
        cell_original_id=(1 + kept).astype(np.uint32),
        nucleus_original_id=of_nucleus(np.arange(1, len(nuclei) + 1, dtype=np.uint32)),
        original_patch_id=cells.source_patch[kept],
        cell_original_label=cells.source_label[kept],
        nucleus_original_area=of_nucleus(np.asarray(nuclei.area)),
        cell_area=cells.area[kept],
        nucleus_area=matches.shared[kept],
        cell_lut=cell_lut,
        nucleus_lut=nucleus_lut,
        unmatched=_unmatched((cells, nuclei), matches, grid),
        columns=columns,
    )


def _unmatched(
    objects: tuple[SlideObjects, SlideObjects], matches: PairChoice, grid: PatchGrid
) -> Unmatched:
    columns: dict[str, list[np.ndarray]] = {n: [] for n in Unmatched.__dataclass_fields__}
    reasons = matches.cell_reason, matches.nucleus_reason
    for compartment, (known, reason) in enumerate(zip(objects, reasons, strict=True)):
        rows = np.flatnonzero(reason != MATCHED)
        for name, values in {
            "compartment": np.full(len(rows), compartment, np.int8),
            "reason": reason[rows],
            "original_id": (1 + rows).astype(np.uint32),
            "area": known.area[rows],
            "box": known.box[rows],
            "patch_id": known.owners(grid)[rows],
            "original_patch_id": known.source_patch[rows],
            "original_label": known.source_label[rows],
        }.items():
            columns[name].append(values)
    return Unmatched(**{name: np.concatenate(parts) for name, parts in columns.items()})


# -- labels -------------------------------------------------------------------------------


def matched_labels(
    cells: Labels, nuclei: Labels, pairable: Mask, index: CellIndex
) -> dict[str, Labels]:
    """Return the labels of matched cells and of their nuclei, (y, x) uint32 each.

    Parameters
    ----------
    cells, nuclei : (y, x) uint32
        Original labels.
    pairable : (y, x) bool
        Pixels that a nucleus keeps in its own cell.
    index : CellIndex
        The numbers.
    """
    cell = renumber(cells, np.asarray(index.cell_lut))
    nucleus = renumber(nuclei, np.asarray(index.nucleus_lut))
    nucleus *= (nucleus == cell) & pairable
    return {"cell": cell, "nucleus": nucleus}


def write_matched_cores(inputs: StageInputs, patches: Sequence[int]) -> Finished:
    """Write the matched labels of cores. Runs in a worker."""
    state, grid = worker_state(inputs), worker_state(inputs).grid
    levels = core_levels(grid.shape, grid.step)
    boundary = inputs.own.read_table(BOUNDARY)["pixel"]
    for number in patches:
        core = grid[number].core
        cells, nuclei = read_original(state.labels, core)
        pairable = read_overlaps(inputs, number).pairable
        pairable[pixels_in_window(boundary, core, grid.shape[1])] = False
        images = matched_labels(cells, nuclei, pairable, state.cells)
        for name, labels in images.items():
            state.labels.write(name, core, labels, levels)
        yield number, {}


def read_overlaps(inputs: StageInputs, patch: int) -> CoreOverlaps:
    """Read the overlaps that stitch counted in the core of a patch."""
    core = worker_state(inputs).grid[patch].core
    return CoreOverlaps.read(inputs.records("stitch"), patch, core.shape)


STAGE = Stage(
    "repair",
    ("repair",),
    ("patch", "stitch"),
    repair,
    version=2,
    changes={2: "the stages stitch and repair changed order"},
)
