"""Pictures of the report: the whole slide, and cells on the tissue.

Each picture is a dict for the template: `data` (a JPEG as data URI), `height`, `width`,
`lines` (patch borders, y and x in its pixels), `bar` (scale bar: um, share of the width),
and the values of its caption.
"""

from base64 import b64encode
from collections.abc import Iterator
from io import BytesIO

import numpy as np

from codexseg.arrays import Float32, Int64, Mask, Pixels
from codexseg.artifacts.columns import COMPARTMENTS
from codexseg.artifacts.labels import ORIGINAL
from codexseg.artifacts.slide_statistics import overview_factor
from codexseg.backends.base import ChannelStatistics
from codexseg.core.drawing.overlay import (
    Kind,
    Picture,
    blend,
    brightness,
    choose_figure_windows,
    crossing,
    draw_outlines,
    hatch,
    round_length,
    window_around,
)
from codexseg.core.grid import Window
from codexseg.core.intensity.histogram import block_mean
from codexseg.core.labels.operations import relabel
from codexseg.run.records import Record
from codexseg.workflow.worker import WorkerState

OVERVIEW_PX = 1000
"""Longest side of the overview picture."""
READ_WHOLE_PX = 2800
"""A slide up to this size is read again for a sharper overview."""
MAX_LINES = 120
"""With more rows or columns of patches, the grid would hide the picture."""

COLOURS = {
    "nucleus": (70, 105, 255),
    "wholecell": (40, 185, 90),
    "cell_line": (255, 196, 0),
    "nucleus_line": (255, 255, 255),
    "alone_line": (255, 80, 120),
}
"""Colours of channels and outlines."""
MIN_RANGE = 10
"""Smallest displayed intensity range in units of the noise: noise alone is dark."""
SKIPPED_LINE, FAILED_LINE = (120, 120, 120), (255, 60, 60)

DONE, SKIPPED, FAILED = range(3)
"""States of a patch."""

Limits = tuple[ChannelStatistics | None, ChannelStatistics | None]
"""Statistics by which nucleus and whole cell are displayed."""


def draw_overview(state: WorkerState) -> Record:
    """Draw the whole slide, with skipped and failed patches."""
    grid = state.grid
    scale = OVERVIEW_PX / max(grid.shape)
    channels, factor, limits = _coarse_channels(state)
    resized = np.stack([_resize(c, grid.shape, factor) for c in channels])
    picture = _blend_channels(resized, limits)
    y, x = (
        np.arange(n) * full // n // step
        for n, full, step in zip(picture.shape[:2], grid.shape, grid.step, strict=True)
    )
    status = _patch_states(state)[y[:, None], x]
    for number, colour in ((SKIPPED, SKIPPED_LINE), (FAILED, FAILED_LINE)):
        hatch(picture, status == number, colour)
    lines = [
        [k * step * scale for k in range(1, n)] if n <= MAX_LINES else []
        for n, step in zip(grid.counts, grid.step, strict=True)
    ]
    width_um = grid.shape[1] * state.inputs.slide.mpp
    return _as_data(picture, width_um) | {"scale": scale, "lines": lines}


def _blend_channels(channels: Pixels, limits: Limits) -> Picture:
    """Draw (2, y, x) intensities between the slide's background and P99.9."""
    layers = []
    for pixels, known, name in zip(channels, limits, ("nucleus", "wholecell"), strict=True):
        if known is not None:
            top = max(known.p999, known.background + MIN_RANGE * known.noise)
            layers.append((brightness(pixels, known.background, top), COLOURS[name]))
    return blend(layers)


def _limits(state: WorkerState) -> Limits:
    tables = state.statistics.tables
    return tables.nucleus, tables.wholecell


def _coarse_channels(state: WorkerState) -> tuple[Float32, int, Limits]:
    """Return means of squares of both channels, the side of a square, and their limits."""
    shape, limits = state.grid.shape, _limits(state)
    if max(shape) <= READ_WHOLE_PX:
        factor = max(1, round(max(shape) / OVERVIEW_PX))
        whole = state.statistics.channels.read(state.slide, Window(0, 0, *shape))
        return np.stack([block_mean(pixels, factor) for pixels in whole]), factor, limits
    tables = state.statistics.tables
    if tables.wholecell_scales is not None:
        # These markers were scaled before they were merged; the overview was not.
        low, high = np.percentile(tables.overview[1], (5, 99.9)).tolist()
        limits = limits[0], ChannelStatistics(0.0, 0.0, low, 0.0, high)
    return tables.overview, overview_factor(shape), limits


