"""Classical backend without weights: nuclei by watershed, cells by expansion."""

from collections.abc import Sequence
from math import ceil
from typing import Any, ClassVar

import numpy as np

from codexseg.arrays import Labels, Pixels
from codexseg.backends.base import ChannelStatistics, SlideContext
from codexseg.core.algorithms.nuclei_watershed import (
    ChannelLevels,
    context_um,
    segment_nuclei,
)
from codexseg.core.grid import Window
from codexseg.core.intensity.background import channel_statistics
from codexseg.core.labels.expand import grow_labels
from codexseg.errors import InputError

VERSION = 1
LARGE_CELL = 3
"""Diameter of a large cell, in nucleus diameters, without the expansion."""


class Watershed:
    """Classical segmentation; see :mod:`codexseg.core.algorithms.nuclei_watershed`.

    Parameters
    ----------
    config
        The segmentation section. Its `normalization` ("slide" or "patch") and `watershed`
        (attributes of :class:`codexseg.core.algorithms.nuclei_watershed.WatershedOptions`)
        are read.
    slide : SlideContext
        `mpp` sets all sizes; with slide normalisation the statistics set the levels.
    """

    name: ClassVar[str] = "watershed"
    mpp: ClassVar[float | None] = None

    def __init__(self, config: Any, slide: SlideContext) -> None:
        self._options = options = config.watershed
        self._slide = slide
        self._per_patch = config.normalization == "patch"
        self.paired = not slide.has_wholecell
        self.channels: tuple[str, ...] = (
            ("nucleus", "wholecell") if slide.has_wholecell else ("nucleus",)
        )
        # 2 px: rounding of filter radii, and the neighbours of a pixel
        self.context_px = ceil(context_um(self._options) / slide.mpp) + 2
        largest = LARGE_CELL * options.nucleus_diameter_um + 2 * options.expansion_um
        self.diameter_um = options.nucleus_diameter_um
        if getattr(config, "compartment", "both") != "nuclear":
            self.diameter_um += 2 * options.expansion_um
        self.halo_px = self.context_px + 2 * ceil(largest / slide.mpp)

    def fingerprint(self) -> str:
        """Return name and version."""
        return f"{self.name}-{VERSION}"

    def predict(self, patches: Pixels, windows: Sequence[Window]) -> Labels:
        """Segment patches of one shape; label i of cells and nuclei is one cell.

        Parameters and result are those of :meth:`codexseg.backends.base.Backend.predict`;
        `windows` are not used.

        Raises
        ------
        InputError
            With slide normalisation, if the statistics of the slide are not known.
        """
        del windows
        labels = np.zeros(patches.shape, np.uint32)
        expansion_px = self._options.expansion_um / self._slide.mpp
        for patch, (cells, nuclei) in zip(patches, labels, strict=True):
            levels, marker_levels = self._levels(patch)
            marker = patch[1] if marker_levels is not None else None
            nuclei[:] = segment_nuclei(
                patch[0], marker, (levels, marker_levels), self._slide.mpp, self._options
            )
            cells[:] = grow_labels(nuclei, expansion_px)
        return labels

    def _levels(self, patch: Pixels) -> tuple[ChannelLevels, ChannelLevels | None]:
        """Return the levels of both channels; None for an unused whole-cell channel."""
        uses_marker = self._slide.has_wholecell and self._options.membrane_weight > 0
        nucleus, wholecell = self._slide.nucleus, self._slide.wholecell
        if self._per_patch:
            nucleus, wholecell = (ChannelStatistics(*channel_statistics(c)) for c in patch)
        return (
            _levels_of(nucleus, "nucleus"),
            _levels_of(wholecell, "wholecell") if uses_marker else None,
        )


def _levels_of(statistics: ChannelStatistics | None, channel: str) -> ChannelLevels:
    if statistics is None:
        raise InputError(
            f"The backend 'watershed' with normalization 'slide' needs the slide's "
            f"statistics of the {channel} channel, got None. Pass them in "
            f"SlideContext.{channel}, or set segmentation.normalization to 'patch'."
        )
    background, p999 = statistics.background, statistics.p999
    return ChannelLevels(
        background, statistics.noise, p999 if p999 > background else statistics.maximum
    )
