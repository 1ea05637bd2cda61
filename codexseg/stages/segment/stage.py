"""Segment: from pixels to the labels of each valid patch, batch by batch from disk.

A batch contains as many patches of one shape as fit the memory budget. Their pixels, read
by ``workflow/pixels.py``, go to a memory-mapped file that the backend reads; the labels of
each patch go to its own chunks of ``patches.zarr``. Each patch then verifies its halo: no
object that touches its core may come near a cut edge, or the window is extended.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from codexseg.arrays import Columns, Labels, Pixels
from codexseg.artifacts.columns import COMPARTMENTS
from codexseg.artifacts.objects import fill_columns
from codexseg.artifacts.patch_labels import PatchLabels, empty_columns, write_detections
from codexseg.artifacts.patches import (
    informative_patches,
    patch_rows,
    read_grid,
    write_patches_metadata,
)
from codexseg.artifacts.warnings import RunWarning, as_json
from codexseg.backends.base import (
    BYTES_PER_PX,
    BackendResult,
    WholeSlideBackend,
    bytes_per_px,
    context_px,
    slide_passes_of,
)
from codexseg.config.schema import Config
from codexseg.core.grid import Patch, PatchGrid, Window
from codexseg.core.intensity.background import signal_pixels
from codexseg.core.labels.stitching import Detections, describe_objects, near_cut_edge
from codexseg.io.slides.record import SlideRecord
from codexseg.run.files import map_npy
from codexseg.run.records import Record
from codexseg.stages.segment.backend import (
    BackendWorker,
    backend_worker,
    known_diameter,
)
from codexseg.stages.segment.diameter import find_diameter
from codexseg.stages.segment.passes import (
    discard_slide_passes,
    open_slide_view,
    run_slide_passes,
)
from codexseg.stages.segment.prediction import (
    drop_without_signal,
    predict_patches,
    predict_window,
)
from codexseg.workflow.stage import (
    BackendRecord,
    Finished,
    Stage,
    StageContext,
    StageInputs,
)
from codexseg.workflow.worker import worker_state

log = logging.getLogger(__name__)

BATCHES_PER_WORKER = 4
"""Minimum number of batches per worker, if there are enough patches."""
MAX_EXTENDED_PX = 4096**2
"""A window is extended to at most this many pixels, or twice the patch's own."""


def segment_slide(context: StageContext) -> Record:
    """Segment the valid patches."""
    inputs = context.inputs
    grid = read_grid(inputs.records("patch"))
    store, own = inputs.run.patches, inputs.own
    labels = PatchLabels(store, own, grid)
    if store.create(len(grid), grid.outer_shape, keep=bool(own.read_all())):
        inputs.run.forget("segment")  # the labels of its records are gone
    scale = find_diameter(context)
    valid, summary = informative_patches(inputs.records("flag")), Record()
    if len(_intact(labels, valid)) < len(valid):
        summary = run_slide_passes(context)
    backend = backend_worker(inputs, known_diameter(inputs)).backend
    records = context.map_patches(
        segment_patches,
        valid,
        groups=partial(
            make_batches,
            grid=grid,
            budget_gb=inputs.config.segmentation.batch_memory_gb,
            workers=context.executor.workers,
            px_bytes=bytes_per_px(backend),
        ),
        tolerant=True,
    )
    write_patches_metadata(inputs.run.path, patch_rows(grid, inputs.records("flag"), own))
    failed = [p for p, record in records.items() if record["status"] == "failed"]
    if not failed:
        discard_slide_passes(inputs.run)
    return {
        **scale,
        **summary,
        "patches": len(records),
        "written": ["patches.zarr"],
        "failed": failed,
        "cells": sum(record.get("n_cells", 0) for record in records.values()),
        "nuclei": sum(record.get("n_nuclei", 0) for record in records.values()),
        "grown": [p for p, record in records.items() if record.get("window")],
        "not_proven": [p for p, record in records.items() if record.get("n_not_proven")],
        "warnings": [*scale.get("warnings", []), *_halo_warnings(records)],
    }


def _intact(labels: PatchLabels, valid: Sequence[int]) -> list[int]:
    """Return the patches that need no segmentation; forget those with lost labels."""
    intact, records = [], labels.records.read_all()
    for patch in valid:
        record = records.get(patch)
        if labels.is_intact(patch, record):
            intact.append(patch)
        elif record is not None and record["status"] != "failed":
            log.warning("The labels of patch %d are damaged and are recomputed.", patch)
            labels.records.forget(patch)
    return intact


def _halo_warnings(records: Mapping[int, Record]) -> list[Record]:
    cut = {p: r["n_not_proven"] for p, r in records.items() if r.get("n_not_proven")}
    if not cut:
        return []
    total = sum(cut.values())
    return as_json(
        [
            RunWarning(
                "halo_insufficient",
                sorted(cut),
                "patching.overlap",
                f"{total} objects in {len(cut)} patches reach from the core to the edge of "
                f"the window that was read, and may be cut there. Use larger patches.",
            )
        ]
    )


