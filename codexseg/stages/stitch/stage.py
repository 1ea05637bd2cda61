"""Stitch: resolve conflicts at seams and write the labels of the whole slide.

Every object belongs to one patch, the one whose core contains its first pixel in raster
order. ``cell_original`` and ``nucleus_original`` contain all objects, numbered in raster
order of their first pixels. Each core is written once, with its part of the pyramid. The
pixels that its cells and nuclei share are counted while it is in memory.
"""

import logging
from collections.abc import Sequence
from functools import partial

from codexseg.artifacts.labels import (
    LABEL_NAMES,
    ORIGINAL,
    label_folders,
)
from codexseg.artifacts.objects import write_patches_with_objects
from codexseg.artifacts.overlaps import CoreOverlaps
from codexseg.artifacts.slide_statistics import SlideTables, overview_factor
from codexseg.config.schema import Config
from codexseg.core.grid import PatchGrid
from codexseg.errors import RunStateError
from codexseg.io.labels.chunks import core_levels
from codexseg.io.labels.store import LabelStore
from codexseg.io.slides.record import SlideRecord
from codexseg.run.records import Record
from codexseg.stages.stitch.conflicts import patch_labels, resolve_seams
from codexseg.stages.stitch.mosaic import Seams, compose_window
from codexseg.workflow.pyramid import build_pyramid
from codexseg.workflow.stage import (
    BackendRecord,
    Finished,
    Stage,
    StageContext,
    StageInputs,
)
from codexseg.workflow.worker import worker_state

log = logging.getLogger(__name__)


def stitch(context: StageContext) -> Record:
    """Write the objects of the slide, and the labels of every core."""
    inputs = context.inputs
    grid = worker_state(inputs).grid
    labels = _open_store(inputs, grid)
    resolution = resolve_seams(context)
    for name, objects in resolution.objects.items():
        objects.write(inputs.own, name)
    patches = resolution.seams.patches_with_objects(grid)
    write_patches_with_objects(inputs.own, patches)
    context.map_patches(write_cores, patches)
    build_pyramid(context, labels, [*ORIGINAL.values()])
    channels = inputs.config.channels
    labels.write_image(
        SlideTables.read(inputs.records("load")).overview,
        overview_factor(grid.shape),
        (channels.nuclear_channel, "+".join(channels.wholecell_channel) or "whole cell"),
        inputs.slide.mpp,
    )
    labels.finish()
    return {
        "cells": len(resolution.objects["cell"]),
        "nuclei": len(resolution.objects["nucleus"]),
        "disputed": resolution.n_conflicting,
        "written": label_folders(inputs.run, [*ORIGINAL.values()]),
    }


def _open_store(inputs: StageInputs, grid: PatchGrid) -> LabelStore:
    """Open the labels of a stopped execution, or create an empty store."""
    path = inputs.run.segmentation_path
    create = partial(
        LabelStore.create,
        path,
        grid.shape,
        grid.step,
        inputs.slide.mpp,
        names=LABEL_NAMES,
        version=inputs.config.export.ome_zarr_version,
    )
    if path.exists() and inputs.own.read_all():
        try:
            return create(overwrite=False)
        except RunStateError as error:
            log.warning("%s The labels are written again.", error)
    if inputs.own.read_all():
        inputs.run.forget("stitch")  # the labels of its records are gone
    return create(overwrite=True)


def write_cores(inputs: StageInputs, patches: Sequence[int]) -> Finished:
    """Write the labels of cores and count their overlaps. Runs in a worker."""
    state = worker_state(inputs)
    grid, labels = state.grid, state.labels
    source, seams = patch_labels(inputs), Seams.read(inputs.own)
    levels = core_levels(grid.shape, grid.step)
    for number in patches:
        core = grid[number].core
        mosaic = compose_window(source, seams, core)
        cells, nuclei = mosaic.ids
        for name, image in zip(ORIGINAL.values(), (cells, nuclei), strict=True):
            labels.write(name, core, image, levels)
        same_label = mosaic.same_label if inputs.paired_by_label else None
        CoreOverlaps.count(cells, nuclei, same_label).write(inputs.own, number)
        yield number, {}


def _version(config: Config, slide: SlideRecord, backend: BackendRecord) -> Record:
    del slide, backend
    return {"ome_zarr_version": config.export.ome_zarr_version}


STAGE = Stage(
    "stitch",
    ("stitch",),
    ("load", "patch", "segment"),
    stitch,
    version=3,
    changes={
        2: "the stages stitch and repair changed order",
        3: "stitch counts the pixels that cells and nuclei share",
    },
    extra=_version,
)
