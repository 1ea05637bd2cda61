"""Patches in memory: their validation, and the slide that they form together."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from math import isqrt
from typing import Any

import numpy as np

from codexseg.arrays import Float64, Pixels
from codexseg.artifacts.slide_statistics import Scalings
from codexseg.backends.base import Backend, ChannelStatistics, SlideContext, diameter_um
from codexseg.backends.registry import create
from codexseg.config.schema import Config, SegmentationConfig
from codexseg.core.grid import Window
from codexseg.core.intensity.background import ChannelAccumulator
from codexseg.core.intensity.histogram import N_BINS, histogram
from codexseg.core.intensity.scaling import IntensityScaling
from codexseg.errors import ConfigError, InputError
from codexseg.stages.segment.diameter import (
    ASSUMED_MPP,
    MAX_PX,
    MAX_WINDOWS,
    agreed_diameter,
    assumed_mpp_warning,
    diameters_um,
)
from codexseg.workflow.pixels import patch_scalings, rescale

log = logging.getLogger(__name__)


class Patches:
    """Patches of a user, validated and converted to a backend's dtypes one at a time.

    If percentiles are configured, the patches are scaled, too.

    Parameters
    ----------
    patches : (n, y, x, 2) array, or sequence of (y, x, 2) arrays
        Channel 0 nucleus, channel 1 whole cell.
    segmentation : SegmentationConfig
        The section of the configuration.
    """

    def __init__(self, patches: Any, segmentation: SegmentationConfig) -> None:
        if isinstance(patches, np.ndarray) and patches.ndim != 4:
            raise InputError(
                f"The patches have shape {patches.shape}, expected (n, y, x, 2): channel 0 "
                f"nucleus, channel 1 whole cell. Use patches[None] for a single patch."
            )
        self._patches = patches
        self._scalings: Scalings | None = None
        self._percentiles = segmentation.percentiles
        if segmentation.percentiles is not None and segmentation.normalization == "slide":
            self._scalings = self._all_scalings(segmentation.percentiles)

    def __len__(self) -> int:
        return len(self._patches)

    def __iter__(self) -> Iterator[Pixels]:
        for patch in self._checked():
            yield self._scaled(patch)

    def some(self, most: int, most_px: int) -> Iterator[Pixels]:
        """Yield the centres (2, y, x) of at most `most` patches, evenly spread."""
        step, side = max(1, len(self) // most), isqrt(most_px // min(most, len(self)))
        for patch in islice(self, 0, most * step, step):
            y, x = (max(0, (n - side) // 2) for n in patch.shape[:2])
            middle = patch[y : y + side, x : x + side]
            yield np.ascontiguousarray(np.moveaxis(middle, -1, 0))

    def _scaled(self, patch: Pixels) -> Pixels:
        if self._percentiles is None:
            return patch
        pixels = np.moveaxis(patch, -1, 0)
        scalings = self._scalings or patch_scalings(pixels, self._percentiles)
        return np.moveaxis(rescale(pixels, scalings), 0, -1)

    def _all_scalings(self, percentiles: tuple[float, float]) -> Scalings | None:
        """Return the scalings by percentiles of all patches together."""
        counts = np.zeros((2, N_BINS), np.int64)
        dtype = np.dtype(np.uint8)
        for patch in self._checked():
            dtype = patch.dtype
            for channel in range(2):
                counts[channel] += histogram(patch[..., channel])
        nucleus, wholecell = (IntensityScaling.of(c, percentiles, dtype) for c in counts)
        return nucleus, wholecell

    def _checked(self) -> Iterator[Pixels]:
        dtype: np.dtype[Any] | None = None
        for number in range(len(self)):
            patch = _check_intensities(np.asarray(self._patches[number]), f"patch {number}")
            if dtype is not None and patch.dtype != dtype:
                raise InputError(
                    f"patch {number} has dtype {patch.dtype}, the ones before it {dtype}. "
                    f"Convert all patches to one dtype."
                )
            dtype = patch.dtype
            yield patch


def _check_intensities(patch: Pixels, name: str) -> Pixels:
    """Validate a patch (y, x, 2), and convert it to uint8, uint16 or float32."""
    if patch.ndim != 3 or patch.shape[2] != 2 or patch.size == 0:
        raise InputError(
            f"{name} has shape {patch.shape}, expected (y, x, 2): channel 0 nucleus, "
            f"channel 1 whole cell (zeros if there is none)."
        )
    if patch.dtype in (np.uint8, np.uint16):
        return patch
    if patch.dtype.kind not in "iuf":
        raise InputError(f"{name} has dtype {patch.dtype}, expected intensities.")
    lowest, highest = patch.min(), patch.max()
    is_float = patch.dtype.kind == "f"
    if not (lowest >= 0 and (np.isfinite(highest) if is_float else highest <= 65535)):
        raise InputError(
            f"{name} has intensities from {lowest} to {highest}, expected finite ones of "
            f"at least 0, and integers up to 65535. Clip them, or convert larger integers "
            f"with .astype(numpy.float32)."
        )
    return patch.astype(np.float32 if is_float else np.uint16, copy=False)


def slide_of_patches(patches: Patches, mpp: float) -> SlideContext:
    """Return the slide that the patches form, one below the other."""
    nucleus, wholecell = ChannelAccumulator(), ChannelAccumulator()
    height = width = 0
    for patch in patches:
        nucleus.add(patch[..., 0])
        wholecell.add(patch[..., 1])
        height, width = height + patch.shape[0], max(width, patch.shape[1])
    second = ChannelStatistics(*wholecell.levels())
    has_wholecell = second.maximum > 0
    return SlideContext(
        (height, width),
        mpp,
        ChannelStatistics(*nucleus.levels()),
        second if has_wholecell else None,
        has_wholecell,
    )


# -- scale -------------------------------------------------------------------------------


def pixel_size(settings: Config) -> float:
    """Return the configured pixel size, um.

    Raises
    ------
    ConfigError
        If it is missing, and the diameter is not `auto`.
    """
    if settings.data.image_mpp is not None:
        return settings.data.image_mpp
    if settings.segmentation.diameter == "auto":
        assumed_mpp_warning("arrays").log()
        return ASSUMED_MPP
    raise ConfigError(
        "data.image_mpp is missing, and arrays have no pixel size. Pass micrometres per "
        "pixel, for example segment(patches, config, image_mpp=0.5)."
    )


def scaled_backend(
    segmentation: SegmentationConfig, slide: SlideContext, patches: Patches
) -> Backend:
    """Make the backend for the configured scale.

    Parameters
    ----------
    segmentation : SegmentationConfig
        With diameter "auto", the cells of some patches are measured.
    slide : SlideContext
        The slide at its real pixel size.
    patches : Patches
        The patches.

    Raises
    ------
    ConfigError
        If `diameter` is set, and the backend does not declare the size of its cells.
    """
    backend, wanted = create(segmentation, slide), segmentation.diameter
    if wanted is None:
        return backend
    typical = diameter_um(backend)

    def made_for(diameter: float) -> Backend:
        return create(segmentation, replace(slide, mpp=slide.mpp * typical / diameter))

    if wanted != "auto":
        return made_for(wanted)
    looked_at = list(patches.some(MAX_WINDOWS, MAX_PX))

    def measure(diameter: float, number: int) -> list[Float64]:
        del number
        backend = made_for(diameter)
        return [
            diameters_um(
                backend,
                pixels,
                Window(0, 0, *pixels.shape[1:]),
                slide.mpp,
                compartment=segmentation.compartment,
            )
            for pixels in looked_at
        ]

    found, _ = agreed_diameter(measure, typical, slide.mpp)
    return made_for(found or typical)
