"""Models that return objects, run on a fixed tile grid of the slide.

The objects of such a model depend on the image around them, and often on the size and the
origin of the image. So the slide is divided once into overlapping tiles, independent of
the patches. Each tile is segmented once and the labels are merged: a pixel has the label
of the tile that owns it, and objects of two tiles are joined if they agree in the overlap.
"""

from abc import abstractmethod
from collections.abc import Sequence
from math import ceil
from typing import Any, ClassVar

import numpy as np

from codexseg.arrays import Float32, Labels, Pixels
from codexseg.backends.base import CELL_UM, NUCLEUS_UM, SlideContext, enlargement
from codexseg.backends.network_backend import NetworkBackend
from codexseg.backends.panoptic.image import Image
from codexseg.backends.slide_pass import Arrays, BlockResult, SlidePass, SlideView
from codexseg.backends.tiled.merge import merge_tiles
from codexseg.core.grid import PatchGrid, Window
from codexseg.core.intensity.histogram import N_BINS, histogram, percentile
from codexseg.core.labels.expand import grow_labels

SIGNAL_PX = 256
"""Intensities are counted in squares of this side with signal, px of the slide."""

Channels = tuple[Float32 | None, Float32 | None]


class Tiled(NetworkBackend):
    """Backend that segments tiles of the slide.

    With slide normalisation, intensities are scaled by percentiles of each channel over
    all squares of 256 px with signal, exact (floats: to 0.8 %); glass would shift them.
    This takes a pass over the slide, as models are trained with other percentiles than
    those of :class:`codexseg.backends.base.ChannelStatistics`. With patch normalisation,
    each patch is an image of its own, with its own percentiles and tiles.

    A subclass sets `name`, `mpp`, `percents`, `tile_core_px`, and defines `segment`,
    `about` and `fingerprint`. It may set the attributes below before it calls `__init__`.

    Attributes
    ----------
    percents : (float, float)
        Percentiles of a channel that become 0 and 1.
    tile_core_px : int
        Side of the core of a tile, px of the model's image.
    margin_px : int
        Margin around the core that the model sees, px of the model's image.
    largest_px : int
        Diameter of a large cell, px of the model's image.
    planes : sequence of sequences of int
        Groups of compartments (0 cells, 1 nuclei) that share labels. The first of a group
        decides which objects of two tiles are joined.
    expansion_px : float or None
        If set, cells are nuclei expanded by this distance, px of the model's image.
    """

    name: ClassVar[str] = ""
    mpp: float | None = None
    percents: tuple[float, float] = (1.0, 99.0)
    tile_core_px: int = 1024
    margin_px: int = 64
    largest_px: int = 64
    planes: Sequence[Sequence[int]] = ((0,), (1,))
    expansion_px: float | None = None

    def __init__(self, config: Any, slide: SlideContext) -> None:
        super().__init__(config, slide)
        self.channels: tuple[str, ...] = (
            ("nucleus", "wholecell") if slide.has_wholecell else ("nucleus",)
        )
        self.paired = self.expansion_px is not None or len(self.planes) == 1
        per_px = 1.0 if self.mpp is None else enlargement(slide, self.mpp)
        self.diameter_um = CELL_UM
        if config.compartment == "nuclear":
            self.diameter_um = NUCLEUS_UM
        elif self.expansion_px is not None:
            growth_um = self.expansion_px * (self.mpp or slide.mpp)
            self.diameter_um = NUCLEUS_UM + 2 * growth_um
        self.context_px = ceil(self.margin_px / per_px)
        if config.normalization == "slide":
            self.slide_passes = self._slide_passes(slide.shape)
            self.context_px = 0  # windows are cut from the labels of the slide
        self.halo_px = self.context_px + ceil(self.largest_px / per_px)

    @abstractmethod
    def segment(self, channels: Channels) -> tuple[Labels, str]:
        """Segment a tile.

        Parameters
        ----------
        channels : two (y, x) float32
            Nucleus, whole cell; 0 and 1 are the percentiles. None: the channel is missing
            or has no contrast. At least one is an array.

        Returns
        -------
        labels : (2, y, x) uint32
            Cells, nuclei. Cells are zeros if they are expanded nuclei.
        device : str
            Device of the computation.
        """

    def segment_window(self, window: Window, slide: SlideView) -> Labels:
        """Segment a window of a slide after the slide passes: the slide's labels, cut."""
        image = self._image(slide.shape)
        target = image.scaling.target_window(window)
        grown = target.grow(ceil(self.expansion_px or 0), image.shape)
        merged = np.zeros((2, *grown.shape), np.uint32)
        for group in self.planes:
            merged[list(group)] = merge_tiles(self._tiles(image), grown, slide, group)
        if self.expansion_px is not None:
            merged[0] = grow_labels(merged[1], self.expansion_px)
        inner = merged[:, *target.within(grown)]
        labels = np.zeros((2, *window.shape), np.uint32)
        for plane, source in zip(labels, inner, strict=True):
            plane[:] = image.scaling.nearest(source, target, window, rule="skimage")
        return labels

    def _slide_passes(self, shape: tuple[int, int]) -> Sequence[SlidePass]:
        image = self._image(shape)
        return SignalLevels(image), TileLabels(image, self._tiles(image), self)

    def _tiles(self, image: Image) -> PatchGrid:
        """Return the tiles of the image; their outer windows are the model's input."""
        step, margin = self.tile_core_px, self.margin_px
        return PatchGrid(image.shape, (step, step), (margin, margin))


