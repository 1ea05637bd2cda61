"""Quality without a reference: ``quality.csv``, one row per patch and one for the slide.

Workers read the core of each patch once: its two segmentation channels, and all objects
that the backend found there. The row of the slide follows from the same sums.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from codexseg.artifacts.columns import QUALITY_COLUMNS, names_of
from codexseg.artifacts.labels import ORIGINAL
from codexseg.artifacts.objects import SlideObjects, read_patches_with_objects
from codexseg.core.grid import PatchGrid, Window
from codexseg.core.intensity.background import (
    BIN_PX,
    has_signal,
    signal_pixels,
    signal_threshold,
)
from codexseg.core.metrics.reference_free import (
    FRACTIONS,
    OTHERS,
    Sizes,
    Tally,
    foreground_bins,
    quality_metrics,
    sizes,
    tally_pixels,
)
from codexseg.io.csv_writer import write_csv_rows
from codexseg.run.records import Record
from codexseg.workflow.stage import Finished, StageContext, StageInputs
from codexseg.workflow.worker import WorkerState, worker_state

QUALITY = "quality.csv"
METRICS = (*FRACTIONS, *OTHERS)
SLIDE = "slide"
"""In place of the patch number: the row of the slide."""
BLOCK_PX = 2048
"""Side of the blocks in which a core is read; a multiple of 4."""


def write_quality(context: StageContext) -> list[Record]:
    """Judge every patch, write quality.csv, and return its rows, the slide's last."""
    inputs = context.inputs
    state = worker_state(inputs)
    judged = context.map_patches(judge_patches, patches_to_judge(state), part="quality")
    rows = quality_rows(state, judged)
    lines = ({key: _format(value) for key, value in row.items()} for row in rows)
    write_csv_rows(inputs.run.path / QUALITY, names_of(QUALITY_COLUMNS), lines)
    return rows


def _format(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return "" if np.isnan(value) else f"{value:.6g}"


def patches_to_judge(state: WorkerState) -> list[int]:
    """Return the patches whose cores may contain foreground or cells."""
    occupied = set(read_patches_with_objects(state.inputs.records("stitch")))
    return [p for p, status in _states(state) if status == "done" or p in occupied]


def judge_patches(inputs: StageInputs, patches: Sequence[int]) -> Finished:
    """Tally the cores of patches and measure the cells that they own. Runs in a worker."""
    state = worker_state(inputs)
    cells = SlideObjects.read(inputs.records("stitch"), "cell")
    owners = cells.owners(state.grid)
    for number in patches:
        blocks = _blocks(state, state.grid[number].core)
        tally = sum((_tally(state, block) for block in blocks), Tally.empty())
        area = np.asarray(cells.area)[owners == number]
        counts, sums = tally.counts.tolist(), tally.sums.tolist()
        yield number, {"counts": counts, "sums": sums, "sizes": list(sizes(area))}


def quality_rows(state: WorkerState, judged: Mapping[int, Record]) -> list[Record]:
    """Return one row per patch, and the row of the slide last.

    A patch that failed or was excluded by thresholds has no metrics, and the row of the
    slide leaves out its core.

    Parameters
    ----------
    state : WorkerState
        The run.
    judged : mapping of int to dict
        Results of :func:`judge_patches`.
    """
    rows, complete = [], dict(_states(state))
    whole, counts = Tally.empty(), np.zeros(3, np.int64)
    for patch in state.grid:
        number, own = patch.number, state.cells.counts(patch.number)
        counts += own
        tally, areas = Tally.empty(patch.core.area), sizes(np.zeros(0, np.int64))
        if record := judged.get(number):
            tally = Tally(np.array(record["counts"], np.int64), np.array(record["sums"]))
            areas = Sizes(*record["sizes"])
        row = _row(state, number, tally, areas, own)
        if number in complete:
            whole += tally
        else:
            row |= dict.fromkeys(METRICS, float("nan"))
        rows.append(row)
    detected = SlideObjects.read(state.inputs.records("stitch"), "cell")
    pairs, cells, nuclei = counts.tolist()
    areas = sizes(np.asarray(detected.area))
    rows.append(_row(state, SLIDE, whole, areas, (pairs, cells, nuclei)))
    # light_in_cells is the name of nuclear_signal_in_cells in version 0.1.0
    return [row | {"light_in_cells": row["nuclear_signal_in_cells"]} for row in rows]


def _row(
    state: WorkerState,
    name: int | str,
    tally: Tally,
    areas: Sizes,
    counts: tuple[int, int, int],
) -> Record:
    tables = state.statistics.tables
    channels = tables.nucleus, tables.wholecell
    backgrounds = [known.background if known else None for known in channels]
    metrics = quality_metrics(tally, areas, counts, backgrounds, state.inputs.slide.mpp)
    if state.inputs.config.segmentation.compartment != "both":  # nothing to pair
        pairing = ("cells_matched", "nuclei_matched", "matched_fraction")
        metrics |= dict.fromkeys(pairing, float("nan"))
    pairs, cells, nuclei = counts
    row = {"patch_id": name, "cells": cells, "nuclei": nuclei, "pairs": pairs}
    return row | {key: metrics[key] for key in METRICS}


def _states(state: WorkerState) -> Iterable[tuple[int, str]]:
    """Yield the patches to judge: done, or skipped for lack of signal."""
    signal = state.statistics.signal
    segmented = state.inputs.records("segment").read_all()
    for patch in state.grid:
        status = segmented.get(patch.number, {}).get("status", "skipped")
        empty = status == "skipped" and not has_signal(signal, patch.outer)
        if status == "done" or empty:
            yield patch.number, status


def _blocks(state: WorkerState, core: Window) -> Iterator[Window]:
    """Divide a core along lines that are anchored at the slide's corner."""
    blocks = PatchGrid(state.grid.shape, (BLOCK_PX, BLOCK_PX), (0, 0))
    inside = (block.core.intersection(core) for block in blocks.near(core))
    return (block for block in inside if block is not None)


def _tally(state: WorkerState, window: Window) -> Tally:
    """Tally a window. Its squares are anchored at the slide's corner."""
    height, width = state.grid.shape
    wide = Window(
        window.y0 // BIN_PX * BIN_PX,
        window.x0 // BIN_PX * BIN_PX,
        min(height, -(-window.y1 // BIN_PX) * BIN_PX),
        min(width, -(-window.x1 // BIN_PX) * BIN_PX),
    )
    pixels = state.statistics.channels.read(state.slide, wide)
    squares = foreground_bins(pixels, signal_thresholds(state))
    squares &= signal_pixels(state.statistics.signal, wide)[::BIN_PX, ::BIN_PX]
    inside = window.within(wide)
    return tally_pixels(
        state.labels.read(ORIGINAL["cell"], window),
        pixels[:, *inside],
        squares,
        (window.y0 - wide.y0, window.x0 - wide.x0),
    )


def signal_thresholds(state: WorkerState) -> tuple[float, float]:
    """Return the signal thresholds of both channels; infinite where there is none."""
    statistics = state.statistics
    integer = np.dtype(state.inputs.slide.dtype).kind != "f"
    limits = [np.inf, np.inf]
    channels = statistics.tables.nucleus, statistics.tables.wholecell
    for number, known in enumerate(channels):
        if known is not None:
            scaled = number == 1 and statistics.channels.scales is not None
            limits[number] = signal_threshold(
                known.background, known.noise, known.p999, integer=integer and not scaled
            )
    return limits[0], limits[1]
