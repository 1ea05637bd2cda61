"""Profile: measure every cell, once, in the patch that owns it.

The pixels of a cell may be in several cores. Its patch therefore reads the window of all
its cells from the whole-slide labels and, channel by channel, from the slide. That allows
medians, and every sum has one fixed order.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from codexseg.arrays import Columns, Int64, Labels, Pixels
from codexseg.artifacts.cells import CellIndex
from codexseg.artifacts.columns import MEASURED_COMPARTMENTS, intensity_column
from codexseg.config.schema import ProfileConfig
from codexseg.core.grid import Window
from codexseg.core.measure.intensity import (
    cell_entropy,
    label_positions,
    measure_channel,
    split_compartments,
)
from codexseg.core.measure.morphology import measure_shapes, solidity
from codexseg.run.records import Record
from codexseg.workflow.measurements import cell_table, measured_channels
from codexseg.workflow.stage import Finished, Stage, StageContext, StageInputs
from codexseg.workflow.worker import worker_state

_BOX = ("bbox_y0", "bbox_x0", "bbox_y1", "bbox_x1")


def profile(context: StageContext) -> Record:
    """Measure the cells of every patch."""
    inputs = context.inputs
    cells = worker_state(inputs).cells
    context.map_patches(measure_patches, cells.owners())
    channels = measured_channels(inputs.config.profile, inputs.slide.channel_names)
    return {"cells": len(cells), "channels": len(channels)}


def measure_patches(inputs: StageInputs, patches: Sequence[int]) -> Finished:
    """Measure the cells that patches own. Runs in a worker."""
    state = worker_state(inputs)
    table = cell_table(inputs)
    for number in patches:
        owned = np.flatnonzero(state.cells.patch_id == number)
        window = _bounding_window(state.cells.box[owned])
        columns = measure_cells(
            state.cells,
            owned,
            {name: state.labels.read(name, window) for name in ("cell", "nucleus")},
            state.slide.read,
            window,
            shape=inputs.slide.shape[1:],
            mpp=inputs.slide.mpp,
            channels=measured_channels(inputs.config.profile, inputs.slide.channel_names),
            settings=inputs.config.profile,
        )
        table.write(number, columns)
        yield number, {"cells": len(owned)}


def _bounding_window(box: Int64) -> Window:
    (y0, x0), (y1, x1) = box[:, :2].min(axis=0), box[:, 2:].max(axis=0)
    return Window(int(y0), int(x0), int(y1), int(x1))


def measure_cells(
    cells: CellIndex,
    owned: Int64,
    labels: Mapping[str, Labels],
    read: Callable[[int, Window], Pixels],
    window: Window,
    *,
    shape: tuple[int, int],
    mpp: float,
    channels: Mapping[str, int],
    settings: ProfileConfig,
) -> Columns:
    """Measure cells in a window that contains all their pixels.

    Parameters
    ----------
    cells : CellIndex
        Ids of all cells.
    owned : (n,) int64
        Rows of the cells to measure, ascending.
    labels : mapping of str to (y, x) uint32
        Matched labels of "cell" and "nucleus" in the window.
    read : callable
        Reads a channel by number in a window: (y, x).
    window : Window
        The window.
    shape : (int, int)
        Height and width of the slide, px.
    mpp : float
        Micrometres per pixel.
    channels : mapping of str to int
        Name and number of each channel to measure.
    settings : ProfileConfig
        The section profile of the configuration.

    Returns
    -------
    mapping of str to (n,) array
        The columns of `cell_columns`.
    """
    ids = np.asarray(cells.cell_id[owned])
    index = label_positions(labels["cell"], ids)
    nuclei = label_positions(labels["nucleus"], ids)
    compartments = split_compartments(index, nuclei, len(ids))
    columns = _identity(cells, owned) | _morphology(
        index, compartments.areas, window, shape, mpp, with_solidity=settings.solidity
    )
    columns |= _trimming(cells.nucleus_original_area[owned], compartments.areas[1])
    means = np.empty((len(ids), len(channels)), np.float32)
    for column, (name, channel) in enumerate(channels.items()):
        measured = measure_channel(read(channel, window), compartments, settings.statistics)
        means[:, column] = measured["cell_mean"]
        for key, values in measured.items():
            compartment, _, statistic = key.partition("_")
            columns[intensity_column(name, compartment, statistic)] = values
    columns["cell_entropy"] = cell_entropy(means).astype(np.float32)
    return columns


def _identity(cells: CellIndex, owned: Int64) -> dict[str, np.ndarray]:
    """Return ids, origin, and the per-object columns of the backend."""
    names = (
        "cell_id",
        "patch_id",
        "cell_original_id",
        "nucleus_original_id",
        "original_patch_id",
        "cell_original_label",
    )
    columns = {name: getattr(cells, name)[owned] for name in names}
    return columns | {name: values[owned] for name, values in cells.columns.items()}


def _morphology(
    index: np.ndarray,
    areas: Int64,
    window: Window,
    shape: tuple[int, int],
    mpp: float,
    *,
    with_solidity: bool,
) -> dict[str, np.ndarray]:
    """Return position, areas and shape of the cells in a window."""
    n = areas.shape[1]
    measured = measure_shapes(index, n, (window.y0, window.x0))
    columns = {
        "y_px": measured["y"],
        "x_px": measured["x"],
        "y_um": measured["y"] * mpp,
        "x_um": measured["x"] * mpp,
        "eccentricity": measured["eccentricity"],
        "axis_major_um": measured["axis_major_length"] * mpp,
        "axis_minor_um": measured["axis_minor_length"] * mpp,
        "orientation_rad": measured["orientation"],
    }
    for compartment, area in zip(MEASURED_COMPARTMENTS, areas, strict=True):
        columns |= {
            f"{compartment}_area_px": area,
            f"{compartment}_area_um2": area * mpp**2,
        }
    if with_solidity:
        columns["solidity"] = solidity(index, n)
    y0, x0, y1, x1 = (measured[name].astype(np.int64) for name in _BOX)
    height, width = shape
    return columns | {
        "bbox_y0_px": y0,
        "bbox_x0_px": x0,
        "bbox_y1_px": y1,
        "bbox_x1_px": x1,
        "touches_border": (y0 == 0) | (x0 == 0) | (y1 == height) | (x1 == width),
    }


def _trimming(original: Int64, kept: Int64) -> dict[str, np.ndarray]:
    """Return which nuclei lost pixels in repair, and the part that they kept."""
    retained = np.full(len(original), np.nan)
    np.divide(kept, original, where=original > 0, out=retained)
    return {
        "nucleus_was_trimmed": (original > 0) & (kept < original),
        "nucleus_retained_fraction": retained,
    }


STAGE = Stage("profile", ("profile",), ("load", "repair"), profile)
