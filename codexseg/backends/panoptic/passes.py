"""Slide passes of Mesmer's computation.

Each needs the ones before it: histograms of intensities (99.9th percentile of the nonzero
pixels, range), the contrast maps of CLAHE in blocks of 128 px, the range after
equalisation, and the maps of the network. All blocks are on grids anchored at the corner
of the image, so no result depends on the patches.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from codexseg.arrays import Float32, Float64, Int64
from codexseg.backends.networks.runtime import Batch, Network, predict_tiles
from codexseg.backends.panoptic.image import Image, blocks_along, edges_name, levels_of
from codexseg.backends.slide_pass import Arrays, BlockResult, SlideView
from codexseg.core.algorithms.tiles import TileBlock
from codexseg.core.grid import Window
from codexseg.core.intensity.clahe import (
    BLOCK_PX,
    cap_bins,
    cap_level,
    clahe_bins,
    contrast_maps,
    count_fine,
    count_levels,
    reflected,
)

SIGNAL_MARGIN_PX = 64
"""A tile is predicted if there is signal within this distance, px of the slide."""
CHANNELS = (0, 1)


class _ImagePass:
    """Slide pass over square blocks of the image."""

    name = ""
    unit = "block"

    def __init__(self, image: Image) -> None:
        self._image = image

    def n_blocks(self, slide: SlideView) -> int:
        """Count the blocks of the image."""
        del slide
        return len(self._image.pass_blocks)

    def reduce(self, slide: SlideView) -> Arrays:
        """Return nothing: the results of the blocks are read directly."""
        del slide
        return {}

    def _results(self, slide: SlideView) -> Iterable[Arrays]:
        return (
            slide.block_result(self.name, block) for block in range(self.n_blocks(slide))
        )

    def _total_range(self, name: str, slide: SlideView) -> NDArray[np.generic]:
        """Return the range (channels, 2) over the ranges of all blocks."""
        blocks = np.array([result[name] for result in self._results(slide)])
        return np.stack([blocks[..., 0].min(0), blocks[..., 1].max(0)], axis=1)


class LevelPass(_ImagePass):
    """Histogram and range of the intensities of both channels."""

    name = "levels"

    def map_block(self, block: int, slide: SlideView) -> BlockResult:
        """Count the intensities of a block."""
        pixels = self._image.read(self._image.pass_blocks[block].core, slide)
        arrays: dict[str, NDArray[np.generic]] = {
            "extremes": np.array([[c.min(), c.max()] for c in pixels], np.float64),
            "dtype": np.array(pixels.dtype.str),
        }
        for number, channel in enumerate(pixels):
            arrays |= _sparse(f"{number}", count_levels(channel))
        return BlockResult(arrays)

    def reduce(self, slide: SlideView) -> Arrays:
        """Sum the histograms."""
        counts = np.zeros((2, 65536), np.int64)
        for result in self._results(slide):
            for number in CHANNELS:
                _add(counts[number], result, f"{number}")
        return {
            "counts": counts,
            "extremes": self._total_range("extremes", slide),
            "dtype": slide.block_result(self.name, 0)["dtype"],
        }


class CapPass(_ImagePass):
    """99.9th percentiles of both channels; floats need a second histogram to be exact."""

    name = "caps"

    def n_blocks(self, slide: SlideView) -> int:
        """Count the blocks of the image; none if intensities are integers."""
        levels = slide.summary("levels")
        is_float = np.dtype(str(levels["dtype"])).kind == "f"
        return len(self._image.pass_blocks) if is_float and levels["counts"].any() else 0

    def map_block(self, block: int, slide: SlideView) -> BlockResult:
        """Count the floats near the percentile by their lower bits."""
        pixels = self._image.read(self._image.pass_blocks[block].core, slide)
        counts = slide.summary("levels")["counts"]
        arrays: dict[str, NDArray[np.generic]] = {}
        for number in CHANNELS:
            if counts[number].any():
                fine = count_fine(pixels[number], cap_bins(counts[number]))
                for i, row in enumerate(fine):
                    arrays |= _sparse(f"{number}_{i}", row)
        return BlockResult(arrays)

    def reduce(self, slide: SlideView) -> Arrays:
        """Return percentile (NaN: all zero) and range of each channel."""
        levels = slide.summary("levels")
        counts, dtype = levels["counts"], np.dtype(str(levels["dtype"]))
        fine = np.zeros((2, 2, 65536), np.int64)
        for result in self._results(slide):
            for number in CHANNELS:
                for i in range(2):
                    _add(fine[number, i], result, f"{number}_{i}")
        caps = [cap_level(counts[number], dtype, fine[number]) for number in CHANNELS]
        return {"cap": np.array(caps, np.float64), "extremes": levels["extremes"]}


class ContrastPass(_ImagePass):
    """Contrast map of CLAHE for each block of 128 px."""

    name = "contrast"

    def map_block(self, block: int, slide: SlideView) -> BlockResult:
        """Compute the maps of a block; the image is reflected at its end."""
        core = self._image.pass_blocks[block].core
        height, width = self._image.shape
        rows, columns = (blocks_along(side) for side in core.shape)
        y = reflected(core.y0, core.y0 + rows * BLOCK_PX, height)
        x = reflected(core.x0, core.x0 + columns * BLOCK_PX, width)
        window = Window(int(y.min()), int(x.min()), int(y.max()) + 1, int(x.max()) + 1)
        pixels = self._image.read(window, slide)
        maps = np.zeros((2, rows, columns, 256), np.uint16)
        for number, levels in enumerate(levels_of(slide)):
            if not levels.is_flat:
                bins = clahe_bins(pixels[number], levels)
                maps[number] = contrast_maps(bins[np.ix_(y - window.y0, x - window.x0)])
        return BlockResult({"maps": maps})


class RangePass(_ImagePass):
    """Range of both channels after equalisation."""

    name = "range"

    def map_block(self, block: int, slide: SlideView) -> BlockResult:
        """Equalize a block and return its range."""
        core = self._image.pass_blocks[block].core
        ranges = np.array([[np.inf, -np.inf]] * 2)
        for number, pixels in enumerate(self._image.equalized(core, slide)):
            if pixels is not None:
                ranges[number] = pixels.min(), pixels.max()
        return BlockResult({"range": ranges})

    def reduce(self, slide: SlideView) -> Arrays:
        """Return the range of each channel."""
        return {"range": self._total_range("range", slide)}


class TilesPass(_ImagePass):
    """Maps of a network, summed over the tiles of a block; each tile is predicted once.

    Parameters
    ----------
    image : Image
        Image of the network.
    batch : Batch
        Number of tiles that the network predicts at once.
    kept : sequence of (int, str)
        Output channels that are kept, and their names.
    load : callable
        Loads the network, once per process.
    read : callable
        Reads the input of the network in a window: (channels, y, x).
    """

    name = "network"

    def __init__(
        self,
        image: Image,
        batch: Batch,
        kept: Sequence[tuple[int, str]],
        load: Callable[[], Network],
        read: Callable[[Window, SlideView], Float32],
    ) -> None:
        super().__init__(image)
        self._batch, self._kept, self._load, self._read = batch, kept, load, read

    def n_blocks(self, slide: SlideView) -> int:
        """Count the blocks of tiles."""
        del slide
        return len(self._image.tiles.block_grid)

    def map_block(self, block: int, slide: SlideView) -> BlockResult:
        """Predict the tiles of a block that contain signal or are close to it."""
        tile_block = self._image.tiles.block(block)
        tiles = [t for t in tile_block.tiles if self._has_signal(tile_block, t, slide)]
        empty = len(tile_block.tiles) - len(tiles)
        counts = {"tiles": len(tiles), "tiles_without_signal": empty}
        if not tiles:
            return BlockResult({}, counts)
        halved = self._batch.times_halved
        network = self._load()
        pixels = tile_block.pad(self._read(tile_block.window, slide))
        total = np.zeros((len(self._kept), *tile_block.shape))
        inputs = [pixels[:, *tile_block.place(tile)] for tile in tiles]
        outputs = predict_tiles(network, inputs, self._batch)
        numbers = [number for number, _ in self._kept]
        for tile, output in zip(tiles, outputs, strict=True):
            tile_block.add(total, tile, output[numbers])
        arrays: dict[str, Float32 | Float64] = {}
        for (_, name), summed in zip(self._kept, tile_block.crop(total), strict=True):
            arrays[name] = summed.astype(np.float32)
            arrays[edges_name(name)] = tile_block.cut_edges(summed)
        counts["batches_halved"] = self._batch.times_halved - halved
        notes = {"runtime": network.runtime, "device": network.device}
        return BlockResult(arrays, counts, notes)

    def _has_signal(
        self, block: TileBlock, tile: tuple[int, int], slide: SlideView
    ) -> bool:
        scaling = self._image.scaling
        source = scaling.source_window(block.tile_window(tile))
        return slide.has_signal(source.grow(SIGNAL_MARGIN_PX, scaling.source))


def _sparse(name: str, counts: Int64) -> dict[str, NDArray[np.generic]]:
    bins = np.flatnonzero(counts)
    return {f"{name}_bins": bins.astype(np.uint16), f"{name}_counts": counts[bins]}


def _add(total: Int64, sparse: Arrays, name: str) -> None:
    bins, counts = f"{name}_bins", f"{name}_counts"
    if bins in sparse:
        total[sparse[bins]] += sparse[counts]
