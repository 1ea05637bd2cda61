"""Passes over the slide before its patches are segmented, and their run in memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from codexseg.arrays import Mask, Pixels
from codexseg.core.grid import Window
from codexseg.core.intensity.background import has_signal

Arrays = Mapping[str, NDArray[Any]]
"""Arrays of any shapes, by name."""


class SlideView(Protocol):
    """The slide and the results of slide passes, as a worker reads them.

    Attributes
    ----------
    shape : (int, int)
        Height and width, px.
    bounds : (float, float)
        Lowest and highest intensity of both segmentation channels.
    """

    shape: tuple[int, int]
    bounds: tuple[float, float]

    def read(self, window: Window) -> Pixels:
        """Read (2, y, x): nucleus, whole cell (zeros if there is none)."""

    def has_signal(self, window: Window) -> bool:
        """Return whether any signal block under the window contains signal."""

    def block_result(self, slide_pass: str, block: int) -> Arrays:
        """Return the arrays that a slide pass stored for a block; may be empty.

        An array is read on access; large ones are memory-mapped.
        """

    def summary(self, slide_pass: str) -> Arrays:
        """Return the summary of a slide pass, reduced over all blocks."""


@dataclass(frozen=True)
class BlockResult:
    """Result of a slide pass in one block.

    Attributes
    ----------
    arrays : mapping
        Stored until all patches are segmented.
    counts : mapping
        Added up over all blocks in the summary of the segment stage.
    notes : mapping
        Listed in that summary.
    """

    arrays: Arrays
    counts: Mapping[str, int] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)


class SlidePass(Protocol):
    """A map-reduce pass over the slide before its patches are segmented.

    Blocks are mapped in any order and by any worker.

    Attributes
    ----------
    name : str
        One word; part of the names of its files.
    unit : str
        Name of a block in the progress bar.
    """

    name: str
    unit: str

    def n_blocks(self, slide: SlideView) -> int:
        """Count the blocks, numbered from 0; 0 skips the pass."""

    def map_block(self, block: int, slide: SlideView) -> BlockResult:
        """Compute the result of one block."""

    def reduce(self, slide: SlideView) -> Arrays:
        """Reduce the results of all blocks to a small summary."""


class InMemory:
    """An image in memory as a slide, with the results of its slide passes.

    Parameters
    ----------
    pixels : (2, y, x) uint8, uint16 or float32
        Nucleus, whole cell.
    slide_passes : sequence of SlidePass
        Executed on construction, in order.
    signal : (y, x) bool, optional
        Which blocks of 64 px hold signal; by default all.
    bounds : (float, float), optional
        Lowest and highest intensity; by default those of `pixels`.
    """

    def __init__(
        self,
        pixels: Pixels,
        slide_passes: Sequence[SlidePass] = (),
        *,
        signal: Mask | None = None,
        bounds: tuple[float, float] | None = None,
    ) -> None:
        self._pixels, self._signal = pixels, signal
        self._block_results: dict[tuple[str, int], Arrays] = {}
        self._summaries: dict[str, Arrays] = {}
        self.shape = cast("tuple[int, int]", pixels.shape[1:])
        self.bounds = bounds or (float(pixels.min()), float(pixels.max()))
        for slide_pass in slide_passes:
            self.execute(slide_pass)

    def execute(self, slide_pass: SlidePass) -> None:
        """Execute a slide pass and keep its results."""
        name = slide_pass.name
        for block in range(slide_pass.n_blocks(self)):
            self._block_results[name, block] = slide_pass.map_block(block, self).arrays
        self._summaries[name] = slide_pass.reduce(self)

    def read(self, window: Window) -> Pixels:
        """Return the pixels of a window."""
        return np.asarray(self._pixels[:, *window.slices])

    def has_signal(self, window: Window) -> bool:
        """Return whether any block under the window holds signal."""
        return self._signal is None or has_signal(self._signal, window)

    def block_result(self, slide_pass: str, block: int) -> Arrays:
        """Return the arrays of a block."""
        return self._block_results[slide_pass, block]

    def summary(self, slide_pass: str) -> Arrays:
        """Return the summary of a slide pass."""
        return self._summaries[slide_pass]
