"""The image that a network with Mesmer's contract sees, and what slide_passes tell of it.

The slide at 0.5 um per px, its contrast equalised (CLAHE), the network's maps: any window
of them, from what the slide_passes of :mod:`codexseg.backends.panoptic.passes` have found.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from codexseg.backends.base import Arrays, Pixels, SlideView
from codexseg.backends.networks.contract import NETWORK_MPP
from codexseg.core.algorithms.tiles import TileBlock, TileGrid
from codexseg.core.grid import PatchGrid, Window
from codexseg.core.intensity.clahe import (
    BLOCK_PX,
    Levels,
    blocks_needed,
    clahe_bins,
    equalize,
    to_unit,
)
from codexseg.core.intensity.resize import Scaling

SAME_MPP = 1e-6
"""Pixel sizes that differ by less, relatively, are the same: rounding in a file."""
PIECE_PX = 2048
"""Side of the pieces that are read at once; a multiple of the contrast's blocks."""
SOURCE_ROWS = 512
"""Rows of the slide that are resized at once."""
BAND_PX = 256
"""Rows of a map that are summed at once, in double precision."""
MAPS = ("cell_distance", "cell_interior", "nucleus_distance", "nucleus_interior")
"""The four maps of the network that are used, in its order."""


@dataclass(frozen=True)
class Image:
    """The image that the network sees: the slide, resized to 0.5 um per px."""

    scaling: Scaling

    @classmethod
    def of(cls, shape: tuple[int, int], mpp: float) -> "Image":
        """Return the image of a slide of `shape` px at `mpp` um per px."""
        factor = mpp / NETWORK_MPP
        return cls(Scaling.by(shape, 1.0 if abs(factor - 1) < SAME_MPP else factor))

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width, px."""
        return self.scaling.target

    @cached_property
    def pieces(self) -> PatchGrid:
        """Cut it into the pieces of the slide_passes."""
        return PatchGrid(self.shape, (PIECE_PX, PIECE_PX), (0, 0))

    @cached_property
    def tiles(self) -> TileGrid:
        """The network's tiles."""
        return TileGrid(self.shape)

    def read(self, window: Window, slide: SlideView) -> Pixels:
        """Read (2, y, x) in the slide's grey levels."""
        if self.scaling.is_identity:
            return slide.read(window)
        # in bands: at a fine pixel size a window covers many pixels of the slide
        height = self.scaling.source[0] / self.scaling.target[0]
        rows = max(1, int(SOURCE_ROWS / height))
        bands = []
        for y in range(window.y0, window.y1, rows):
            band = Window(y, window.x0, min(y + rows, window.y1), window.x1)
            read = self.scaling.source_window(band)
            pixels = slide.read(read)
            bands.append(self.scaling.resize(pixels, read, band, slide.bounds))
        return np.concatenate(bands, axis=1)

    def equalized(
        self, window: Window, slide: SlideView
    ) -> list[NDArray[np.uint16] | None]:
        """Equalize both channels of a window; None: a channel without contrast."""
        pixels = self.read(window, slide)
        n_blocks = blocks_along(self.shape[0]), blocks_along(self.shape[1])
        y0, y1, x0, x1 = blocks_needed(window.y0, window.y1, window.x0, window.x1, n_blocks)
        maps = self._contrast(Window(y0, x0, y1, x1), slide)
        corner = window.y0, window.x0
        return [
            None
            if levels.is_flat
            else equalize(
                clahe_bins(channel, levels), channel_maps, corner, (y0, x0), n_blocks
            )
            for channel, levels, channel_maps in zip(
                pixels, levels_of(slide), maps, strict=True
            )
        ]

    def preprocessed(self, window: Window, slide: SlideView) -> NDArray[np.float32]:
        """Return what the network is given of a window: (2, y, x), 0 to 1."""
        ranges = slide.summary("range")["range"]
        unit = np.zeros((2, *window.shape), np.float32)
        for channel, pixels in enumerate(self.equalized(window, slide)):
            if pixels is not None:
                unit[channel] = to_unit(pixels, *ranges[channel].tolist())
        return unit

    def maps(
        self, window: Window, names: Sequence[str], slide: SlideView
    ) -> NDArray[np.float32] | None:
        """Read maps (n, y, x) of the network; None where nothing was predicted."""
        blocks = [
            (block, found)
            for block in self.tiles.blocks(window)
            if (found := slide.block_result("network", block.number))
        ]
        if not blocks:
            return None
        maps = np.empty((len(names), *window.shape), np.float32)
        for y in range(window.y0, window.y1, BAND_PX):
            band = Window(y, window.x0, min(y + BAND_PX, window.y1), window.x1)
            for target, name in zip(maps, names, strict=True):
                target[band.within(window)] = _summed(blocks, name, band)
        return maps

    def _contrast(self, blocks: Window, slide: SlideView) -> NDArray[np.uint16]:
        """Read the contrast maps (2, by, bx, 256) of a window of blocks."""
        side = PIECE_PX // BLOCK_PX
        maps = np.zeros((2, *blocks.shape, 256), np.uint16)
        for row in range(blocks.y0 // side, (blocks.y1 - 1) // side + 1):
            for column in range(blocks.x0 // side, (blocks.x1 - 1) // side + 1):
                piece = row * self.pieces.counts[1] + column
                found = slide.block_result("contrast", piece)["maps"]
                y0, x0 = row * side, column * side
                here = Window(y0, x0, y0 + found.shape[1], x0 + found.shape[2])
                part = here.intersection(blocks)
                if part is not None:
                    maps[:, *part.within(blocks)] = found[:, *part.within(here)]
        return maps


def _summed(
    blocks: Sequence[tuple[TileBlock, Arrays]], name: str, window: Window
) -> NDArray[np.float64]:
    """Add up a window of a map; blocks keep double precision where others add, too."""
    total = np.zeros(window.shape)
    for block, found in blocks:
        part = block.window.intersection(window)
        if part is None:
            continue
        own = found[name][part.within(block.window)].astype(np.float64)
        block.lay_edges(own, part, found[edges_name(name)])
        total[part.within(window)] += own
    return total


def edges_name(name: str) -> str:
    """Name the array that holds the edges of a block's map in double precision."""
    return f"{name}_edges"


def blocks_along(size: int) -> int:
    """Count the contrast's blocks along an axis."""
    return -(-size // BLOCK_PX)


def levels_of(slide: SlideView) -> list[Levels]:
    """Return the grey levels of both channels, once they are known."""
    found = slide.summary("caps")
    return [
        Levels.of(None if np.isnan(cap) else float(cap), float(low), float(high))
        for cap, (low, high) in zip(found["cap"], found["extremes"], strict=True)
    ]