def make_batches(
    patches: Sequence[int],
    grid: PatchGrid,
    budget_gb: float,
    workers: int,
    px_bytes: int = BYTES_PER_PX,
) -> list[list[int]]:
    """Sort patches into batches of one shape within the memory budget of a worker.

    Batches are small enough that all workers are busy until the end.
    """
    max_size = max(1, len(patches) // (BATCHES_PER_WORKER * workers))
    by_shape: dict[tuple[int, int], list[int]] = {}
    for number in patches:
        by_shape.setdefault(grid[number].outer.shape, []).append(number)
    batches = []
    for (height, width), numbers in by_shape.items():
        size = max(1, int(budget_gb * 2**30 / (height * width * px_bytes)))
        size = min(size, max_size)
        batches += [numbers[i : i + size] for i in range(0, len(numbers), size)]
    return sorted(batches)


# -- in a worker --------------------------------------------------------------------------


def segment_patches(inputs: StageInputs, patches: Sequence[int]) -> Finished:
    """Segment a batch of patches of one shape. Runs in a worker."""
    grid = worker_state(inputs).grid
    windows = [grid[number].outer for number in patches]
    for number, result in zip(patches, _predict(inputs, windows), strict=True):
        yield number, _finish(inputs, grid[number], result)


def _predict(inputs: StageInputs, windows: Sequence[Window]) -> Iterator[BackendResult]:
    """Segment windows of one shape; yield the result (2, y, x) of each."""
    signal = worker_state(inputs).statistics.signal
    for window, result in zip(windows, _results(inputs, windows), strict=True):
        drop_without_signal(result.labels, signal_pixels(signal, window))
        yield result


def _results(inputs: StageInputs, windows: Sequence[Window]) -> Iterator[BackendResult]:
    worker = backend_worker(inputs, known_diameter(inputs))
    backend, compartment = worker.backend, inputs.config.segmentation.compartment
    if isinstance(backend, WholeSlideBackend) and slide_passes_of(backend):
        view = open_slide_view(inputs)
        for window in windows:
            yield predict_window(backend, window, view, compartment)
        return
    with TemporaryDirectory(dir=inputs.own.folder, prefix="batch-") as folder:
        patches = _read_batch(Path(folder), worker, windows)
        yield from predict_patches(backend, patches, windows, compartment)


def _read_batch(folder: Path, worker: BackendWorker, windows: Sequence[Window]) -> Pixels:
    """Read windows of one shape into a memory-mapped file (n, 2, y, x)."""
    first = worker.read(windows[0])
    shape = (len(windows), *first.shape)
    patches: Pixels = map_npy(folder / "patches.npy", first.dtype, shape)
    patches[0] = first
    for i, window in enumerate(windows[1:], 1):
        patches[i] = worker.read(window)
    return patches


def _finish(inputs: StageInputs, patch: Patch, result: BackendResult) -> Record:
    """Verify the halo, write labels and detections, and return the record."""
    grid = worker_state(inputs).grid
    window, record = patch.outer, Record(status="done", note="")
    objects, n_near = _detect(inputs, patch, window, result.labels)
    growth = max(*grid.halo, *(step // 8 for step in grid.step))
    while n_near:
        wider = window.grow(growth, grid.shape)
        if wider.area > max(MAX_EXTENDED_PX, 2 * patch.outer.area):
            note = (
                f"{n_near} objects reach from the core to a cut edge and may be cut there"
            )
            record |= {"n_not_proven": n_near, "note": note}
            break
        window, growth = wider, 2 * growth
        (result,) = _predict(inputs, [window])
        objects, n_near = _detect(inputs, patch, window, result.labels)
        height, width = window.shape
        record |= {
            "window": [window.y0, window.x0, window.y1, window.x1],
            "note": f"window grown to {height} x {width} px",
        }
    columns = _object_columns(inputs, objects, result)
    write_detections(inputs.own, patch.number, objects, columns)
    size = PatchLabels(inputs.run.patches, inputs.own, grid).write(
        patch, window, result.labels
    )
    owned = [_count_owned(detections, patch, grid) for detections in objects.values()]
    return {**record, "n_cells": owned[0], "n_nuclei": owned[1], "bytes": size}


def _detect(
    inputs: StageInputs, patch: Patch, window: Window, labels: Labels
) -> tuple[dict[str, Detections], int]:
    """List the objects that touch a core, and count those too near to a cut edge."""
    grid = worker_state(inputs).grid
    margin = context_px(backend_worker(inputs, known_diameter(inputs)).backend)
    objects = {
        name: describe_objects(image, window, patch.core, grid)
        for name, image in zip(COMPARTMENTS, labels, strict=True)
    }
    near = (near_cut_edge(o, window, margin, grid.shape) for o in objects.values())
    return objects, sum(int(mask.sum()) for mask in near)


def _object_columns(
    inputs: StageInputs, objects: Mapping[str, Detections], result: BackendResult
) -> dict[str, Columns]:
    """Order the per-object columns of a result by its detections."""
    declared = inputs.backend.object_columns
    if not declared:
        return empty_columns({})
    (columns,) = result.columns
    return {
        name: fill_columns(detections.label, columns[name], declared)
        for name, detections in objects.items()
    }


def _count_owned(objects: Detections, patch: Patch, grid: PatchGrid) -> int:
    y, x = np.divmod(objects.first, grid.shape[1])
    return int(np.count_nonzero(grid.owner(y, x) == patch.number))


def _backend(config: Config, slide: SlideRecord, backend: BackendRecord) -> Record:
    del config, slide
    return {"backend": backend.fingerprint}


STAGE = Stage(
    "segment", ("segmentation",), ("load", "patch", "flag"), segment_slide, extra=_backend
)
