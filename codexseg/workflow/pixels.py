"""Pixels of patches, in the intensities that a backend gets."""

import numpy as np

from codexseg.arrays import Pixels
from codexseg.artifacts.slide_statistics import Percentiles, Scalings, SlideStatistics
from codexseg.config.schema import SegmentationConfig
from codexseg.core.grid import Window
from codexseg.core.intensity.histogram import histogram
from codexseg.core.intensity.scaling import IntensityScaling
from codexseg.io.slides.base import SlideImage


def read_pixels(
    slide: SlideImage,
    window: Window,
    statistics: SlideStatistics,
    settings: SegmentationConfig,
) -> Pixels:
    """Read a window of the slide, scaled by percentiles if that is configured.

    Parameters
    ----------
    slide : SlideImage
        The open slide.
    window : Window
        Any window, such as the outer window of a patch.
    statistics : SlideStatistics
        Its channels are read; its scalings apply with normalization "slide".
    settings : SegmentationConfig
        Percentiles and normalization.

    Returns
    -------
    (2, y, x)
        Nucleus and whole cell, in the dtype of the slide or, if scaled, float32.
    """
    pixels = statistics.channels.read(slide, window)
    if statistics.scalings is None or settings.percentiles is None:
        return pixels
    if settings.normalization == "patch":
        return rescale(pixels, patch_scalings(pixels, settings.percentiles))
    return rescale(pixels, statistics.scalings)


def patch_scalings(pixels: Pixels, percentiles: Percentiles) -> Scalings:
    """Return the scalings of an image (2, y, x) by its own percentiles."""
    nucleus, wholecell = (
        IntensityScaling.of(histogram(channel), percentiles, pixels.dtype)
        for channel in pixels
    )
    return nucleus, wholecell


def rescale(pixels: Pixels, scalings: Scalings) -> Pixels:
    """Scale both channels of an image (2, y, x); float32."""
    return np.stack([s.apply(channel) for s, channel in zip(scalings, pixels, strict=True)])
