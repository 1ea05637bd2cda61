"""What Mesmer's computation takes from a whole image, gathered piece by piece.

Grey levels (99.9th percentile of what is not zero, range), the contrast maps of blocks
of 128 px (CLAHE), the range after equalisation, and the maps that the network predicts:
each slide_pass needs those before it. All pieces lie on grids that are anchored at the
image's corner, so nothing depends on how the slide is cut into patches.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codexseg.backends.base import Arrays, BlockResult, SlidePass, SlideView
from codexseg.backends.networks.runtime import (
    Batch,
    Floats,
    Network,
    open_network,
    predict_tiles,
)
from codexseg.backends.networks.weights import Weights
from codexseg.backends.panoptic.image import (
    MAPS,
    Image,
    blocks_along,
    edges_name,
    levels_of,
)
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
"""A tile is predicted where signal lies in it or this near, px of the slide."""
CHANNELS = (0, 1)


def slide_passes(
    image: Image,
    weights: Weights,
    runtime: str,
    device: str,
    batch: Batch,
    names: Sequence[str] = MAPS,
) -> tuple[SlidePass, ...]:
    """Return the slide_passes that Mesmer's computation needs, in their order.

    Parameters
    ----------
    image : Image
        What is surveyed.
    weights, runtime, device
        Of the network; see :func:`codexseg.backends.networks.runtime.open_network`.
    batch : Batch
        How many tiles go to the network at once.
    names : sequence of str
        Which of its maps are kept.
    """
    pieces = (LevelPass, CapPass, ContrastPass, RangePass)
    network = NetworkPass(image, weights, runtime, device, batch, names)
    return *(slide_pass(image) for slide_pass in pieces), network


class _Pieces:
    """A slide_pass of the image's squares."""

    name = ""
    unit = "piece"

    def __init__(self, image: Image) -> None:
        self._image = image

    def n_blocks(self, slide: SlideView) -> int:
        """Count the squares."""
        del slide
        return len(self._image.pieces)

    def _findings(self, slide: SlideView) -> Iterable[Arrays]:
        return (
            slide.block_result(self.name, piece) for piece in range(self.n_blocks(slide))
        )


class LevelPass(_Pieces):
    """Counts of grey levels, lowest and highest, of both channels."""

    name = "levels"

    def map_block(self, piece: int, slide: SlideView) -> BlockResult:
        """Count the grey levels of a piece."""
        pixels = self._image.read(self._image.pieces[piece].core, slide)
        found: dict[str, NDArray[np.generic]] = {
            "extremes": np.array([[c.min(), c.max()] for c in pixels], np.float64),
            "dtype": np.array(pixels.dtype.str),
        }
        for number, channel in enumerate(pixels):
            found |= _sparse(f"{number}", count_levels(channel))
        return BlockResult(found)

    def reduce(self, slide: SlideView) -> Arrays:
        """Add up."""
        counts = np.zeros((2, 65536), np.int64)
        extremes, dtype = [], ""
        for found in self._findings(slide):
            for number in CHANNELS:
                _add(counts[number], found, f"{number}")
            extremes.append(found["extremes"])
            dtype = str(found["dtype"])
        every = np.array(extremes)
        return {
            "counts": counts,
            "extremes": np.stack([every[..., 0].min(0), every[..., 1].max(0)], axis=1),
            "dtype": np.array(dtype),
        }


class CapPass(_Pieces):
    """The 99.9th percentiles; floats are looked at once more, to be exact."""

    name = "caps"

    def n_blocks(self, slide: SlideView) -> int:
        """Count the squares: none where grey levels are integers."""
        found = slide.summary("levels")
        is_float = np.dtype(str(found["dtype"])).kind == "f"
        return len(self._image.pieces) if is_float and found["counts"].any() else 0

    def map_block(self, piece: int, slide: SlideView) -> BlockResult:
        """Count the floats near the percentile by the rest of their bits."""
        pixels = self._image.read(self._image.pieces[piece].core, slide)
        counts = slide.summary("levels")["counts"]
        found: dict[str, NDArray[np.generic]] = {}
        for number in CHANNELS:
            if counts[number].any():
                fine = count_fine(pixels[number], cap_bins(counts[number]))
                for i, row in enumerate(fine):
                    found |= _sparse(f"{number}_{i}", row)
        return BlockResult(found)

    def reduce(self, slide: SlideView) -> Arrays:
        """Return the cap of each channel (NaN: all zero), lowest and highest level."""
        levels = slide.summary("levels")
        counts, dtype = levels["counts"], np.dtype(str(levels["dtype"]))
        fine = np.zeros((2, 2, 65536), np.int64)
        for found in self._findings(slide):
            for number in CHANNELS:
                for i in range(2):
                    _add(fine[number, i], found, f"{number}_{i}")
        is_float = dtype.kind == "f"
        cap = np.full(2, np.nan)
        for number in CHANNELS:
            if counts[number].any():
                rest = fine[number] if is_float else None
                cap[number] = cap_level(counts[number], dtype, rest)
        return {"cap": cap, "extremes": levels["extremes"]}


