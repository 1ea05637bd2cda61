"""Mesmer's computation for every network with its contract, on slides of any size.

Greenwald et al., Whole-cell segmentation of tissue images with human-level performance
using large-scale data annotation and deep learning, Nature Biotechnology 40, 2022. Steps
and parameters are those of `deepcell.applications.Mesmer` 0.12.10. Slide passes gather the
statistics of the whole image, so that it need not fit into memory.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np

from codexseg.arrays import Float32, Labels
from codexseg.backends.base import CELL_UM, NUCLEUS_UM, SlideContext
from codexseg.backends.network_backend import NetworkBackend
from codexseg.backends.networks.contract import NETWORK_MPP
from codexseg.backends.networks.runtime import Batch, choose_runtime, open_network
from codexseg.backends.networks.weights import EMBEDDED, Weights, resolve_weights
from codexseg.backends.panoptic.image import MAPS
from codexseg.backends.panoptic.parameters import PostprocessingParams, params_of
from codexseg.backends.panoptic.passes import (
    CapPass,
    ContrastPass,
    LevelPass,
    RangePass,
    TilesPass,
)
from codexseg.backends.panoptic.postprocessing import postprocess
from codexseg.backends.slide_pass import InMemory, SlidePass, SlideView
from codexseg.core.algorithms.deep_watershed import deep_watershed
from codexseg.core.algorithms.flood import Ties
from codexseg.core.grid import Window
from codexseg.errors import ConfigError

log = logging.getLogger(__name__)

VERSION = 1
CONTEXT_PX = 64
"""Distance from a cut edge within which labels may differ, px of the network's image."""
LARGE_CELL_PX = 64
"""Diameter of a large cell, px of the network's image. Larger ones grow the halo."""
MAX_PX = 4096**2
"""Maximum size of a grown window, unless twice its own size is more, px."""

COMPARTMENTS = {"both": (0, 1), "whole-cell": (0,), "nuclear": (1,)}


class Panoptic(NetworkBackend):
    """Cells and nuclei from a network with Mesmer's contract.

    Parameters
    ----------
    config
        The segmentation section. Model_path, compartment, runtime, device, normalization
        and batch_memory_gb are read.
    slide : SlideContext
        `mpp` and `shape` set the image of 0.5 um per px that the network sees.

    Raises
    ------
    ConfigError
        If weights are missing, or are given to a backend that takes none.
    InputError, BackendUnavailable
        If the weights break the contract, or cannot be run on this machine.
    """

    name: ClassVar[str] = "panoptic"
    mpp: float | None = NETWORK_MPP
    channels: ClassVar[tuple[str, ...]] = ("nucleus", "wholecell")
    paired: ClassVar[bool] = False
    diameter_um: float = CELL_UM

    def __init__(self, config: Any, slide: SlideContext) -> None:
        super().__init__(config, slide)
        self._weights = self._find_weights(config)
        self._params = params_of(self._weights)
        choose_runtime(self._weights, config.runtime, config.device)
        self._batch = Batch(config.batch_memory_gb)
        if config.compartment == "nuclear":
            self.diameter_um = NUCLEUS_UM
        self._set_margins(CONTEXT_PX, LARGE_CELL_PX)
        if config.normalization == "slide":
            self.slide_passes = self._slide_passes(slide.shape)

    def _find_weights(self, config: Any) -> Weights:
        if config.model_path is None:
            raise ConfigError(
                "segmentation.model_path is missing. The backend 'panoptic' needs a "
                "network with Mesmer's contract: a SavedModel folder or an ONNX file. Set "
                "it, or use the backend 'mesmer' for Mesmer itself."
            )
        return resolve_weights(config.model_path)

    def fingerprint(self) -> str:
        """Return a name of the computation and the weights, converted or not."""
        return f"panoptic-{VERSION}-{self._weights.digest[:16]}"

    def segment_window(self, window: Window, slide: SlideView) -> Labels:
        """Segment a window of a slide after the slide passes."""
        return self._segment(window, slide, "raster")

    def _segment_alone(self, image: InMemory) -> Labels:
        # ties as in deepcell: there are no windows to join
        return self._segment(Window(0, 0, *image.shape), image, "heap")

    def _segment(self, window: Window, slide: SlideView, ties: Ties) -> Labels:
        compartments = COMPARTMENTS[self._config.compartment]
        image = self._image(slide.shape)
        is_pair = len(compartments) == 2
        rule: Literal["skimage", "opencv"] = "skimage" if is_pair else "opencv"  # deepcell
        labels = np.zeros((2, *window.shape), np.uint32)
        target = image.scaling.target_window(window)
        for compartment in compartments:
            names = MAPS[2 * compartment : 2 * compartment + 2]
            read = partial(image.maps, names=names, slide=slide)
            params = self._params[compartment]
            flooded = segment_maps(read, image.shape, target, params, ties)
            if flooded is not None:
                labels[compartment] = image.scaling.nearest(*flooded, window, rule=rule)
        return labels

    def _slide_passes(self, shape: tuple[int, int]) -> Sequence[SlidePass]:
        config, image = self._config, self._image(shape)
        compartments = COMPARTMENTS[config.compartment]
        kept = [(n, MAPS[n]) for c in compartments for n in (2 * c, 2 * c + 1)]
        load = partial(open_network, self._weights, config.runtime, config.device)
        tiles = TilesPass(image, self._batch, kept, load, image.preprocessed)
        before = (LevelPass, CapPass, ContrastPass, RangePass)
        return *(slide_pass(image) for slide_pass in before), tiles


