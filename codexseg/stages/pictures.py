"""Pictures of a report: the whole slide, and cells on the tissue.

Each is a dictionary for the template: `data` (a JPEG as a data URI), `height`, `width`,
`lines` (where borders of patches cross it: y and x in its pixels), `bar` (scale bar: um,
share of the width), and what its caption says.
"""

from base64 import b64encode
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codexseg.core.drawing.overlay import (
    Kind,
    Picture,
    blend,
    brightness,
    choose_places,
    crossing,
    draw_outlines,
    hatch,
    round_length,
    window_around,
)
from codexseg.core.grid import PatchGrid, Window
from codexseg.core.intensity.histogram import block_mean
from codexseg.core.labels.operations import relabel
from codexseg.run.directory import Arrays, Row, Tables
from codexseg.stages.base import Job
from codexseg.stages.load import overview_factor
from codexseg.stages.metadata import cells_of
from codexseg.stages.pixels import grid_of, loaded, slide_of
from codexseg.stages.segment import COMPARTMENTS
from codexseg.stages.stitch import store_of

OVERVIEW_PX = 1000
"""Longest side of the picture of the slide."""
READ_WHOLE_PX = 2800
"""A slide up to this size is read once more for a sharper picture of it."""
MOST_LINES = 120
"""Rows or columns of patches above which the grid would hide the picture."""

COLOURS = {
    "nucleus": (70, 105, 255),
    "wholecell": (40, 185, 90),
    "cell_line": (255, 196, 0),
    "nucleus_line": (255, 255, 255),
    "alone_line": (255, 80, 120),
}
"""Of light, and of the outlines on it."""
LEAST_RANGE = 10
"""Least range of grey levels shown, in units of the noise: noise alone stays dark."""
SKIPPED_LINE, FAILED_LINE = (120, 120, 120), (255, 60, 60)

DONE, SKIPPED, FAILED = range(3)
"""What became of a patch."""


def _light(both: NDArray[Any], tables: Arrays) -> Picture:
    """Draw (2, y, x) grey levels, scaled by the slide's background and P99.9."""
    layers = []
    for pixels, name in zip(both, ("nucleus", "wholecell"), strict=True):
        if name in tables:
            _, _, background, noise, top = tables[name].tolist()
            top = max(top, background + LEAST_RANGE * noise)
            layers.append((brightness(pixels, background, top), COLOURS[name]))
    return blend(layers)


def overview(job: Job) -> Row:
    """Draw the whole slide, and where its patches were skipped or failed."""
    grid = grid_of(job)
    scale = OVERVIEW_PX / max(grid.shape)
    both, factor, tables = _coarse(job, grid)
    picture = _light(np.stack([_resized(c, grid.shape, factor) for c in both]), tables)
    y, x = (
        np.arange(n) * full // n // step
        for n, full, step in zip(picture.shape[:2], grid.shape, grid.step, strict=True)
    )
    status = _status(job, grid)[y[:, None], x]
    for number, colour in ((SKIPPED, SKIPPED_LINE), (FAILED, FAILED_LINE)):
        hatch(picture, status == number, colour)
    lines = [
        [k * step * scale for k in range(1, n)] if n <= MOST_LINES else []
        for n, step in zip(grid.counts, grid.step, strict=True)
    ]
    bar = _bar(job, grid.shape[1])
    return _embedded(picture) | {"bar": bar, "scale": scale, "lines": lines}


def _coarse(job: Job, grid: PatchGrid) -> tuple[NDArray[np.float32], int, Tables]:
    """Return means of squares of the two channels, a square's side, and their limits."""
    tables = dict(job.tables("load", "slide"))
    if max(grid.shape) <= READ_WHOLE_PX:
        factor = max(1, round(max(grid.shape) / OVERVIEW_PX))
        both = loaded(job).channels.read(slide_of(job), Window(0, 0, *grid.shape))
        return np.stack([block_mean(pixels, factor) for pixels in both]), factor, tables
    both = tables["overview"]
    if "wholecell_scales" in tables:
        # These markers were scaled before they were merged, the overview was not.
        limits = np.percentile(both[1], (5, 99.9))
        tables["wholecell"] = np.array([0, 0, limits[0], 0, limits[1]])
    return both, overview_factor(grid.shape), tables