class ContrastPass(_Pieces):
    """The contrast map of each block of 128 px."""

    name = "contrast"

    def map_block(self, piece: int, slide: SlideView) -> BlockResult:
        """Make the maps of a piece's blocks; the image is reflected at its end."""
        core = self._image.pieces[piece].core
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

    def reduce(self, slide: SlideView) -> Arrays:
        """Nothing: the maps are used as they lie."""
        del slide
        return {}


class RangePass(_Pieces):
    """Lowest and highest level after equalisation."""

    name = "range"

    def map_block(self, piece: int, slide: SlideView) -> BlockResult:
        """Equalize a piece, and note its lowest and highest level."""
        core = self._image.pieces[piece].core
        found = np.array([[np.inf, -np.inf]] * 2)
        for number, pixels in enumerate(self._image.equalized(core, slide)):
            if pixels is not None:
                found[number] = pixels.min(), pixels.max()
        return BlockResult({"range": found})

    def reduce(self, slide: SlideView) -> Arrays:
        """Return the lowest and highest level of each channel."""
        every = np.array([found["range"] for found in self._findings(slide)])
        return {"range": np.stack([every[..., 0].min(0), every[..., 1].max(0)], axis=1)}


class TilesPass(ABC):
    """The maps of a network, summed over the tiles of a block, each predicted once.

    Parameters
    ----------
    image : Image
        What the network sees of the slide.
    batch : Batch
        How many tiles go to the network at once.
    kept : sequence of (int, str)
        Which of the network's maps are kept, and by which names.
    """

    name = "network"
    unit = "block"

    def __init__(self, image: Image, batch: Batch, kept: Sequence[tuple[int, str]]) -> None:
        self._image, self._batch, self._kept = image, batch, kept

    @abstractmethod
    def _open(self) -> Network:
        """Load the network, once per process."""

    @abstractmethod
    def _seen(self, window: Window, slide: SlideView) -> Floats:
        """Read what the network is given of a window: (channels, y, x)."""

    def _checked(self, output: Floats) -> Floats:
        """Return the maps of a tile if they can be used."""
        return output

    def n_blocks(self, slide: SlideView) -> int:
        """Count the blocks of tiles."""
        del slide
        rows, columns = self._image.tiles.block_counts
        return rows * columns

    def map_block(self, piece: int, slide: SlideView) -> BlockResult:
        """Predict the tiles of a block that signal lies in or near."""
        block = self._image.tiles.block(piece)
        tiles = [tile for tile in block.tiles if self._has_signal(block, tile, slide)]
        empty = len(block.tiles) - len(tiles)
        counts = {"tiles": len(tiles), "tiles_without_signal": empty}
        if not tiles:
            return BlockResult({}, counts)
        halved = self._batch.times_halved
        network = self._open()
        pixels = block.pad(self._seen(block.window, slide))
        total = np.zeros((len(self._kept), *block.shape))
        inputs = [pixels[:, *block.place(tile)] for tile in tiles]
        outputs = predict_tiles(network, inputs, self._batch)
        numbers = [number for number, _ in self._kept]
        for tile, output in zip(tiles, outputs, strict=True):
            block.add(total, tile, self._checked(output)[numbers])
        arrays: dict[str, NDArray[Any]] = {}
        for (_, name), summed in zip(self._kept, block.crop(total), strict=True):
            arrays[name] = summed.astype(np.float32)
            arrays[edges_name(name)] = block.cut_edges(summed)
        counts["batches_halved"] = self._batch.times_halved - halved
        notes = {"runtime": network.runtime, "device": network.device}
        return BlockResult(arrays, counts, notes)

    def reduce(self, slide: SlideView) -> Arrays:
        """Nothing: the maps are used as they lie."""
        del slide
        return {}

    def _has_signal(
        self, block: TileBlock, tile: tuple[int, int], slide: SlideView
    ) -> bool:
        scaling = self._image.scaling
        under = scaling.source_window(block.tile_window(tile))
        return slide.has_signal(under.grow(SIGNAL_MARGIN_PX, scaling.source))


class NetworkPass(TilesPass):
    """The maps of a network with Mesmer's contract."""

    def __init__(
        self,
        image: Image,
        weights: Weights,
        runtime: str,
        device: str,
        batch: Batch,
        names: Sequence[str],
    ) -> None:
        super().__init__(image, batch, [(MAPS.index(name), name) for name in names])
        self._how = weights, runtime, device

    def _open(self) -> Network:
        return open_network(*self._how)

    def _seen(self, window: Window, slide: SlideView) -> Floats:
        return self._image.preprocessed(window, slide)


def _sparse(name: str, counts: NDArray[np.int64]) -> dict[str, NDArray[np.generic]]:
    bins = np.flatnonzero(counts)
    return {f"{name}_bins": bins.astype(np.uint16), f"{name}_counts": counts[bins]}


def _add(total: NDArray[np.int64], found: Arrays, name: str) -> None:
    if f"{name}_bins" in found:
        total[found[f"{name}_bins"]] += found[f"{name}_counts"]
