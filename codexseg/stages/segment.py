"""Segment: from pixels to the labels of each valid patch, batch by batch from disk.

A batch is as many patches of one shape as the memory budget holds. Their pixels go into
a memory-mapped file, the backend reads them from there, and each patch's labels go to
its own chunks of ``patches.zarr``. Then the patch proves its halo: no object that touches
its core may come near a cut edge, or the window grows until none does.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codexseg.arrays import Labels
from codexseg.backends.base import (
    BYTES_PER_PX,
    Backend,
    WholeSlideBackend,
    bytes_per_px,
    check_result,
    context_px,
    slide_passes_of,
)
from codexseg.backends.slide_pass import SlideView
from codexseg.config.schema import Config
from codexseg.core.grid import Patch, PatchGrid, Window
from codexseg.core.intensity.background import signal_pixels
from codexseg.core.labels.operations import any_where, object_table, relabel
from codexseg.core.labels.stitching import Objects, describe, reach_cut_edge
from codexseg.run.directory import Row, Tables
from codexseg.run.files import map_npy
from codexseg.stages.base import Context, Job, Source, Stage
from codexseg.stages.metadata import write_metadata
from codexseg.stages.pixels import backend_of, grid_of, loaded, pixels_of, valid_patches
from codexseg.stages.scale import find_scale
from codexseg.stages.surveys import discard_slide_passes, run_slide_passes, view_of

log = logging.getLogger(__name__)

COMPARTMENTS = ("cell", "nucleus")
BATCHES_PER_WORKER = 4
"""At least, where there are patches enough."""
MOST_GROWN_PX = 4096**2
"""A patch grows its halo up to this many pixels, or to twice its own, to prove it."""


def segment(context: Context) -> Row:
    """Segment the valid patches."""
    job = context.job
    grid = grid_of(job)
    rows = job.run.rows("segment", job.key)
    if job.run.create_patches(len(grid), grid.outer_shape, keep=bool(rows)):
        job.run.forget("segment")  # rows would speak of labels that are gone
        rows = {}
    scale = find_scale(context)
    valid, figures = valid_patches(job), Row()
    done = [patch for patch in valid if _is_done(job, patch, rows.get(patch))]
    if len(done) < len(valid):
        figures = run_slide_passes(context)
    rows = context.map_patches(
        segment_patches,
        valid,
        groups=partial(
            batches,
            grid=grid,
            budget_gb=job.config.segmentation.batch_memory_gb,
            workers=context.executor.workers,
            px_bytes=bytes_per_px(backend_of(job)),
        ),
        tolerant=True,
    )
    write_metadata(job)
    failed = [p for p, row in rows.items() if row["status"] == "failed"]
    if not failed:
        discard_slide_passes(job.run)
    return {
        **scale,
        **figures,
        "patches": len(rows),
        "written": ["patches.zarr"],
        "failed": failed,
        "cells": sum(row.get("n_cells", 0) for row in rows.values()),
        "nuclei": sum(row.get("n_nuclei", 0) for row in rows.values()),
        "grown": [p for p, row in rows.items() if row.get("window")],
        "not_proven": [p for p, row in rows.items() if row.get("n_not_proven")],
    }


def _is_done(job: Job, patch: int, row: Row | None) -> bool:
    """Whether a patch was segmented, and its labels are there as they were written."""
    if row is None or row["status"] == "failed":
        return False
    if job.run.patch_bytes(patch) == row.get("bytes"):
        return True
    log.warning("the labels of patch %d are lost or damaged, made again", patch)
    job.run.forget_row("segment", job.key, patch)
    return False


def batches(
    patches: Sequence[int],
    grid: PatchGrid,
    budget_gb: float,
    workers: int,
    px_bytes: int = BYTES_PER_PX,
) -> list[list[int]]:
    """Sort patches into batches of one shape that fit the memory budget of a worker.

    No batch is so large that workers would wait for the last one.
    """
    most = max(1, len(patches) // (BATCHES_PER_WORKER * workers))
    by_shape: dict[tuple[int, int], list[int]] = {}
    for number in patches:
        by_shape.setdefault(grid[number].outer.shape, []).append(number)
    found = []
    for (height, width), numbers in by_shape.items():
        size = max(1, int(budget_gb * 2**30 / (height * width * px_bytes)))
        size = min(size, most)
        found += [numbers[i : i + size] for i in range(0, len(numbers), size)]
    return sorted(found)


def segment_patches(job: Job, patches: Sequence[int]) -> Iterator[tuple[int, Row]]:
    """Segment a batch of patches of one shape. Runs in a worker."""
    grid = grid_of(job)
    windows = [grid[number].outer for number in patches]
    for number, labels in zip(patches, _predict(job, windows), strict=True):
        yield number, _finish(job, grid, grid[number], labels)


def _predict(job: Job, windows: Sequence[Window]) -> Iterator[Labels]:
    """Have windows of one shape segmented: (2, y, x) each."""
    backend, found = backend_of(job), loaded(job)
    if isinstance(backend, WholeSlideBackend) and slide_passes_of(backend):
        batch: Iterable[Labels] = (
            _label(backend, window, view_of(job)) for window in windows
        )
    else:
        batch = _predict_batch(job, backend, windows)
    for window, labels in zip(windows, batch, strict=True):
        chosen = choose_compartment(labels, job.config.segmentation.compartment)
        _drop_without_signal(chosen, signal_pixels(found.signal, window))
        yield chosen


def _label(backend: WholeSlideBackend, window: Window, view: SlideView) -> Labels:
    result = backend.segment_window(window, view)
    return check_result(result, (2, *window.shape), backend).labels


def _predict_batch(job: Job, backend: Backend, windows: Sequence[Window]) -> Labels:
    """Read windows of one shape into a memory-mapped file and have them segmented."""
    scratch = job.run.work_path(job.stage, job.key)
    with TemporaryDirectory(dir=scratch, prefix="batch-") as folder:
        patches: NDArray[Any] | None = None
        for i, window in enumerate(windows):
            pixels = pixels_of(job, window)
            if patches is None:
                shape = (len(windows), *pixels.shape)
                patches = map_npy(Path(folder) / "patches.npy", pixels.dtype, shape)
            patches[i] = pixels
        if patches is None:
            return np.zeros((0, 2, 0, 0), np.uint32)
        result = backend.predict(patches, windows)
        return check_result(result, patches.shape, backend).labels


def choose_compartment(labels: Labels, compartment: str) -> Labels:
    """Empty the compartment that was not asked for; a nucleus alone is its own cell."""
    cells, nuclei = labels
    if compartment == "whole-cell":
        return np.stack([cells, np.zeros_like(nuclei)])
    if compartment == "nuclear":
        return np.stack([nuclei, nuclei])
    return labels


def _drop_without_signal(labels: Labels, signal: NDArray[np.bool_]) -> None:
    """Drop objects that lie in blocks without signal only, in place.

    A patch without signal is not segmented, so such an object would depend on where
    the borders of the patches fall.
    """
    if signal.all():
        return
    for compartment in labels:
        if any_where(compartment, ~signal):
            kept = object_table(np.where(signal, compartment, np.uint32(0))).label
            compartment[...] = relabel(compartment, kept, kept)


def _finish(job: Job, grid: PatchGrid, patch: Patch, labels: Labels) -> Row:
    """Prove the halo, write labels and objects, and say what was found."""
    outer, row = patch.outer, Row(status="done", note="")
    objects, n_wrong = _judge(job, grid, patch, outer, labels)
    growth = max(*grid.halo, *(step // 8 for step in grid.step))
    while n_wrong:
        wider = outer.grow(growth, grid.shape)
        if wider.area > max(MOST_GROWN_PX, 2 * patch.outer.area):
            note = (
                f"{n_wrong} objects reach from the core to a cut edge and may be cut there"
            )
            row |= {"n_not_proven": n_wrong, "note": note}
            break
        outer, growth = wider, 2 * growth
        (labels,) = _predict(job, [outer])
        objects, n_wrong = _judge(job, grid, patch, outer, labels)
        height, width = outer.shape
        row |= {
            "window": [outer.y0, outer.x0, outer.y1, outer.x1],
            "note": f"window grown to {height} x {width} px",
        }

    tables: Tables = {}
    for name, listed in zip(COMPARTMENTS, objects, strict=True):
        tables |= listed.to_tables(name)
    job.write_tables(patch.number, tables)
    job.run.write_patch(patch.number, labels[:, *patch.outer.within(outer)])
    if outer != patch.outer:
        job.run.write_grown(patch.number, labels)
    owned = [_owned(o, patch, grid) for o in objects]
    size = job.run.patch_bytes(patch.number)
    return {**row, "n_cells": owned[0], "n_nuclei": owned[1], "bytes": size}


def _judge(
    job: Job, grid: PatchGrid, patch: Patch, outer: Window, labels: Labels
) -> tuple[list[Objects], int]:
    """List the objects of a core, and count those that come too near to a cut edge."""
    margin = context_px(backend_of(job))
    objects = [describe(image, outer, patch.core, grid) for image in labels]
    wrong = (reach_cut_edge(listed, outer, margin, grid.shape) for listed in objects)
    return objects, sum(int(found.sum()) for found in wrong)


def _owned(objects: Objects, patch: Patch, grid: PatchGrid) -> int:
    y, x = np.divmod(objects.first, grid.shape[1])
    return int(np.count_nonzero(grid.owner(y, x) == patch.number))


def _backend(config: Config, source: Source) -> Row:
    del config
    return {"backend": source.backend}


STAGE = Stage(
    "segment", ("segmentation",), ("load", "patch", "flag"), segment, extra=_backend
)