def segment_maps(
    read: Callable[[Window], Float32 | None],
    shape: tuple[int, int],
    window: Window,
    params: PostprocessingParams,
    ties: Ties,
) -> tuple[Labels, Window] | None:
    """Segment a compartment in a window of the network's image.

    The window grows until every peak farther than the context from its edges ends before
    a cut edge.

    Parameters
    ----------
    read : callable
        Reads the maps of a window, (2, y, x): distance and interior of the compartment.
        None: no tile was predicted.
    shape : (int, int)
        Height and width of the network's image, px.
    window : Window
        Window of the image, px.
    params : PostprocessingParams
    ties : {"raster", "heap"}
        Argument of :func:`codexseg.core.algorithms.deep_watershed.deep_watershed`.

    Returns
    -------
    (labels, window), or None if no tile was predicted
        Labels (y, x) uint32 of the grown window.
    """
    grown, growth = window, CONTEXT_PX
    while (maps := read(grown)) is not None:
        cut = _cut_edges(grown, shape)
        labels, unverified = deep_watershed(
            *maps, **params.watershed_kwargs, ties=ties, cut=cut
        )
        labels = postprocess(labels, (maps[0], maps[1]), params)
        del maps
        growth *= 2
        wider = grown.grow(growth, shape)
        inner = _without_context(window, shape)
        if inner is None or not unverified[inner.within(grown)].any():
            return labels, grown
        if wider.area > max(MAX_PX, 2 * window.area):
            log.warning(
                "The extent of a peak of the network's map in %s is not known even in a "
                "window of %d Mpx. Objects there may depend on the patches.",
                window,
                grown.area // 1_000_000,
            )
            return labels, grown
        grown = wider
    return None


def _cut_edges(window: Window, shape: tuple[int, int]) -> tuple[bool, bool, bool, bool]:
    """Return whether the image continues beyond the top, left, bottom and right edge."""
    return window.y0 > 0, window.x0 > 0, window.y1 < shape[0], window.x1 < shape[1]


def _without_context(window: Window, shape: tuple[int, int]) -> Window | None:
    """Return the part of a window outside the context of its cut edges."""
    top, left, bottom, right = (CONTEXT_PX * cut for cut in _cut_edges(window, shape))
    inner = Window(window.y0 + top, window.x0 + left, window.y1 - bottom, window.x1 - right)
    return inner.intersection(window)


class Mesmer(Panoptic):
    """DeepCell's Mesmer: the published weights, or those of `model_path`."""

    name: ClassVar[str] = "mesmer"

    def _find_weights(self, config: Any) -> Weights:
        return resolve_weights(config.model_path)


class Embedded(Panoptic):
    """The network that is part of the package, described in ``codexseg/models/CARD.md``."""

    name: ClassVar[str] = "embedded"

    def _find_weights(self, config: Any) -> Weights:
        if config.model_path is not None:
            raise ConfigError(
                f"segmentation.model_path is {config.model_path}, and the backend "
                f"'embedded' has its own weights. Remove it, or set segmentation.backend "
                f"to the backend of these weights: 'mesmer', or 'panoptic' for networks of "
                f"'codexseg train'."
            )
        return resolve_weights(EMBEDDED)
