"""The pictures of a comparison: what each backend found, side by side, and alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
from codexseg.core.labels.operations import Labels
from codexseg.stages.pictures import COLOURS

PANEL_PX = 720
"""Longest side of a panel."""
DETAIL = 3
"""How many times as large a detail is shown."""
PANELS_IN_ROW = 4
TITLE_PX = 30
GAP_PX = 8
_LEAST_RANGE = 10  # of grey levels, in units of the noise
_INK, _PAPER = (235, 235, 235), (24, 24, 24)

Found = Mapping[str, tuple[Labels, Labels]]


def tissue(pixels: NDArray[Any]) -> Picture:
    """Draw (2, y, x) grey levels, nucleus and whole cell, between background and P99.9."""
    layers = []
    for channel, name in zip(pixels, ("nucleus", "wholecell"), strict=True):
        _, highest, level, noise, top = channel_statistics(channel)
        if highest > 0:
            top = max(top, level + _LEAST_RANGE * noise)
            layers.append((brightness(channel, level, top), COLOURS[name]))
    if not layers:
        return np.zeros((*pixels.shape[1:], 3), np.uint8)
    return blend(layers)


def outlines(picture: Picture, cells: Labels, nuclei: Labels) -> Picture:
    """Return a picture with the outlines of nuclei (white) and cells (yellow) on it."""
    drawn = picture.copy()
    draw_outlines(drawn, nuclei, COLOURS["nucleus_line"])
    draw_outlines(drawn, cells, COLOURS["cell_line"])
    return drawn


def outlines_alone(cells: Labels, nuclei: Labels) -> Picture:
    """Draw outlines on black, pixel by pixel."""
    return outlines(np.zeros((*cells.shape, 3), np.uint8), cells, nuclei)


def place_of_dispute(found: Found, side: int) -> Window:
    """Return the square where backends agree least which pixels are cells.

    Where there is one backend only, or they agree, the square with most cell pixels.

    Parameters
    ----------
    found : mapping of name to (cells, nuclei)
        Labels (y, x) uint32.
    side : int
        Height and width of the square, px; less where the image is smaller.
    """
    height, width = next(iter(found.values()))[0].shape
    side = min(side, height, width)
    masks = np.array([cells > 0 for cells, _ in found.values()], np.uint8)
    count = masks.sum(axis=0)
    split = np.minimum(count, len(masks) - count)
    means = block_mean((split if split.any() else count).astype(np.float32), side)
    means = means[: height // side, : width // side]  # the rest at the edge is no square
    row, column = divmod(int(means.argmax()), means.shape[1])
    middle = (row + 0.5) * side, (column + 0.5) * side
    return window_around(*middle, side, (height, width))


def side_by_side(pixels: NDArray[Any], found: Found) -> Picture:
    """Draw the image and what each found of it, and below each a detail of it.

    Parameters
    ----------
    pixels : (2, y, x)
        Grey levels: nucleus, whole cell.
    found : mapping of name to (cells, nuclei)
        Labels (y, x) uint32, in the order of the panels.

    Returns
    -------
    (height, width, 3) uint8
        At most four panels in a row. Large images are thinned: every n-th pixel is shown.
    """
    height, width = pixels.shape[1:]
    step = -(-max(height, width) // PANEL_PX)
    coarse = np.stack([block_mean(channel, step) for channel in pixels])
    light, near = tissue(coarse), tissue(pixels)
    place = place_of_dispute(found, max(1, light.shape[1] // DETAIL))
    near = _enlarged(near[place.slices])
    panels = [("image", _framed(light, place, step), near)]
    for name, both in found.items():
        cells, nuclei = (labels[::step, ::step] for labels in both)
        if step > 1:  # outlines of both would hide the tissue
            nuclei = np.zeros_like(nuclei)
        cut = (_enlarged(labels[place.slices]) for labels in both)
        panels.append((name, outlines(light, cells, nuclei), outlines(near, *cut)))
    rows = [
        _row(panels[start : start + PANELS_IN_ROW])
        for start in range(0, len(panels), PANELS_IN_ROW)
    ]
    return _stacked(rows)


def _enlarged(pixels: NDArray[Any]) -> NDArray[Any]:
    return np.repeat(np.repeat(pixels, DETAIL, axis=0), DETAIL, axis=1)


def _framed(picture: Picture, place: Window, step: int) -> Picture:
    """Mark where the detail lies."""
    framed = picture.copy()
    y0, x0, y1, x1 = place.y0 // step, place.x0 // step, place.y1 // step, place.x1 // step
    inside = framed[y0 + 1 : y1 - 1, x0 + 1 : x1 - 1].copy()
    framed[y0:y1, x0:x1] = _INK
    framed[y0 + 1 : y1 - 1, x0 + 1 : x1 - 1] = inside
    return framed


def _row(panels: Sequence[tuple[str, Picture, Picture]]) -> Picture:
    """Set panels beside each other: title, whole, detail."""
    width = max(picture.shape[1] for _, *both in panels for picture in both) + GAP_PX
    columns = []
    for name, whole, detail in panels:
        parts = [_title(name, width), _padded(whole, width), _padded(detail, width)]
        columns.append(np.concatenate(parts))
    return np.concatenate(columns, axis=1)


def _padded(picture: Picture, width: int) -> Picture:
    height, own = picture.shape[:2]
    padded = np.full((height + GAP_PX, width, 3), _PAPER, np.uint8)
    padded[:height, :own] = picture
    return padded


def _title(text: str, width: int) -> Picture:
    from PIL import Image, ImageDraw, ImageFont

    strip = Image.new("RGB", (width, TITLE_PX), _PAPER)
    ImageDraw.Draw(strip).text((6, 5), text, _INK, ImageFont.load_default(18))
    return np.asarray(strip)


def _stacked(rows: Sequence[Picture]) -> Picture:
    width = max(row.shape[1] for row in rows)
    whole = []
    for row in rows:
        padded = np.full((row.shape[0], width, 3), _PAPER, np.uint8)
        padded[:, : row.shape[1]] = row
        whole.append(padded)
    return np.concatenate(whole)
