"""Figures of a comparison: the outlines of all backends side by side, and of one."""

from collections.abc import Mapping, Sequence

import numpy as np

from codexseg.arrays import Labels, Pixels
from codexseg.core.drawing.overlay import (
    Picture,
    blend,
    brightness,
    draw_outlines,
    window_around,
)
from codexseg.core.grid import Window
from codexseg.core.intensity.background import channel_statistics
from codexseg.core.intensity.histogram import block_mean
from codexseg.report.figures import COLOURS

PANEL_PX = 720
"""Longest side of a panel."""
DETAIL = 3
"""Magnification of the detail."""
PANELS_IN_ROW = 4
TITLE_PX = 30
GAP_PX = 8
_MIN_RANGE = 10  # of displayed grey levels, in units of the noise
_INK, _PAPER = (235, 235, 235), (24, 24, 24)

Segmentations = Mapping[str, tuple[Labels, Labels]]
"""Cells and nuclei, (y, x) uint32 each, by the title of their panel."""


def draw_tissue(pixels: Pixels) -> Picture:
    """Draw (2, y, x) grey levels, nucleus and whole cell, from background to P99.9."""
    layers = []
    for channel, name in zip(pixels, ("nucleus", "wholecell"), strict=True):
        _, highest, level, noise, top = channel_statistics(channel)
        if highest > 0:
            top = max(top, level + _MIN_RANGE * noise)
            layers.append((brightness(channel, level, top), COLOURS[name]))
    if not layers:
        return np.zeros((*pixels.shape[1:], 3), np.uint8)
    return blend(layers)


def with_outlines(picture: Picture, cells: Labels, nuclei: Labels) -> Picture:
    """Return a copy of a picture with outlines of nuclei (white) and cells (yellow)."""
    drawn = picture.copy()
    draw_outlines(drawn, nuclei, COLOURS["nucleus_line"])
    draw_outlines(drawn, cells, COLOURS["cell_line"])
    return drawn


def outline_image(cells: Labels, nuclei: Labels) -> Picture:
    """Draw outlines on black at full resolution."""
    return with_outlines(np.zeros((*cells.shape, 3), np.uint8), cells, nuclei)


def disagreement_window(segmentations: Segmentations, side: int) -> Window:
    """Return the square with the largest disagreement about pixels of cells.

    With one backend, or without disagreement, the square with most cell pixels.

    Parameters
    ----------
    segmentations : mapping of name to (cells, nuclei)
        Labels (y, x) uint32.
    side : int
        Height and width of the square, px; smaller in a smaller image.
    """
    height, width = next(iter(segmentations.values()))[0].shape
    side = min(side, height, width)
    masks = np.array([cells > 0 for cells, _ in segmentations.values()], np.uint8)
    count = masks.sum(axis=0)
    minority = np.minimum(count, len(masks) - count)
    means = block_mean((minority if minority.any() else count).astype(np.float32), side)
    means = means[: height // side, : width // side]  # without incomplete squares
    row, column = divmod(int(means.argmax()), means.shape[1])
    middle = (row + 0.5) * side, (column + 0.5) * side
    return window_around(*middle, side, (height, width))


def side_by_side(pixels: Pixels, segmentations: Segmentations) -> Picture:
    """Draw the image and the outlines of each backend, each above a magnified detail.

    Parameters
    ----------
    pixels : (2, y, x)
        Grey levels: nucleus, whole cell.
    segmentations : mapping of name to (cells, nuclei)
        Labels (y, x) uint32, in the order of the panels.

    Returns
    -------
    (height, width, 3) uint8
        At most four panels in a row. Large images are downsampled: tissue by block means,
        labels to every n-th pixel.
    """
    height, width = pixels.shape[1:]
    step = -(-max(height, width) // PANEL_PX)
    overview = draw_tissue(np.stack([block_mean(channel, step) for channel in pixels]))
    window = disagreement_window(segmentations, max(1, overview.shape[1] // DETAIL))
    detail = _magnify(draw_tissue(pixels)[window.slices])
    panels = [("image", _mark(overview, window, step), detail)]
    for name, (cells, nuclei) in segmentations.items():
        # in a downsampled image the outlines of both would hide the tissue
        coarse_nuclei = np.zeros_like(nuclei) if step > 1 else nuclei
        whole = with_outlines(
            overview, cells[::step, ::step], coarse_nuclei[::step, ::step]
        )
        magnified = (_magnify(labels[window.slices]) for labels in (cells, nuclei))
        panels.append((name, whole, with_outlines(detail, *magnified)))
    rows = [
        _row(panels[start : start + PANELS_IN_ROW])
        for start in range(0, len(panels), PANELS_IN_ROW)
    ]
    width = max(row.shape[1] for row in rows)
    return np.concatenate([_pad(row, len(row), width) for row in rows])


def _magnify(pixels: Pixels) -> Pixels:
    return np.repeat(np.repeat(pixels, DETAIL, axis=0), DETAIL, axis=1)


def _mark(picture: Picture, window: Window, step: int) -> Picture:
    """Draw the frame of the detail."""
    marked = picture.copy()
    y0, x0, y1, x1 = (edge // step for edge in (window.y0, window.x0, window.y1, window.x1))
    inside = marked[y0 + 1 : y1 - 1, x0 + 1 : x1 - 1].copy()
    marked[y0:y1, x0:x1] = _INK
    marked[y0 + 1 : y1 - 1, x0 + 1 : x1 - 1] = inside
    return marked


def _row(panels: Sequence[tuple[str, Picture, Picture]]) -> Picture:
    """Join panels side by side, each a title above the whole image and the detail."""
    width = max(p.shape[1] for _, *pictures in panels for p in pictures) + GAP_PX
    columns = []
    for name, *pictures in panels:
        padded = [_pad(picture, len(picture) + GAP_PX, width) for picture in pictures]
        columns.append(np.concatenate([_title(name, width), *padded]))
    return np.concatenate(columns, axis=1)


def _pad(picture: Picture, height: int, width: int) -> Picture:
    padded = np.full((height, width, 3), _PAPER, np.uint8)
    padded[: picture.shape[0], : picture.shape[1]] = picture
    return padded


def _title(text: str, width: int) -> Picture:
    from PIL import Image, ImageDraw, ImageFont

    strip = Image.new("RGB", (width, TITLE_PX), _PAPER)
    ImageDraw.Draw(strip).text((6, 5), text, _INK, ImageFont.load_default(18))
    return np.asarray(strip)
