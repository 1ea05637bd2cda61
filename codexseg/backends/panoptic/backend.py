"""Mesmer's computation for every network with its contract, on slides of any size.

Greenwald et al., Whole-cell segmentation of tissue images with human-level performance
using large-scale data annotation and deep learning, Nature Biotechnology 40, 2022. The
steps and their constants are those of `deepcell.applications.Mesmer` 0.12.10. What it
takes from the whole image is gathered by slide passes, so that the image need not fit
in memory; an image that does is a slide of its own.
"""

import logging
from collections.abc import Sequence
from math import ceil
from typing import Any, ClassVar, Literal, cast

import numpy as np
from numpy.typing import NDArray

from codexseg.backends.base import (
    CELL_UM,
    NUCLEUS_UM,
    Arrays,
    Labels,
    Pixels,
    SlideContext,
    SlidePass,
    SlideView,
    enlargement,
)
from codexseg.backends.networks.contract import NETWORK_MPP
from codexseg.backends.networks.runtime import Batch, choose_runtime
from codexseg.backends.networks.weights import EMBEDDED, Weights, resolve
from codexseg.backends.panoptic.image import MAPS, Image
from codexseg.backends.panoptic.parameters import Constants, constants_of
from codexseg.backends.panoptic.passes import slide_passes
from codexseg.backends.panoptic.postprocessing import finished
from codexseg.core.algorithms.deep_watershed import deep_watershed
from codexseg.core.algorithms.flood import Ties
from codexseg.core.grid import Window
from codexseg.errors import ConfigError

log = logging.getLogger(__name__)

VERSION = 1
CONTEXT_PX = 64
"""How far from a cut edge labels may differ, px of the network's image."""
LARGEST_PX = 64
"""Diameter of a large cell, px of the network's image: 32 um. Larger ones grow the halo."""
MOST_PX = 4096**2
"""A window grows up to this many pixels, or twice its own, to prove a peak."""

COMPARTMENTS = {"both": (0, 1), "whole-cell": (0,), "nuclear": (1,)}


class Panoptic:
    """Cells and nuclei from a network with Mesmer's contract.

    Parameters
    ----------
    config
        The segmentation section: model_path, compartment, runtime, device, normalization
        and batch_memory_gb are read.
    slide : SlideContext
        `mpp` and `shape` set the image of 0.5 um per px that the network sees.

    Raises
    ------
    ConfigError
        If no weights are named.
    InputError, BackendUnavailable
        If the weights are not what is expected, or cannot be run here.
    """

    name: ClassVar[str] = "panoptic"
    mpp: ClassVar[float | None] = NETWORK_MPP
    channels: ClassVar[tuple[str, ...]] = ("nucleus", "wholecell")
    paired: ClassVar[bool] = False
    diameter_um: float = CELL_UM

    def __init__(self, config: Any, slide: SlideContext) -> None:
        self._config, self._slide = config, slide
        self._weights = self._find_weights(config)
        self._constants = constants_of(self._weights)
        choose_runtime(self._weights, config.runtime, config.device)
        self._batch = Batch(config.batch_memory_gb)
        if config.compartment == "nuclear":
            self.diameter_um = NUCLEUS_UM
        per_px = enlargement(slide, NETWORK_MPP)
        self.context_px = ceil(CONTEXT_PX / per_px)
        self.halo_px = ceil((CONTEXT_PX + LARGEST_PX) / per_px)
        self.slide_passes: Sequence[SlidePass] = ()
        if config.normalization == "slide":
            self.slide_passes = self._slide_passes(slide.shape)

    def _find_weights(self, config: Any) -> Weights:
        if config.model_path is None:
            raise ConfigError(
                "segmentation.model_path is missing: the backend 'panoptic' needs the "
                "weights of a network with Mesmer's contract, a SavedModel folder or an "
                "ONNX file. For Mesmer itself use the backend 'mesmer'."
            )
        return resolve(config.model_path)

    @property
    def about(self) -> dict[str, str | bool | None]:
        """What the manifest says of the weights."""
        return self._weights.about

    def fingerprint(self) -> str:
        """Name the computation and the weights; converted weights count as the same."""
        return f"panoptic-{VERSION}-{self._weights.digest[:16]}"

    def predict(self, patches: Pixels, windows: Sequence[Window]) -> Labels:
        """Segment each patch as an image of its own, as `Mesmer.predict` would.

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
            whole = Window(0, 0, *patch.shape[1:])
            found[:] = self._label(whole, view, "heap")  # as deepcell: nothing to join
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
            Cells, nuclei. Those that lie farther than `context_px` from a cut edge of the
            window are those of the whole slide.
        """
        return self._label(window, slide, "raster")

    def _label(self, window: Window, slide: SlideView, ties: Ties) -> Labels:
        compartments = COMPARTMENTS[self._config.compartment]
        image = Image.of(slide.shape, self._slide.mpp)
        both = len(compartments) == 2
        rule: Literal["skimage", "opencv"] = "skimage" if both else "opencv"  # as deepcell
        labels = np.zeros((2, *window.shape), np.uint32)
        seen = image.scaling.target_window(window)
        for compartment in compartments:
            constants = self._constants[compartment]
            flooded = flood(image, seen, compartment, slide, constants, ties)
            if flooded is not None:
                labels[compartment] = image.scaling.nearest(*flooded, window, rule=rule)
        return labels

    def _slide_passes(self, shape: tuple[int, int]) -> Sequence[SlidePass]:
        config = self._config
        return slide_passes(
            Image.of(shape, self._slide.mpp),
            self._weights,
            config.runtime,
            config.device,
            self._batch,
            [n for c in COMPARTMENTS[config.compartment] for n in MAPS[2 * c : 2 * c + 2]],
        )