class SignalLevels:
    """Slide pass over the histogram of the intensities in squares with signal."""

    name = "levels"
    unit = "block"

    def __init__(self, image: Image) -> None:
        self._blocks = PatchGrid(image.scaling.source, (2048, 2048), (0, 0))
        self._squares = PatchGrid(image.scaling.source, (SIGNAL_PX, SIGNAL_PX), (0, 0))

    def n_blocks(self, slide: SlideView) -> int:
        """Count the blocks."""
        del slide
        return len(self._blocks)

    def map_block(self, block: int, slide: SlideView) -> BlockResult:
        """Count the intensities of both channels in squares with signal."""
        core = self._blocks[block].core
        squares = [square.core for square in self._squares.near(core)]
        squares = [window for window in squares if slide.has_signal(window)]
        if not squares:
            return BlockResult({})
        pixels = slide.read(core)
        counts = np.zeros((2, N_BINS), np.int64)
        for window in squares:
            for number, channel in enumerate(pixels):
                counts[number] += histogram(channel[window.within(core)])
        return BlockResult({"counts": counts, "dtype": np.array(pixels.dtype.str)})

    def reduce(self, slide: SlideView) -> Arrays:
        """Sum the histograms; empty if there is no signal."""
        counts, dtype = np.zeros((2, N_BINS), np.int64), None
        for block in range(self.n_blocks(slide)):
            if arrays := slide.block_result(self.name, block):
                counts += arrays["counts"]
                dtype = arrays["dtype"]
        return {} if dtype is None else {"counts": counts, "dtype": dtype}


class TileLabels:
    """Slide pass that segments every tile with signal."""

    name = "tiles"
    unit = "tile"

    def __init__(self, image: Image, tiles: PatchGrid, backend: Tiled) -> None:
        self._image, self._tiles, self._backend = image, tiles, backend

    def n_blocks(self, slide: SlideView) -> int:
        """Count the tiles."""
        del slide
        return len(self._tiles)

    def map_block(self, block: int, slide: SlideView) -> BlockResult:
        """Segment a tile: `labels` (2, y, x), cells and nuclei, of its outer window."""
        tile = self._tiles[block].outer
        ends = scaling_ends(slide.summary("levels"), self._backend.percents)
        source = self._image.scaling.source_window(tile)
        if not slide.has_signal(source) or ends == (None, None):
            return BlockResult({}, {"tiles": 0, "tiles_without_signal": 1})
        pixels = self._image.read(tile, slide)
        nucleus, wholecell = (
            None if end is None else stretch_percentiles(channel, *end)
            for channel, end in zip(pixels, ends, strict=True)
        )
        labels, device = self._backend.segment((nucleus, wholecell))
        counts = {"tiles": 1, "tiles_without_signal": 0}
        arrays = {"labels": labels} if labels.any() else {}
        return BlockResult(arrays, counts, {"device": device})

    def reduce(self, slide: SlideView) -> Arrays:
        """Return nothing: the labels of the tiles are read directly."""
        del slide
        return {}


Ends = tuple[float, float] | None


def scaling_ends(levels: Arrays, percents: tuple[float, float]) -> tuple[Ends, Ends]:
    """Return the intensities that become 0 and 1; None for a channel without contrast.

    Parameters
    ----------
    levels : mapping
        Summary of :class:`SignalLevels`.
    percents : (float, float)
        Percentiles that become 0 and 1.
    """
    if not levels:
        return None, None
    dtype = np.dtype(str(levels["dtype"]))
    ends = []
    for counts in levels["counts"]:
        low, high = (percentile(counts, percent, dtype) for percent in percents)
        ends.append((low, high) if high > low else None)
    return ends[0], ends[1]


def stretch_percentiles(channel: Pixels, low: float, high: float) -> Float32:
    """Scale a channel linearly to 0 at `low` and 1 at `high`, without clipping."""
    unit = channel.astype(np.float32)
    unit -= np.float32(low)
    unit *= np.float32(1 / (high - low))
    return unit
