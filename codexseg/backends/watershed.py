"""The classical backend: nuclei by a local watershed, cells by growth. No weights."""

from collections.abc import Sequence
from math import ceil
from typing import Any, ClassVar

import numpy as np

from codexseg.backends.base import ChannelStatistics, Labels, Pixels, SlideContext
from codexseg.core.algorithms.nuclei_watershed import Levels, context_um, segment_nuclei
from codexseg.core.grid import Window
from codexseg.core.intensity.background import channel_statistics
from codexseg.core.labels.expand import grow_labels
from codexseg.errors import InputError

VERSION = 1
LARGEST_CELL = 3  # in diameters of a typical nucleus, plus the growth


class Watershed:
    """Classical segmentation; see :mod:`codexseg.core.algorithms.nuclei_watershed`.

    Parameters
    ----------
    config
        The segmentation section: `normalization` ("slide" or "patch") and `watershed`
        (attributes of :class:`codexseg.core.algorithms.nuclei_watershed.WatershedOptions`)
        are read.
    slide : SlideContext
        `mpp` sets all sizes; with slide normalisation its statistics set the levels.
    """

    name: ClassVar[str] = "watershed"
    mpp: ClassVar[float | None] = None

    def __init__(self, config: Any, slide: SlideContext) -> None:
        self._options = config.watershed
        self._slide = slide
        self._per_patch = config.normalization == "patch"
        self.paired = not slide.has_wholecell
        self.channels: tuple[str, ...] = (
            ("nucleus", "wholecell") if slide.has_wholecell else ("nucleus",)
        )
        # 2 px: rounding of filter radii, and the neighbours that a pixel looks at
        self.context_px = ceil(context_um(self._options) / slide.mpp) + 2
        options = self._options
        largest = LARGEST_CELL * options.nucleus_diameter_um + 2 * options.expansion_um
        self.diameter_um = options.nucleus_diameter_um
        if getattr(config, "compartment", "both") != "nuclear":
            self.diameter_um += 2 * options.expansion_um
        self.halo_px = self.context_px + 2 * ceil(largest / slide.mpp)

    def fingerprint(self) -> str:
        """Name and version: there are no weights."""
        return f"{self.name}-{VERSION}"

    def predict(self, patches: Pixels, windows: Sequence[Window]) -> Labels:
        """Segment patches of one shape; label i of cells and nuclei is one cell.

        Parameters
        ----------
        patches : (n, 2, y, x) uint8, uint16 or float32
            Channel 0 nucleus, channel 1 whole cell (zeros where there is none).
        windows : sequence of n windows
            Not needed: nothing depends on where a patch lies.

        Returns
        -------
        labels : (n, 2, y, x) uint32
            Compartment 0 cells, 1 nuclei.

        Raises
        ------
        InputError
            With slide normalisation, if the slide's statistics are not known.
        """
        labels = np.zeros(patches.shape, np.uint32)
        growth = self._options.expansion_um / self._slide.mpp
        for patch, (cells, nuclei) in zip(patches, labels, strict=True):
            levels, marker_levels = self._levels(patch)
            marker = patch[1] if marker_levels is not None else None
            nuclei[:] = segment_nuclei(
                patch[0], marker, (levels, marker_levels), self._slide.mpp, self._options
            )
            cells[:] = grow_labels(nuclei, growth)
        return labels

    def _levels(self, patch: Pixels) -> tuple[Levels, Levels | None]:
        """Grey levels of both channels; None for a whole-cell channel without use."""
        marker = self._slide.has_wholecell and self._options.membrane_weight > 0
        nucleus, wholecell = self._slide.nucleus, self._slide.wholecell
        if self._per_patch:
            nucleus, wholecell = (ChannelStatistics(*channel_statistics(c)) for c in patch)
        return (
            _levels_of(nucleus, "nucleus"),
            _levels_of(wholecell, "wholecell") if marker else None,
        )


def _levels_of(statistics: ChannelStatistics | None, channel: str) -> Levels:
    if statistics is None:
        raise InputError(
            f"the watershed backend with normalization 'slide' needs the slide's "
            f"statistics of the {channel} channel, got None: pass them in "
            f"SlideContext.{channel}, "
            f"or set segmentation.normalization to 'patch'."
        )
    background, p999 = statistics.background, statistics.p999
    return Levels(
        background, statistics.noise, p999 if p999 > background else statistics.maximum
    )