def _resized(
    coarse: NDArray[np.float32], shape: tuple[int, int], factor: int
) -> NDArray[np.float32]:
    """Bring squares of `factor` px of a slide of `shape` to the size of the picture."""
    from PIL import Image

    height, width = shape
    scale = OVERVIEW_PX / max(shape)
    filters = Image.Resampling
    resized = Image.fromarray(coarse).resize(
        (max(1, round(width * scale)), max(1, round(height * scale))),
        filters.BOX if scale * factor < 1 else filters.BICUBIC,
        box=(0, 0, width / factor, height / factor),
    )
    return np.asarray(resized)


def _status(job: Job, grid: PatchGrid) -> NDArray[np.int8]:
    """Return what became of every patch: (rows, columns) of DONE, SKIPPED, FAILED."""
    status = np.full(len(grid), SKIPPED, np.int8)
    for number, row in job.rows("segment").items():
        status[number] = FAILED if row["status"] == "failed" else DONE
    return status.reshape(grid.counts)


def pictures(job: Job) -> Iterator[Row]:
    """Draw cells on tissue at the places that say most."""
    grid, cells, config = grid_of(job), cells_of(job), job.config.report
    tables = job.tables("load", "slide")
    boxes, alone = cells["box"], cells["unmatched_box"]
    places: list[tuple[Kind | None, Window]] = [
        (place.kind, place.window)
        for place in choose_places(boxes, alone, grid, config.overlay_px, config.overlays)
    ]
    if not places and config.overlays:
        # Nothing was found: show the brightest spot, that a person sees what is there.
        shape = tables["overview"].shape[1:]
        spot = np.unravel_index(int(tables["overview"][0].argmax()), shape)
        y, x = ((int(i) + 0.5) * overview_factor(grid.shape) for i in spot)
        places = [(None, window_around(y, x, config.overlay_px, grid.shape))]
    for kind, window in places:
        inside = _inside(boxes, window)
        yield _cells_picture(job, window, tables) | {
            "kind": kind,
            "n_cells": int(inside.sum()),
            "n_crossing": int(crossing(boxes[inside], grid).any(axis=0).sum()),
            "n_alone": int(_inside(alone, window).sum()),
        }


def _cells_picture(job: Job, window: Window, tables: Arrays) -> Row:
    """Draw the outlines of cells and nuclei on the two segmentation channels."""
    grid, store, cells = grid_of(job), store_of(job), cells_of(job)
    both = loaded(job).channels.read(slide_of(job), window)
    picture = _light(both, tables)
    draw_outlines(picture, store.read("cell", window), COLOURS["cell_line"])
    draw_outlines(picture, store.read("nucleus", window), COLOURS["nucleus_line"])
    shown = _inside(cells["unmatched_box"], window)
    for number, name in enumerate(COMPARTMENTS):
        ids = cells["unmatched_original_id"][
            shown & (cells["unmatched_compartment"] == number)
        ]
        if len(ids):
            ids = np.sort(ids).astype(np.uint32)
            labels = relabel(store.read(f"{name}_original", window), ids, ids)
            draw_outlines(picture, labels, COLOURS["alone_line"])
    y, x = np.ogrid[window.slices]
    status = _status(job, grid)[y // grid.step[0], x // grid.step[1]]
    hatch(picture, status == FAILED, FAILED_LINE)
    starts, ends = (window.y0, window.x0), (window.y1, window.x1)
    lines = [
        [k * step - start for k in range(start // step + 1, (end - 1) // step + 1)]
        for start, end, step in zip(starts, ends, grid.step, strict=True)
    ]
    bar = _bar(job, window.shape[1])
    return _embedded(picture) | {"window": window, "lines": lines, "bar": bar}


def _inside(boxes: NDArray[np.int64], window: Window) -> NDArray[np.bool_]:
    """Mark the (n, 4) boxes that share a pixel with a window."""
    y0, x0, y1, x1 = boxes.T
    rows = (y0 < window.y1) & (y1 > window.y0)
    shared: NDArray[np.bool_] = rows & (x0 < window.x1) & (x1 > window.x0)
    return shared


def _bar(job: Job, width: int) -> tuple[float, float]:
    """Return the length of a scale bar, in um and as a share of the width."""
    whole = width * job.source.mpp
    length = round_length(whole / 3)
    return length, length / whole


def _embedded(picture: Picture) -> Row:
    """Return a picture as text that a page can hold."""
    from PIL import Image

    buffer = BytesIO()
    # Thin coloured outlines need full colour resolution.
    Image.fromarray(picture).save(buffer, "JPEG", quality=85, subsampling=0)
    data = b64encode(buffer.getvalue()).decode()
    height, width = picture.shape[:2]
    return {"data": f"data:image/jpeg;base64,{data}", "height": height, "width": width}
