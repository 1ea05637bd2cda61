"""Cells or nuclei from a semantic U-Net of ``codexseg train``, on slides of any size.

The network predicts foreground (Ronneberger et al. 2015), and the shape of the foreground
separates objects. A slide pass predicts the slide once, in a fixed tile grid.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np

from codexseg.arrays import Float32, Labels, Pixels
from codexseg.backends.base import ChannelStatistics, SlideContext
from codexseg.backends.network_backend import NetworkBackend
from codexseg.backends.networks.runtime import Batch, choose_runtime
from codexseg.backends.panoptic.backend import (
    COMPARTMENTS,
    CONTEXT_PX,
    LARGE_CELL_PX,
    segment_maps,
)
from codexseg.backends.panoptic.image import MAPS, Image
from codexseg.backends.panoptic.passes import TilesPass
from codexseg.backends.slide_pass import SlidePass, SlideView
from codexseg.backends.unet.network import open_unet
from codexseg.backends.unet.postprocessing import depth_map, depth_params, margin_px
from codexseg.backends.unet.spec import (
    INPUTS,
    OUTPUTS,
    ObjectParams,
    limits,
    read_spec,
    scale_to_unit,
)
from codexseg.core.grid import Window
from codexseg.core.intensity.background import channel_statistics
from codexseg.errors import ConfigError, InputError

VERSION = 1

Limits = Sequence[tuple[float, float]]


class Unet(NetworkBackend):
    """Objects from the foreground of a U-Net.

    Parameters
    ----------
    config
        The segmentation section. Model_path, compartment, runtime, device, normalization
        and batch_memory_gb are read.
    slide : SlideContext
        `mpp` scales the image, if the network has a pixel size; with slide normalisation
        the statistics set the intensities that become 0 and 1.

    Raises
    ------
    ConfigError
        If the network is missing, or lacks an output for `compartment`.
    InputError, BackendUnavailable
        If the file is not a U-Net of ``codexseg train``, or cannot be run on this machine.
    """

    name: ClassVar[str] = "unet"
    paired: ClassVar[bool] = False

    def __init__(self, config: Any, slide: SlideContext) -> None:
        super().__init__(config, slide)
        if config.model_path is None:
            raise ConfigError(
                "segmentation.model_path is missing. The backend 'unet' needs the ONNX "
                "file of a U-Net. Train one with 'codexseg train', preset unet."
            )
        self._weights, self._spec = read_spec(config.model_path)
        self._check_inputs()
        self._outputs = self._check_outputs(config.compartment)
        choose_runtime(self._weights, config.runtime, config.device)
        self._batch = Batch(config.batch_memory_gb)
        self.channels: tuple[str, ...] = self._spec.inputs
        self.mpp = self._spec.mpp
        self._set_margins(CONTEXT_PX, LARGE_CELL_PX)
        if config.normalization == "slide":
            self.slide_passes = self._slide_passes(slide.shape)

    def _check_inputs(self) -> None:
        path, inputs = self._weights.path, self._spec.inputs
        if not set(inputs) <= set(INPUTS):
            raise InputError(
                f"{path} reads the channels {', '.join(inputs)}, and a slide has only "
                f"{' and '.join(INPUTS)} for a backend. Use these names under inputs in "
                f"the recipe, and train again."
            )
        if "wholecell" in inputs and not self._slide.has_wholecell:
            raise ConfigError(
                f"{path} reads a whole-cell channel, and channels.wholecell_channel is "
                f"empty. Name the markers that it was trained with."
            )

    def _check_outputs(self, compartment: str) -> dict[int, str]:
        """Return the output of each compartment that is segmented."""
        wanted = {c: OUTPUTS[c] for c in COMPARTMENTS[compartment]}
        lacking = set(wanted.values()) - set(self._spec.outputs)
        if lacking:
            (output, *more) = self._spec.outputs
            fits = "both" if more else {"cells": "whole-cell", "nuclei": "nuclear"}[output]
            raise ConfigError(
                f"segmentation.compartment is {compartment!r}, and {self._weights.path} "
                f"segments {output} only. Set segmentation.compartment to {fits!r}."
            )
        return wanted

    def fingerprint(self) -> str:
        """Return a name of the computation and the weights."""
        return f"unet-{VERSION}-{self._weights.digest[:16]}"

    def segment_window(self, window: Window, slide: SlideView) -> Labels:
        """Segment a window of a slide after the slide pass."""
        image = self._image(slide.shape)
        labels = np.zeros((2, *window.shape), np.uint32)
        target = image.scaling.target_window(window)
        for compartment, output in self._outputs.items():
            objects = self._spec.objects_of(output)
            read = partial(_read_depths, image, MAPS[2 * compartment + 1], objects, slide)
            params = depth_params(objects)
            flooded = segment_maps(read, image.shape, target, params, "raster")
            if flooded is not None:
                plane = image.scaling.nearest(*flooded, window, rule="skimage")
                labels[compartment] = plane
        return labels

    def _slide_passes(self, shape: tuple[int, int]) -> Sequence[SlidePass]:
        return (self._slide_pass(shape, self._slide_limits),)

    def _passes_over(self, pixels: Pixels) -> Sequence[SlidePass]:
        is_slide = self._config.normalization == "slide"
        levels = self._slide_limits() if is_slide else self._patch_limits(pixels)
        height, width = pixels.shape[1:]
        return (self._slide_pass((height, width), lambda: levels),)

    def _slide_pass(
        self, shape: tuple[int, int], levels: Callable[[], Limits]
    ) -> TilesPass:
        """Return the pass over the foreground probabilities.

        The receptive field of a deep U-Net is wider than the overlap of tiles. The border
        affects a tile as in training, where images have the height of tiles, and its
        effect fades out where tiles blend.
        """
        image, spec = self._image(shape), self._spec

        def read(window: Window, slide: SlideView) -> Float32:
            channels = dict(zip(INPUTS, image.read(window, slide), strict=True))
            ends = zip(spec.inputs, levels(), strict=True)
            return np.stack([scale_to_unit(channels[name], *end) for name, end in ends])

        kept = [
            (spec.outputs.index(output), MAPS[2 * compartment + 1])
            for compartment, output in self._outputs.items()
        ]
        load = partial(open_unet, self._weights, spec.outputs, self._config.device)
        return TilesPass(image, self._batch, kept, load, read)

    def _slide_limits(self) -> Limits:
        channels = {"nucleus": self._slide.nucleus, "wholecell": self._slide.wholecell}
        levels = []
        for name in self._spec.inputs:
            statistics = channels[name]
            if statistics is None:
                raise InputError(
                    f"The backend 'unet' with normalization 'slide' needs the slide's "
                    f"statistics of the {name} channel, got None. Pass them in "
                    f"SlideContext.{name}, or set segmentation.normalization to 'patch'."
                )
            levels.append(limits(statistics, self._spec.scaling))
        return levels

    def _patch_limits(self, patch: Pixels) -> Limits:
        channels = (patch[INPUTS.index(name)] for name in self._spec.inputs)
        levels = (ChannelStatistics(*channel_statistics(channel)) for channel in channels)
        return [limits(statistics, self._spec.scaling) for statistics in levels]


def _read_depths(
    image: Image, name: str, objects: ObjectParams, slide: SlideView, window: Window
) -> Float32 | None:
    """Return the depth maps (2, y, x) of a window, exact up to its edges."""
    grown = window.grow(margin_px(objects), image.shape)
    maps = image.maps(grown, [name], slide)
    if maps is None:
        return None
    return np.ascontiguousarray(depth_map(maps[0], objects)[:, *window.within(grown)])
