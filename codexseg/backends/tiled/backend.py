"""Models that find objects by themselves, run on tiles that are fixed on the slide.

Such a model takes an image and returns objects. What it makes of a pixel depends on the
image around it, and often on the image's size and origin as well. So the slide is cut
once into overlapping tiles on a grid of their own, each tile is segmented once, and the
labels are put together: every pixel takes its label from the tile whose core it lies in,
and objects of two tiles are one where they agree in the strip that both see. Nothing
depends on how the slide is cut into patches, and no patch segments its halo again.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import ceil
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from codexseg.backends.base import (
    CELL_UM,
    NUCLEUS_UM,
    Arrays,
    BlockResult,
    Labels,
    Pixels,
    SlideContext,
    SlidePass,
    SlideView,
    enlargement,
)
from codexseg.backends.panoptic.backend import InMemory
from codexseg.backends.panoptic.image import SAME_MPP, Image
from codexseg.backends.tiled.merge import put_together
from codexseg.core.grid import PatchGrid, Window
from codexseg.core.intensity.histogram import N_BINS, histogram, percentile
from codexseg.core.intensity.resize import Scaling
from codexseg.core.labels.expand import grow_labels

SIGNAL_PX = 256
"""Grey levels are counted in squares of this side, px of the slide, that hold signal."""

Floats = NDArray[np.float32]
Channels = tuple[Floats | None, Floats | None]


class Tiled(ABC):
    """A backend that segments tiles of the slide.

    With slide normalisation grey levels are scaled by percentiles of each channel over
    the slide, exact (floats: to 0.8 %), of all squares of 256 px that hold signal: glass
    would shift them. That takes a pass over the slide; the background and P99.9 that
    backends are told are other percentiles than those that models are trained with. With
    patch normalisation each patch is an image of its own, scaled by its own percentiles
    and cut into tiles of its own.

    A subclass sets `name`, `mpp`, `percents`, `tile_core_px`, and defines `segment`,
    `about` and `fingerprint`. It may set the attributes below before it calls `__init__`.

    Attributes
    ----------
    percents : (float, float)
        The percentiles of a channel that become 0 and 1.
    tile_core_px : int
        Side of what a tile gives, px of the model's image.
    margin_px : int
        What a tile sees beyond, px of the model's image.
    largest_px : int
        Diameter of a large cell, px of the model's image.
    planes : sequence of sequences of int
        Which compartments (0 cells, 1 nuclei) share labels. Of each group the first says
        which objects of two tiles are one.
    expansion_px : float or None
        Where it is set, cells are the nuclei, grown by this, px of the model's image.
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
        self._config, self._slide = config, slide
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
        self.slide_passes: Sequence[SlidePass] = ()
        self.context_px = ceil(self.margin_px / per_px)
        if config.normalization == "slide":
            self.slide_passes = self._slide_passes(slide.shape)
            self.context_px = 0  # a window is cut from the labels of the slide
        self.halo_px = self.context_px + ceil(self.largest_px / per_px)

    @property
    @abstractmethod
    def about(self) -> dict[str, str | bool | None]:
        """What the manifest says of the weights."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Name the computation and the weights."""

    @abstractmethod
    def segment(self, channels: Channels) -> tuple[Labels, str]:
        """Segment a tile.

        Parameters
        ----------
        channels : two (y, x) float32
            Nucleus, whole cell; 0 and 1 are the percentiles. None: there is none, or it
            is without contrast. At least one is an array.

        Returns
        -------
        labels : (2, y, x) uint32
            Cells, nuclei. Cells that are to be grown from nuclei are zeros.
        device : str
            Where it was computed.
        """

    def predict(self, patches: Pixels, windows: Sequence[Window]) -> Labels:
        """Segment each patch as an image of its own.

        Parameters
        ----------
        patches : (n, 2, y, x) uint8, uint16 or float32
            Channel 0 nucleus, channel 1 whole cell (zeros where there is none).
        windows : sequence of n windows
            Not needed.

        Returns
        -------
        labels : (n, 2, y, x) uint32
            Compartment 0 cells, 1 nuclei.
        """
        del windows
        labels = np.zeros(patches.shape, np.uint32)
        every = self._slide_passes(patches.shape[2:])
        for patch, found in zip(patches, labels, strict=True):
            view = InMemory(patch, every)
            found[:] = self.segment_window(Window(0, 0, *patch.shape[1:]), view)
        return labels

    def segment_window(self, window: Window, slide: SlideView) -> Labels:
        """Segment a window of a surveyed slide.

        Parameters
        ----------
        window : Window
            Of the slide.
        slide : SlideView
            The slide after all slide_passes.

        Returns
        -------
        labels : (2, y, x) uint32
            Cells, nuclei: those of the whole slide, cut off at the window.
        """
        image = self._image(slide.shape)
        seen = image.scaling.target_window(window)
        read = seen.grow(ceil(self.expansion_px or 0), image.shape)
        whole = np.zeros((2, *read.shape), np.uint32)
        for group in self.planes:
            whole[list(group)] = put_together(self._tiles(image), read, slide, group)
        if self.expansion_px is not None:
            whole[0] = grow_labels(whole[1], self.expansion_px)
        inner = whole[:, *seen.within(read)]
        labels = np.zeros((2, *window.shape), np.uint32)
        for target, source in zip(labels, inner, strict=True):
            target[:] = image.scaling.nearest(source, seen, window, rule="skimage")
        return labels

    def _slide_passes(self, shape: tuple[int, int]) -> Sequence[SlidePass]:
        image = self._image(shape)
        return SignalLevels(image), TileLabels(image, self._tiles(image), self)

    def _image(self, shape: tuple[int, int]) -> Image:
        """Return the image that the model sees, of a slide."""
        factor = 1.0 if self.mpp is None else self._slide.mpp / self.mpp
        return Image(Scaling.by(shape, 1.0 if abs(factor - 1) < SAME_MPP else factor))

    def _tiles(self, image: Image) -> PatchGrid:
        """Cut it into tiles; their outer windows go to the model."""
        step, margin = self.tile_core_px, self.margin_px
        return PatchGrid(image.shape, (step, step), (margin, margin))


