"""Quality of a run without a truth: quality.csv, a row per patch and one for the slide.

A part of the report stage, so that a run which an earlier version has finished stays
done. Workers look at the core of each patch once: at its two segmentation channels, and at
everything that the backend found there. The slide's row is made of the same sums.
"""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codexseg.core.grid import Window
from codexseg.core.intensity.background import BIN_PX, has_signal, signal_pixels
from codexseg.core.metrics.reference_free import (
    FRACTIONS,
    OTHERS,
    Sizes,
    Tally,
    figures,
    foreground_squares,
    signal_threshold,
    sizes,
    tally_pixels,
)
from codexseg.run.directory import Row
from codexseg.run.files import replacing
from codexseg.stages.base import Context, Job
from codexseg.stages.metadata import counts_of
from codexseg.stages.painting import patches_to_paint
from codexseg.stages.pixels import grid_of, loaded, slide_of
from codexseg.stages.stitch import store_of

QUALITY = "quality.csv"
PART = "quality"
SLIDE = "slide"
"""What stands in the place of a patch's number in the slide's row."""

PIECE_PX = 2048
"""Side of the squares in which a core is looked at; a multiple of 4."""


def write_quality(context: Context) -> list[Row]:
    """Look at every patch, write quality.csv, and return its rows, the slide's last."""
    job = context.job
    found = context.map_patches(judge_patches, patches_to_judge(job), part=PART)
    rows = quality_rows(job, found)
    path = job.run.path / QUALITY
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({k: _written(v) for k, v in row.items()} for row in rows)
    return rows


def _written(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return "" if np.isnan(value) else f"{value:.6g}"


def patches_to_judge(job: Job) -> list[int]:
    """List the patches whose cores may hold foreground or cells."""
    held = set(patches_to_paint(job, grid_of(job)))
    return [p for p, status in _statuses(job) if status == "done" or p in held]


def judge_patches(job: Job, patches: Sequence[int]) -> Iterator[tuple[int, Row]]:
    """Tally the cores of patches and measure the cells that they own. Runs in a worker."""
    grid = grid_of(job)
    for number in patches:
        tally = Tally.empty()
        for piece in _pieces(grid[number].core):
            tally += _look(job, piece)
        area, owner = _cells(job)
        yield (
            number,
            {
                "counts": tally.counts.tolist(),
                "sums": tally.sums.tolist(),
                "sizes": list(sizes(area[owner == number])),
            },
        )


def quality_rows(job: Job, found: Mapping[int, Row]) -> list[Row]:
    """Bring what workers found to rows: a row per patch, the slide's last.

    A patch that failed, or that the user's thresholds left out, was not judged: its row
    has no figures, and the slide's does not count its core.
    """
    grid, rows = grid_of(job), []
    judged = dict(_statuses(job))
    whole, counts = Tally.empty(), np.zeros(3, np.int64)
    for number in range(len(grid)):
        own = counts_of(job, number)
        counts += own
        row = found.get(number)
        tally, areas = Tally.empty(grid[number].core.area), sizes(np.zeros(0, np.int64))
        if row is not None:
            tally = Tally(np.array(row["counts"], np.int64), np.array(row["sums"]))
            areas = Sizes(*row["sizes"])
        line = _row(job, number, tally, areas, own)
        if number in judged:
            whole += tally
        else:
            line |= dict.fromkeys((*FRACTIONS, *OTHERS), float("nan"))
        rows.append(line)
    pairs, cells, nuclei = counts.tolist()
    areas = sizes(_cells(job)[0])
    return [*rows, _row(job, SLIDE, whole, areas, (pairs, cells, nuclei))]


def _row(
    job: Job, name: int | str, tally: Tally, areas: Sizes, counts: tuple[int, int, int]
) -> Row:
    stats = loaded(job)
    levels = (
        stats.nucleus.background,
        stats.wholecell.background if stats.wholecell else None,
    )
    values = figures(tally, areas, counts, levels, job.source.mpp)
    if job.config.segmentation.compartment != "both":  # then there is nothing to pair
        values |= dict.fromkeys(("cells_matched", "nuclei_matched"), float("nan"))
        values["matched_fraction"] = float("nan")
    pairs, cells, nuclei = counts
    return {
        "patch_id": name,
        "cells": cells,
        "nuclei": nuclei,
        "pairs": pairs,
        **{key: values[key] for key in (*FRACTIONS, *OTHERS)},
    }


def _statuses(job: Job) -> Iterable[tuple[int, str]]:
    """Yield the patches that can be judged: done, or skipped as they hold no signal."""
    grid, signal, segmented = grid_of(job), loaded(job).signal, job.rows("segment")
    for patch in grid:
        status = segmented.get(patch.number, {}).get("status", "skipped")
        empty = status == "skipped" and not has_signal(signal, patch.outer)
        if status == "done" or empty:
            yield patch.number, status


@lru_cache(maxsize=1)
def _cells(job: Job) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the areas of all cells that were found, px, and the patches that own them."""
    objects, grid = job.tables("repair", "objects"), grid_of(job)
    y, x = np.divmod(np.asarray(objects["cell_first"]), grid.shape[1])
    owner: NDArray[np.int64] = np.asarray(grid.owner(y, x))
    return np.asarray(objects["cell_area"]), owner


def _pieces(core: Window) -> Iterator[Window]:
    """Cut a core along lines that are the slide's."""
    for y in range(core.y0 // PIECE_PX * PIECE_PX, core.y1, PIECE_PX):
        for x in range(core.x0 // PIECE_PX * PIECE_PX, core.x1, PIECE_PX):
            piece = core.intersection(Window(y, x, y + PIECE_PX, x + PIECE_PX))
            if piece is not None:
                yield piece


def _look(job: Job, window: Window) -> Tally:
    """Tally a window: its squares are the slide's, whatever the window."""
    found, (height, width) = loaded(job), job.source.shape[1:]
    wide = Window(
        window.y0 // BIN_PX * BIN_PX,
        window.x0 // BIN_PX * BIN_PX,
        min(height, -(-window.y1 // BIN_PX) * BIN_PX),
        min(width, -(-window.x1 // BIN_PX) * BIN_PX),
    )
    pixels = found.channels.read(slide_of(job), wide)
    squares = foreground_squares(pixels, thresholds(job))
    squares &= signal_pixels(found.signal, wide)[::BIN_PX, ::BIN_PX]
    inside = window.within(wide)
    return tally_pixels(
        store_of(job).read("cell_original", window),
        pixels[:, *inside],
        squares,
        (window.y0 - wide.y0, window.x0 - wide.x0),
    )


def thresholds(job: Job) -> tuple[float, float]:
    """Return where signal begins in the two segmentation channels; infinite: no channel."""
    found, whole = loaded(job), np.dtype(job.source.dtype).kind != "f"
    limits = [np.inf, np.inf]
    for number, known in enumerate((found.nucleus, found.wholecell)):
        if known is not None:
            scaled = number == 1 and found.channels.scales is not None
            limits[number] = signal_threshold(
                known.background, known.noise, known.p999, integer=whole and not scaled
            )
    return limits[0], limits[1]