def _resize(coarse: Float32, shape: tuple[int, int], factor: int) -> Float32:
    """Resize squares of `factor` px of a slide of `shape` to the size of the picture."""
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


def _patch_states(state: WorkerState) -> np.ndarray:
    """Return DONE, SKIPPED or FAILED for every patch, (rows, columns) int8."""
    states = np.full(len(state.grid), SKIPPED, np.int8)
    for number, record in state.inputs.records("segment").read_all().items():
        states[number] = FAILED if record["status"] == "failed" else DONE
    return states.reshape(state.grid.counts)


def draw_cells(state: WorkerState) -> Iterator[Record]:
    """Draw cells on tissue at the most informative places."""
    grid, cells, config = state.grid, state.cells, state.inputs.config.report
    boxes, unmatched = cells.box, cells.unmatched.box
    side, count = config.overlay_px, config.overlays
    chosen = choose_figure_windows(boxes, unmatched, grid, side, count)
    places: list[tuple[Kind | None, Window]] = [(c.kind, c.window) for c in chosen]
    if not places and count:
        # Nothing was found: show the brightest spot of the nuclear channel.
        overview = state.statistics.tables.overview
        spot = np.unravel_index(int(overview[0].argmax()), overview.shape[1:])
        y, x = ((int(i) + 0.5) * overview_factor(grid.shape) for i in spot)
        places = [(None, window_around(y, x, side, grid.shape))]
    for kind, window in places:
        inside = _inside(boxes, window)
        yield _draw_outlines(state, window) | {
            "kind": kind,
            "n_cells": int(inside.sum()),
            "n_crossing": int(crossing(boxes[inside], grid).any(axis=0).sum()),
            "n_alone": int(_inside(unmatched, window).sum()),
        }


def _draw_outlines(state: WorkerState, window: Window) -> Record:
    """Draw outlines of cells and nuclei on the two segmentation channels."""
    grid, labels = state.grid, state.labels
    channels = state.statistics.channels.read(state.slide, window)
    picture = _blend_channels(channels, _limits(state))
    draw_outlines(picture, labels.read("cell", window), COLOURS["cell_line"])
    draw_outlines(picture, labels.read("nucleus", window), COLOURS["nucleus_line"])
    _draw_unmatched(state, window, picture)
    y, x = np.ogrid[window.slices]
    states = _patch_states(state)[y // grid.step[0], x // grid.step[1]]
    hatch(picture, states == FAILED, FAILED_LINE)
    starts, ends = (window.y0, window.x0), (window.y1, window.x1)
    lines = [
        [k * step - start for k in range(start // step + 1, (end - 1) // step + 1)]
        for start, end, step in zip(starts, ends, grid.step, strict=True)
    ]
    width_um = window.shape[1] * state.inputs.slide.mpp
    return _as_data(picture, width_um) | {"window": window, "lines": lines}


def _draw_unmatched(state: WorkerState, window: Window, picture: Picture) -> None:
    unmatched = state.cells.unmatched
    shown = _inside(unmatched.box, window)
    for number, name in enumerate(COMPARTMENTS):
        ids = unmatched.original_id[shown & (unmatched.compartment == number)]
        if len(ids):
            ids = np.sort(ids).astype(np.uint32)
            labels = relabel(state.labels.read(ORIGINAL[name], window), ids, ids)
            draw_outlines(picture, labels, COLOURS["alone_line"])


def _inside(boxes: Int64, window: Window) -> Mask:
    """Return which boxes (n, 4) share a pixel with a window."""
    y0, x0, y1, x1 = boxes.T
    rows = (y0 < window.y1) & (y1 > window.y0)
    return np.asarray(rows & (x0 < window.x1) & (x1 > window.x0))


def _as_data(picture: Picture, width_um: float) -> Record:
    """Return a picture as a JPEG data URI, with its scale bar."""
    from PIL import Image

    buffer = BytesIO()
    # Thin coloured outlines need full colour resolution.
    Image.fromarray(picture).save(buffer, "JPEG", quality=85, subsampling=0)
    data = b64encode(buffer.getvalue()).decode()
    bar_um = round_length(width_um / 3)
    return {
        "data": f"data:image/jpeg;base64,{data}",
        "height": picture.shape[0],
        "width": picture.shape[1],
        "bar": (bar_um, bar_um / width_um),
    }