class SignalLevels:
    """Counts of grey levels where there is signal; what becomes 0 and 1."""

    name = "levels"
    unit = "piece"

    def __init__(self, image: Image) -> None:
        self._pieces = PatchGrid(image.scaling.source, (2048, 2048), (0, 0))

    def n_blocks(self, slide: SlideView) -> int:
        """Count the squares that are read at once."""
        del slide
        return len(self._pieces)

    def map_block(self, piece: int, slide: SlideView) -> BlockResult:
        """Count the grey levels of both channels in squares that hold signal."""
        core = self._pieces[piece].core
        squares = [
            window
            for y in range(core.y0, core.y1, SIGNAL_PX)
            for x in range(core.x0, core.x1, SIGNAL_PX)
            if slide.has_signal(
                window := Window(
                    y, x, min(y + SIGNAL_PX, core.y1), min(x + SIGNAL_PX, core.x1)
                )
            )
        ]
        if not squares:
            return BlockResult({})
        pixels = slide.read(core)
        counts = np.zeros((2, N_BINS), np.int64)
        for window in squares:
            for number, channel in enumerate(pixels):
                counts[number] += histogram(channel[window.within(core)])
        return BlockResult({"counts": counts, "dtype": np.array(pixels.dtype.str)})

    def reduce(self, slide: SlideView) -> Arrays:
        """Add up; nothing where there is no signal."""
        counts, dtype = np.zeros((2, N_BINS), np.int64), None
        for piece in range(self.n_blocks(slide)):
            if found := slide.block_result(self.name, piece):
                counts += found["counts"]
                dtype = found["dtype"]
        return {} if dtype is None else {"counts": counts, "dtype": dtype}


class TileLabels:
    """The labels of every tile that signal lies in."""

    name = "tiles"
    unit = "tile"

    def __init__(self, image: Image, tiles: PatchGrid, backend: Tiled) -> None:
        self._image, self._tiles, self._backend = image, tiles, backend

    def n_blocks(self, slide: SlideView) -> int:
        """Count the tiles."""
        del slide
        return len(self._tiles)

    def map_block(self, piece: int, slide: SlideView) -> BlockResult:
        """Segment a tile: `labels` (2, y, x), cells and nuclei, of its outer window."""
        tile = self._tiles[piece].outer
        ends = scaling_ends(slide.summary("levels"), self._backend.percents)
        under = self._image.scaling.source_window(tile)
        if not slide.has_signal(under) or ends == (None, None):
            return BlockResult({}, {"tiles": 0, "tiles_without_signal": 1})
        pixels = self._image.read(tile, slide)
        nucleus, wholecell = (
            None if end is None else scaled(channel, *end)
            for channel, end in zip(pixels, ends, strict=True)
        )
        labels, device = self._backend.segment((nucleus, wholecell))
        counts = {"tiles": 1, "tiles_without_signal": 0}
        arrays = {"labels": labels} if labels.any() else {}
        return BlockResult(arrays, counts, {"device": device})

    def reduce(self, slide: SlideView) -> Arrays:
        """Nothing: the labels are used as they lie."""
        del slide
        return {}


Ends = tuple[float, float] | None


def scaling_ends(found: Arrays, percents: tuple[float, float]) -> tuple[Ends, Ends]:
    """Return the grey levels that become 0 and 1; None for a channel without contrast.

    Parameters
    ----------
    found : mapping
        What the slide_pass of levels concluded.
    percents : (float, float)
        Their percentiles.
    """
    if not found:
        return None, None
    dtype = np.dtype(str(found["dtype"]))
    ends = []
    for counts in found["counts"]:
        low, high = (percentile(counts, percent, dtype) for percent in percents)
        ends.append((low, high) if high > low else None)
    return ends[0], ends[1]


def scaled(channel: Pixels, low: float, high: float) -> Floats:
    """Bring a channel to 0 at one grey level and 1 at another, without clipping."""
    unit = channel.astype(np.float32)
    unit -= np.float32(low)
    unit *= np.float32(1 / (high - low))
    return unit
