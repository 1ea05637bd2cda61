"""Cells or nuclei from a semantic U-Net of ``codexseg train``, on slides of any size.

The network tells foreground (Ronneberger et al. 2015); shapes tell objects apart. The
slide is predicted once, in tiles that do not know of patches, by a slide_pass.
"""

from collections.abc import Sequence
from math import ceil
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from codexseg.backends.base import (
    ChannelStatistics,
    Labels,
    Pixels,
    SlideContext,
    SlidePass,
    SlideView,
    enlargement,
)
from codexseg.backends.networks.runtime import Batch, choose_runtime
from codexseg.backends.panoptic.backend import COMPARTMENTS, InMemory, flood
from codexseg.backends.panoptic.image import MAPS, SAME_MPP, Image
from codexseg.backends.unet.network import Limits, UnetPass
from codexseg.backends.unet.postprocessing import flood_constants, margin_px, relief
from codexseg.backends.unet.spec import INPUTS, OUTPUTS, Objects, limits, read_spec
from codexseg.core.grid import Window
from codexseg.core.intensity.background import channel_statistics
from codexseg.core.intensity.resize import Scaling
from codexseg.errors import ConfigError, InputError

VERSION = 1
CONTEXT_PX = 64
"""How far from a cut edge labels may differ, px of the network's image."""
LARGEST_PX = 64
"""Diameter of a large cell, px of the network's image. Larger ones grow the halo."""


