"""Profile: measure every cell, once, in the patch that owns it.

A cell's pixels may lie in several cores, so its patch reads the window that holds all
cells it owns from the whole-slide labels and, channel by channel, from the slide. That
keeps medians possible and every sum in one fixed order.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from codexseg.core.grid import Window
from codexseg.core.measure.intensity import (
    cell_entropy,
    index_labels,
    measure_channel,
    measure_shapes,
    solidity,
    split_compartments,
)
from codexseg.exports.tables import intensity_column, unique_names
from codexseg.io.slides.panel import resolve_channel
from codexseg.run.directory import Row, Tables
from codexseg.stages.base import Context, Job, Stage
from codexseg.stages.metadata import cells_of
from codexseg.stages.pixels import grid_of, slide_of
from codexseg.stages.stitch import store_of


def profile(context: Context) -> Row:
    """Measure the cells of every patch."""
    job = context.job
    context.map_patches(measure_patches, _owners(job))
    return {"cells": len(cells_of(job)["cell_id"]), "channels": len(measured_channels(job))}


def measured_cells(job: Job) -> Iterator[Tables]:
    """Yield the table of cells in pieces, in the order of their ids; at least one piece.

    Ids follow the raster order of the cells' first pixels, and the core that holds this
    pixel owns the cell: so the cells of one row of patches come before those of the next,
    and no more than such a row is held.
    """
    columns, owners = grid_of(job).counts[1], _owners(job)
    for _, row in groupby(owners, lambda patch: patch // columns):
        parts = [job.tables("profile", patch) for patch in row]
        order = np.argsort(np.concatenate([part["cell_id"] for part in parts]))
        yield {
            name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]
        }
    if not owners:
        yield _measure(job, -1)


def _owners(job: Job) -> list[int]:
    """Return the patches that own cells."""
    return [int(patch) for patch in np.unique(cells_of(job)["patch_id"])]


def measured_channels(job: Job) -> dict[str, int]:
    """Return the channels to measure: a distinct name each, and its number."""
    names, wanted = job.source.channel_names, job.config.profile.channels
    distinct = unique_names(names)
    if wanted is None:
        return {name: number for number, name in enumerate(distinct)}
    numbers = (resolve_channel(name, names) for name in wanted)
    return {distinct[number]: number for number in dict.fromkeys(numbers)}


def measure_patches(job: Job, patches: Sequence[int]) -> Iterator[tuple[int, Row]]:
    """Measure the cells that patches own. Runs in a worker."""
    for number in patches:
        columns = _measure(job, number)
        job.write_tables(number, columns)
        yield number, {"cells": len(columns["cell_id"])}


def _measure(job: Job, number: int) -> Tables:
    cells = cells_of(job)
    owned = np.flatnonzero(cells["patch_id"] == number)
    ids, box = cells["cell_id"][owned], cells["box"][owned]
    window = Window(0, 0, 1, 1)
    if len(owned):
        (y0, x0), (y1, x1) = box[:, :2].min(axis=0), box[:, 2:].max(axis=0)
        window = Window(int(y0), int(x0), int(y1), int(x1))
    store = store_of(job)
    index = index_labels(store.read("cell", window), ids)
    nuclei = index_labels(store.read("nucleus", window), ids)
    compartments = split_compartments(index, nuclei, len(ids))

    columns = _identity(job, index, owned, compartments.areas, window)
    channels, slide = measured_channels(job), slide_of(job)
    means = np.empty((len(ids), len(channels)), np.float32)
    for column, (name, channel) in enumerate(channels.items()):
        pixels = slide.read(channel, window)
        found = measure_channel(pixels, compartments, job.config.profile.statistics)
        means[:, column] = found["cell_mean"]
        for key, values in found.items():
            compartment, _, statistic = key.partition("_")
            columns[intensity_column(name, compartment, statistic)] = values
    columns["cell_entropy"] = cell_entropy(means).astype(np.float32)
    return columns


def _identity(
    job: Job,
    index: NDArray[np.int32],
    owned: NDArray[np.int64],
    areas: NDArray[np.int64],
    window: Window,
) -> Tables:
    """Return what a cell is, where it lies and how it is shaped."""
    cells, mpp = cells_of(job), job.source.mpp
    _, height, width = job.source.shape
    shape = measure_shapes(index, len(owned), (window.y0, window.x0))
    cell, nucleus, cytoplasm = areas
    original = cells["nucleus_original_area"][owned]
    retained = np.divide(
        nucleus, original, where=original > 0, out=np.full(len(owned), np.nan)
    )
    columns: Tables = {
        "cell_id": cells["cell_id"][owned],
        "patch_id": cells["patch_id"][owned].astype(np.int32),
        "y_px": shape["y"],
        "x_px": shape["x"],
        "y_um": shape["y"] * mpp,
        "x_um": shape["x"] * mpp,
    }
    for name, area in (("cell", cell), ("nucleus", nucleus), ("cytoplasm", cytoplasm)):
        columns[f"{name}_area_px"] = area
        columns[f"{name}_area_um2"] = area * mpp**2
    columns |= {
        "eccentricity": shape["eccentricity"],
        "axis_major_um": shape["axis_major_length"] * mpp,
        "axis_minor_um": shape["axis_minor_length"] * mpp,
        "orientation_rad": shape["orientation"],
    }
    if job.config.profile.solidity:
        columns["solidity"] = solidity(index, len(owned))
    box = {
        edge: shape[f"bbox_{edge}"].astype(np.int64) for edge in ("y0", "x0", "y1", "x1")
    }
    columns |= {f"bbox_{edge}_px": values for edge, values in box.items()}
    columns["touches_border"] = (
        (box["y0"] == 0) | (box["x0"] == 0) | (box["y1"] == height) | (box["x1"] == width)
    )
    columns["nucleus_was_trimmed"] = (original > 0) & (nucleus < original)
    columns["nucleus_retained_fraction"] = retained
    for name in (
        "cell_original_id",
        "nucleus_original_id",
        "original_patch_id",
        "cell_original_label",
    ):
        columns[name] = cells[name][owned]
    return columns


STAGE = Stage("profile", ("profile",), ("load", "stitch"), profile)