def flood(
    image: Image,
    window: Window,
    compartment: int,
    slide: SlideView,
    constants: Constants,
    ties: Ties,
) -> tuple[Labels, Window] | None:
    """Flood a window of the network's image; return the labels and what they cover.

    A peak is proven where its surroundings end before a cut edge. While one is in doubt
    farther than the context from the edges, the window grows. None: nothing is there.
    """
    names, seen = MAPS[2 * compartment : 2 * compartment + 2], window
    growth = CONTEXT_PX
    while (maps := image.maps(seen, names, slide)) is not None:
        cut = _cut_edges(seen, image.shape)
        labels, doubtful = deep_watershed(
            *maps, **constants.watershed_kwargs, ties=ties, cut=cut
        )
        labels = finished(labels, (maps[0], maps[1]), constants)
        del maps
        growth *= 2
        wider = seen.grow(growth, image.shape)
        inner = _without_context(window, image.shape)
        if inner is None or not doubtful[inner.within(seen)].any():
            return labels, seen
        if wider.area > max(MOST_PX, 2 * window.area):
            log.warning(
                "a peak of the network's map is in doubt in %s, however far one looks: "
                "objects there may depend on where patches lie",
                window,
            )
            return labels, seen
        seen = wider
    return None


def _cut_edges(window: Window, shape: tuple[int, int]) -> tuple[bool, bool, bool, bool]:
    """Say at which edges (top, left, bottom, right) an image goes on behind a window."""
    return window.y0 > 0, window.x0 > 0, window.y1 < shape[0], window.x1 < shape[1]


def _without_context(window: Window, shape: tuple[int, int]) -> Window | None:
    """Leave out what lies within the context of a cut edge."""
    top, left, bottom, right = (CONTEXT_PX * cut for cut in _cut_edges(window, shape))
    y0, x0 = window.y0 + top, window.x0 + left
    y1, x1 = window.y1 - bottom, window.x1 - right
    return Window(y0, x0, y1, x1) if y0 < y1 and x0 < x1 else None


class Mesmer(Panoptic):
    """DeepCell's Mesmer: the published weights, or those that `model_path` names."""

    name: ClassVar[str] = "mesmer"

    def _find_weights(self, config: Any) -> Weights:
        return resolve(config.model_path)


class Embedded(Panoptic):
    """The network that ships in the package: see ``codexseg/models/CARD.md``."""

    name: ClassVar[str] = "embedded"

    def _find_weights(self, config: Any) -> Weights:
        if config.model_path is not None:
            raise ConfigError(
                f"segmentation.model_path is {config.model_path}, expected none: the "
                f"backend 'embedded' has its own weights. Leave it out, or name the "
                f"backend that these are for: segmentation.backend 'mesmer', or 'panoptic' "
                f"for those of 'codexseg train'."
            )
        return resolve(EMBEDDED)


class InMemory:
    """An image in memory as a slide of its own, and what slide_passes found of it.

    Parameters
    ----------
    pixels : (2, y, x) uint8, uint16 or float32
        Nucleus, whole cell.
    slide_passes : sequence of SlidePass
        Are done at once.
    """

    def __init__(self, pixels: Pixels, slide_passes: Sequence[SlidePass] = ()) -> None:
        self._pixels = pixels
        self._found: dict[tuple[str, int], Arrays] = {}
        self._concluded: dict[str, Arrays] = {}
        self.shape = cast("tuple[int, int]", pixels.shape[1:])
        self.bounds = float(pixels.min()), float(pixels.max())
        for slide_pass in slide_passes:
            self.keep(slide_pass)

    def keep(self, slide_pass: SlidePass) -> None:
        """Do a slide_pass, and keep what it finds."""
        for piece in range(slide_pass.n_blocks(self)):
            self._found[slide_pass.name, piece] = slide_pass.map_block(piece, self).arrays
        self._concluded[slide_pass.name] = slide_pass.reduce(self)

    def read(self, window: Window) -> NDArray[Any]:
        """Return the pixels of a window."""
        return np.asarray(self._pixels[:, *window.slices])

    def has_signal(self, window: Window) -> bool:
        """Take everything for signal."""
        del window
        return True

    def block_result(self, slide_pass: str, piece: int) -> Arrays:
        """Return what a slide_pass found in a piece."""
        return self._found[slide_pass, piece]

    def summary(self, slide_pass: str) -> Arrays:
        """Return what a slide_pass concluded."""
        return self._concluded[slide_pass]