class Unet:
    """Objects from the foreground that a U-Net finds.

    Parameters
    ----------
    config
        The segmentation section: model_path, compartment, runtime, device, normalization
        and batch_memory_gb are read.
    slide : SlideContext
        `mpp` scales the image, where the network knows the pixel size it was made for;
        with slide normalisation the statistics set the grey levels.

    Raises
    ------
    ConfigError
        If no network is named, or it cannot give what `compartment` asks for.
    InputError, BackendUnavailable
        If the file is not what is expected, or cannot be run here.
    """

    name: ClassVar[str] = "unet"
    paired: ClassVar[bool] = False

    def __init__(self, config: Any, slide: SlideContext) -> None:
        if config.model_path is None:
            raise ConfigError(
                "segmentation.model_path is missing: the backend 'unet' needs the ONNX "
                "file of a U-Net, which 'codexseg train' makes with preset unet."
            )
        self._config, self._slide = config, slide
        self._weights, self._spec = read_spec(config.model_path)
        self._check_inputs()
        self._outputs = self._check_outputs(config.compartment)
        choose_runtime(self._weights, config.runtime, config.device)
        self._batch = Batch(config.batch_memory_gb)
        self.channels: tuple[str, ...] = self._spec.inputs
        self.mpp: float | None = self._spec.mpp
        per_px = enlargement(slide, self.mpp or slide.mpp)
        self.context_px = ceil(CONTEXT_PX / per_px)
        self.halo_px = ceil((CONTEXT_PX + LARGEST_PX) / per_px)
        self.slide_passes: Sequence[SlidePass] = ()
        if config.normalization == "slide":
            self.slide_passes = (self._slide_pass(slide.shape, self._slide_limits),)

    def _check_inputs(self) -> None:
        path, inputs = self._weights.path, self._spec.inputs
        if not set(inputs) <= set(INPUTS):
            raise InputError(
                f"{path} reads the channels {', '.join(inputs)}, and a slide has only "
                f"{' and '.join(INPUTS)} for a backend: name them so under inputs in the "
                f"recipe, and train again."
            )
        if "wholecell" in inputs and not self._slide.has_wholecell:
            raise ConfigError(
                f"{path} reads a whole-cell channel, and channels.wholecell_channel names "
                f"none: name the markers that it was trained with."
            )

    def _check_outputs(self, compartment: str) -> dict[int, str]:
        """Return which output fills which compartment of the labels."""
        wanted = {c: OUTPUTS[c] for c in COMPARTMENTS[compartment]}
        lacking = set(wanted.values()) - set(self._spec.outputs)
        if lacking:
            (found, *more) = self._spec.outputs
            fits = "both" if more else {"cells": "whole-cell", "nuclei": "nuclear"}[found]
            raise ConfigError(
                f"segmentation.compartment is {compartment!r}, and {self._weights.path} "
                f"finds {found} only: set segmentation.compartment to {fits!r}."
            )
        return wanted

    @property
    def about(self) -> dict[str, str | bool | None]:
        """What the manifest says of the weights."""
        return self._weights.about

    def fingerprint(self) -> str:
        """Name the computation and the weights."""
        return f"unet-{VERSION}-{self._weights.digest[:16]}"

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

        Raises
        ------
        InputError
            With slide normalisation, if the slide's statistics are not known.
        """
        del windows
        labels = np.zeros(patches.shape, np.uint32)
        for patch, found in zip(patches, labels, strict=True):
            if self._config.normalization == "slide":
                levels = self._slide_limits()
            else:
                levels = self._patch_limits(patch)
            slide_pass = self._slide_pass(patch.shape[1:], lambda levels=levels: levels)
            view = InMemory(patch, (slide_pass,))
            found[:] = self.segment_window(Window(0, 0, *view.shape), view)
        return labels

    def segment_window(self, window: Window, slide: SlideView) -> Labels:
        """Segment a window of a surveyed slide.

        Parameters
        ----------
        window : Window
            Of the slide.
        slide : SlideView
            The slide after the slide_pass.

        Returns
        -------
        labels : (2, y, x) uint32
            Cells, nuclei. Those that lie farther than `context_px` from a cut edge of the
            window are those of the whole slide.
        """
        image = self._image(slide.shape)
        labels = np.zeros((2, *window.shape), np.uint32)
        seen = image.scaling.target_window(window)
        for compartment, output in self._outputs.items():
            objects = self._spec.objects_of(output)
            constants = flood_constants(objects)
            depths: Any = _Depths(image, objects)
            flooded = flood(depths, seen, compartment, slide, constants, "raster")
            if flooded is not None:
                labels[compartment] = image.scaling.nearest(
                    *flooded, window, rule="skimage"
                )
        return labels

    def _image(self, shape: tuple[int, int]) -> Image:
        factor = 1.0 if self.mpp is None else self._slide.mpp / self.mpp
        return Image(Scaling.by(shape, 1.0 if abs(factor - 1) < SAME_MPP else factor))

    def _slide_pass(self, shape: tuple[int, int], levels: Any) -> UnetPass:
        names = {output: _interior(c) for c, output in self._outputs.items()}
        device, image = self._config.device, self._image(shape)
        return UnetPass(
            image, self._weights, self._spec, levels, device, self._batch, names
        )

    def _slide_limits(self) -> Limits:
        every = {"nucleus": self._slide.nucleus, "wholecell": self._slide.wholecell}
        found = []
        for name in self._spec.inputs:
            statistics = every[name]
            if statistics is None:
                raise InputError(
                    f"the backend unet with normalization 'slide' needs the slide's "
                    f"statistics of the {name} channel, got None: pass them in "
                    f"SlideContext.{name}, or set segmentation.normalization to 'patch'."
                )
            found.append(limits(statistics, self._spec.scaling))
        return found

    def _patch_limits(self, patch: NDArray[Any]) -> Limits:
        every = dict(zip(INPUTS, patch, strict=True))
        levels = (
            ChannelStatistics(*channel_statistics(every[name]))
            for name in self._spec.inputs
        )
        return [limits(statistics, self._spec.scaling) for statistics in levels]


class _Depths:
    """The two maps that are flooded, any window of them: exact up to its edges."""

    def __init__(self, image: Image, objects: Objects) -> None:
        self._image, self._objects = image, objects
        self.shape = image.shape

    def maps(
        self, window: Window, names: Sequence[str], slide: SlideView
    ) -> NDArray[np.float32] | None:
        """Return (2, y, x), smoothed depth and depth; None where nothing was predicted."""
        seen = window.grow(margin_px(self._objects), self.shape)
        found = self._image.maps(seen, names[1:], slide)
        if found is None:
            return None
        cut = relief(found[0], self._objects)[:, *window.within(seen)]
        return np.ascontiguousarray(cut)


def _interior(compartment: int) -> str:
    """Name the map that tells whether a pixel is inside an object of a compartment."""
    return MAPS[2 * compartment + 1]
