"""Stitch: number the cells and write the whole-slide labels, core by core.

Cells are numbered 1..n in the raster order of their first pixels; a nucleus carries the
number of its cell. A core is written with its part of the pyramid. ``cell`` and
``nucleus`` hold the matched pairs, ``cell_original`` and ``nucleus_original`` everything
that the backend found.
"""

import logging
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from codexseg.config.schema import Config
from codexseg.core.grid import PatchGrid
from codexseg.core.labels.operations import renumber
from codexseg.errors import RunStateError
from codexseg.io.labels.chunks import core_levels
from codexseg.io.labels.store import LabelStore
from codexseg.run.directory import Arrays, Row, Tables
from codexseg.stages.base import Context, Job, Source, Stage
from codexseg.stages.load import overview_factor
from codexseg.stages.metadata import cells_of, counts_of, write_metadata
from codexseg.stages.painting import painted, patches_to_paint
from codexseg.stages.pixels import grid_of
from codexseg.stages.repair import MATCHED, by_construction, matchable
from codexseg.stages.segment import COMPARTMENTS

log = logging.getLogger(__name__)

NAMES = ("cell", "nucleus", "cell_original", "nucleus_original")

Ints = NDArray[np.int64]


def stitch(context: Context) -> Row:
    """Write the table of ids, the labels of every core, and the pyramids."""
    job = context.job
    grid = grid_of(job)
    store = _open_store(job, grid)
    job.write_tables("cells", number_cells(job.tables("repair", "objects"), grid))
    context.map_patches(write_core, patches_to_paint(job, grid))
    for level in range(1 + core_levels(grid.shape, grid.step), store.n_levels):
        tasks = store.level_tasks(level)
        context.map_patches(
            build_level, range(len(tasks)), unit="block", part=f"level{level}"
        )
    channels = job.config.channels
    store.write_image(
        job.tables("load", "slide")["overview"],
        overview_factor(grid.shape),
        (channels.nuclear_channel, "+".join(channels.wholecell_channel) or "whole cell"),
        job.source.mpp,
    )
    store.finish()
    write_metadata(job, lambda patch: counts_of(job, patch))
    cells = job.tables("stitch", "cells")
    return {
        "cells": len(cells["cell_id"]),
        "unmatched": len(cells["unmatched_reason"]),
        "written": [job.run.segmentation_path.name],
    }


def _open_store(job: Job, grid: PatchGrid) -> LabelStore:
    """Take up the labels that a stopped run has begun, or begin."""

    def create(*, overwrite: bool) -> LabelStore:
        return LabelStore.create(
            job.run.segmentation_path,
            grid.shape,
            grid.step,
            job.source.mpp,
            names=NAMES,
            version=job.config.export.ome_zarr_version,
            overwrite=overwrite,
        )

    if job.run.segmentation_path.exists() and job.run.rows("stitch", job.key):
        try:
            return create(overwrite=False)
        except RunStateError as error:
            log.warning("%s The labels are written anew.", error)
    job.run.forget("stitch")  # rows would speak of labels that are gone
    return create(overwrite=True)


