"""Input and output of a network on the whole slide, read window by window.

The slide at the pixel size of the network, with equalised contrast (CLAHE), and the maps
of the network, from the results of :mod:`codexseg.backends.panoptic.passes`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from codexseg.arrays import Float32, Float64, Pixels
from codexseg.backends.networks.contract import NETWORK_MPP
from codexseg.backends.slide_pass import Arrays, SlideView
from codexseg.core.algorithms.tiles import TileBlock, TileGrid
from codexseg.core.grid import PatchGrid, Window
from codexseg.core.intensity.clahe import (
    BLOCK_PX,
    ChannelRange,
    blocks_needed,
    clahe_bins,
    equalize,
    to_unit,
)
from codexseg.core.intensity.resize import Scaling

SAME_MPP = 1e-6
"""Relative difference below which pixel sizes are equal: files round them."""
PASS_BLOCK_PX = 2048
"""Side of the blocks of slide passes; a multiple of the blocks of CLAHE."""
SOURCE_ROWS = 512
"""Rows of the slide that are resized at once."""
ROWS_AT_ONCE = 256
"""Rows of a map that are summed at once, in double precision."""
MAPS = ("cell_distance", "cell_interior", "nucleus_distance", "nucleus_interior")
"""Maps that are used, in the order of the network's heads."""


@dataclass(frozen=True)
class Image:
    """Image that the network sees: the slide, resized to the pixel size of the network."""

    scaling: Scaling

    @classmethod
    def of(
        cls, shape: tuple[int, int], mpp: float, network_mpp: float | None = NETWORK_MPP
    ) -> "Image":
        """Return the image of a slide of `shape` px at `mpp` um per px.

        With `network_mpp` None the slide is not resized.
        """
        factor = 1.0 if network_mpp is None else mpp / network_mpp
        return cls(Scaling.by(shape, 1.0 if abs(factor - 1) < SAME_MPP else factor))

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width, px."""
        return self.scaling.target

    @cached_property
    def pass_blocks(self) -> PatchGrid:
        """Blocks of the slide passes."""
        return PatchGrid(self.shape, (PASS_BLOCK_PX, PASS_BLOCK_PX), (0, 0))

    @cached_property
    def tiles(self) -> TileGrid:
        """Tiles of the network."""
        return TileGrid(self.shape)

    def read(self, window: Window, slide: SlideView) -> Pixels:
        """Read (2, y, x) in the intensities of the slide."""
        if self.scaling.is_identity:
            return slide.read(window)
        # few rows at a time: at a fine pixel size a window covers many pixels of the slide
        height = self.scaling.source[0] / self.scaling.target[0]
        resized = []
        for rows in _row_blocks(window, max(1, int(SOURCE_ROWS / height))):
            source = self.scaling.source_window(rows)
            pixels = slide.read(source)
            resized.append(self.scaling.resize(pixels, source, rows, slide.bounds))
        return np.concatenate(resized, axis=1)

    def equalized(
        self, window: Window, slide: SlideView
    ) -> list[NDArray[np.uint16] | None]:
        """Equalize the contrast of both channels; None for one without contrast."""
        pixels = self.read(window, slide)
        n_blocks = blocks_along(self.shape[0]), blocks_along(self.shape[1])
        blocks = blocks_needed(window, n_blocks)
        maps = self._contrast(blocks, n_blocks, slide)
        place = (window.y0, window.x0), (blocks.y0, blocks.x0), n_blocks
        return [
            None if levels.is_flat else equalize(clahe_bins(channel, levels), near, *place)
            for channel, levels, near in zip(pixels, levels_of(slide), maps, strict=True)
        ]

    def preprocessed(self, window: Window, slide: SlideView) -> Float32:
        """Return the input of the network in a window: (2, y, x), 0 to 1."""
        ranges = slide.summary("range")["range"]
        unit = np.zeros((2, *window.shape), np.float32)
        for channel, pixels in enumerate(self.equalized(window, slide)):
            if pixels is not None:
                unit[channel] = to_unit(pixels, *ranges[channel].tolist())
        return unit

    def maps(
        self, window: Window, names: Sequence[str], slide: SlideView
    ) -> Float32 | None:
        """Read maps (n, y, x) of the network; None if no tile was predicted."""
        blocks = [
            (block, arrays)
            for block in self.tiles.blocks(window)
            if (arrays := slide.block_result("network", block.number))
        ]
        if not blocks:
            return None
        maps = np.empty((len(names), *window.shape), np.float32)
        for rows in _row_blocks(window, ROWS_AT_ONCE):
            for target, name in zip(maps, names, strict=True):
                target[rows.within(window)] = _summed(blocks, name, rows)
        return maps

    def _contrast(
        self, blocks: Window, n_blocks: tuple[int, int], slide: SlideView
    ) -> NDArray[np.uint16]:
        """Read the contrast maps (2, by, bx, 256) of a window of blocks."""
        side = PASS_BLOCK_PX // BLOCK_PX
        maps = np.zeros((2, *blocks.shape, 256), np.uint16)
        for stored in PatchGrid(n_blocks, (side, side), (0, 0)).near(blocks):
            if shared := stored.core.intersection(blocks):
                found = slide.block_result("contrast", stored.number)["maps"]
                maps[:, *shared.within(blocks)] = found[:, *shared.within(stored.core)]
        return maps


def _row_blocks(window: Window, rows: int) -> Iterator[Window]:
    """Yield windows of at most `rows` rows that cover a window."""
    for y in range(window.y0, window.y1, rows):
        yield Window(y, window.x0, min(y + rows, window.y1), window.x1)


def _summed(
    blocks: Sequence[tuple[TileBlock, Arrays]], name: str, window: Window
) -> Float64:
    """Sum a map over blocks; where blocks overlap they are stored in double precision."""
    total = np.zeros(window.shape)
    for block, arrays in blocks:
        if shared := block.window.intersection(window):
            own = arrays[name][shared.within(block.window)].astype(np.float64)
            block.lay_edges(own, shared, arrays[edges_name(name)])
            total[shared.within(window)] += own
    return total


def edges_name(name: str) -> str:
    """Return the name of the edges of a block's map, in double precision."""
    return f"{name}_edges"


def blocks_along(size: int) -> int:
    """Count the blocks of CLAHE along an axis."""
    return -(-size // BLOCK_PX)


def levels_of(slide: SlideView) -> list[ChannelRange]:
    """Return the levels of both channels, after the pass over their percentiles."""
    summary = slide.summary("caps")
    return [
        ChannelRange.of(None if np.isnan(cap) else float(cap), float(low), float(high))
        for cap, (low, high) in zip(summary["cap"], summary["extremes"], strict=True)
    ]