def number_cells(objects: Arrays, grid: PatchGrid) -> Tables:
    """Give matched cells their numbers in raster order, and list the unmatched objects.

    Returns
    -------
    tables : dict
        A column each: of the n cells in the order of their ids; names that start with
        ``unmatched_`` of the unmatched objects; ``{name}_lut`` the number of an object
        of the slide in each of the four label images, 0 where it is not in it.
    """
    tables: Tables = {}
    rank = {}
    for name in ("cell", "nucleus"):
        first = objects[f"{name}_first"]
        ranks = np.zeros(len(first) + 1, np.uint32)
        ranks[1 + np.argsort(first, kind="stable")] = np.arange(1, len(first) + 1)
        rank[name] = tables[f"{name}_original_lut"] = ranks

    matched = np.flatnonzero(objects["cell_reason"] == MATCHED)
    matched = matched[np.argsort(objects["cell_first"][matched], kind="stable")]
    ids = np.arange(1, len(matched) + 1, dtype=np.uint32)
    nucleus = objects["cell_nucleus"][matched]
    has_nucleus = nucleus >= 0
    tables["cell_lut"] = np.zeros(len(objects["cell_first"]) + 1, np.uint32)
    tables["cell_lut"][1 + matched] = ids
    tables["nucleus_lut"] = np.zeros(len(objects["nucleus_first"]) + 1, np.uint32)
    tables["nucleus_lut"][1 + nucleus[has_nucleus]] = ids[has_nucleus]

    def of_nucleus(column: NDArray[np.generic]) -> NDArray[np.generic]:
        values = np.zeros(len(matched), column.dtype)
        values[has_nucleus] = column[nucleus[has_nucleus]]
        return values

    y, x = np.divmod(objects["cell_first"][matched], grid.shape[1])
    return tables | {
        "cell_id": ids,
        "patch_id": grid.owner(y, x),
        "box": objects["cell_box"][matched],
        "cell_original_id": rank["cell"][1 + matched],
        "nucleus_original_id": of_nucleus(rank["nucleus"][1:]),
        "original_patch_id": objects["cell_patch"][matched],
        "cell_original_label": objects["cell_label"][matched],
        "nucleus_original_area": of_nucleus(objects["nucleus_area"]),
        **_unmatched(objects, rank, grid),
    }


def _unmatched(objects: Arrays, rank: Tables, grid: PatchGrid) -> Tables:
    columns: dict[str, list[NDArray[np.generic]]] = {}
    for compartment, name in enumerate(("cell", "nucleus")):
        rows = np.flatnonzero(objects[f"{name}_reason"] != MATCHED)
        rows = rows[np.argsort(objects[f"{name}_first"][rows], kind="stable")]
        y, x = np.divmod(objects[f"{name}_first"][rows], grid.shape[1])
        box = objects[f"{name}_box"][rows]
        for column, values in (
            ("compartment", np.full(len(rows), compartment, np.int8)),
            ("reason", objects[f"{name}_reason"][rows]),
            ("original_id", rank[name][1 + rows]),
            ("area", objects[f"{name}_area"][rows]),
            ("box", box),
            ("patch_id", grid.owner(y, x)),
            ("original_patch_id", objects[f"{name}_patch"][rows]),
            ("original_label", objects[f"{name}_label"][rows]),
        ):
            columns.setdefault(f"unmatched_{column}", []).append(values)
    return {name: np.concatenate(parts) for name, parts in columns.items()}


def store_of(job: Job) -> LabelStore:
    """Return the whole-slide labels."""
    return LabelStore(job.run.segmentation_path)


def write_core(job: Job, patches: Sequence[int]) -> Iterator[tuple[int, Row]]:
    """Write the four labels of cores. Runs in a worker."""
    grid, cells, store = grid_of(job), cells_of(job), store_of(job)
    by_label, levels = by_construction(job), core_levels(grid.shape, grid.step)
    for number in patches:
        core, view = grid[number].core, painted(job, grid, number)
        inside = core.within(view.window)
        ids = view.ids[:, *inside]
        for name, seen in zip(COMPARTMENTS, ids, strict=True):
            original = renumber(seen, cells[f"{name}_original_lut"])
            store.write(f"{name}_original", core, original, levels)
        cell = renumber(ids[0], cells["cell_lut"])
        store.write("cell", core, cell, levels)
        where = matchable(view, by_label=by_label)[inside]
        nucleus = renumber(ids[1], cells["nucleus_lut"])
        nucleus *= (nucleus == cell) & where
        store.write("nucleus", core, nucleus, levels)
        yield number, {}


def build_level(job: Job, tasks: Sequence[int]) -> Iterator[tuple[int, Row]]:
    """Build blocks of a level of the pyramids. Runs in a worker."""
    store, level = store_of(job), int(job.stage.removeprefix("stitch.level"))
    todo = store.level_tasks(level)
    for task in tasks:
        store.build_level(level, todo[task])
        yield task, {}


def _version(config: Config, source: Source) -> Row:
    del source
    return {"ome_zarr_version": config.export.ome_zarr_version}


STAGE = Stage("stitch", ("stitch",), ("load", "patch", "repair"), stitch, extra=_version)
