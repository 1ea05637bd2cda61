"""Quality of a segmentation without a reference, from labels and intensities.

The metrics follow Chen and Murphy (2023), "Evaluation of cell segmentation methods without
reference segmentations", Mol. Biol. Cell 34(6) ar50 (PMC10208095), written from their
definitions. The names in brackets are those of the paper. There are three differences:

- Foreground is the signal of :mod:`codexseg.core.intensity.background` instead of a
  threshold of the image, so that it does not depend on the patch grid.
- The density of cells [NC] refers to the foreground, as most of a slide may be empty.
- Intensities are measured above the background of the slide, as a camera's offset would
  mask every variation.

The metrics based on clusters or principal components of cells (PCF, ACVC, FPCC, AS) are
not included, nor is the combined score. Its weights apply to the images of the paper.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from codexseg.arrays import Float64, Int64, Labels, Mask, Pixels
from codexseg.core.intensity.background import BIN_PX
from codexseg.core.intensity.histogram import block_mean
from codexseg.core.kernel import kernel

FRACTIONS = (
    "cells_matched",
    "nuclei_matched",
    "matched_fraction",
    "foreground_fraction",
    "foreground_covered",
    "background_covered",
    "cells_on_foreground",
    "nuclear_signal_in_cells",
)
"""Metrics that are fractions, 0 to 1."""

OTHERS = (
    "cells_per_100_um2",
    "median_cell_diameter_um",
    "size_cv",
    "size_cv_robust",
    "size_score",
    "inside_cv",
    "outside_cv",
)
"""Metrics with other ranges."""

_MAD_TO_STD = 1.4826  # standard deviation over median absolute deviation of a normal


@dataclass(frozen=True, eq=False)
class Tally:
    """Counts and sums over pixels; tallies of windows add up with ``+``.

    Attributes
    ----------
    counts : (4,) int64
        Pixels in total, of the foreground, of cells, and of cells on foreground.
    sums : (2, 2, 2) float64
        Sums over the foreground, by channel (nucleus, whole cell), by region (in cells,
        outside) and by power (intensities, their squares).
    """

    counts: Int64
    sums: Float64

    @classmethod
    def empty(cls, n_pixels: int = 0) -> "Tally":
        """Return the tally of pixels without foreground and cells."""
        return cls(np.array([n_pixels, 0, 0, 0], np.int64), np.zeros((2, 2, 2)))

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.counts + other.counts, self.sums + other.sums)


class Sizes(NamedTuple):
    """Distribution of the areas of cells; spreads are NaN for fewer than two cells.

    Attributes
    ----------
    n : int
        Number of cells.
    median : float
        Median area, px.
    std : float
        Standard deviation of the areas, px.
    cv : float
        Standard deviation over mean.
    robust_cv : float
        1.4826 times the median absolute deviation, over the median. It is insensitive to
        a few very large cells.
    """

    n: int
    median: float
    std: float
    cv: float
    robust_cv: float


def foreground_bins(pixels: Pixels, thresholds: Sequence[float]) -> Mask:
    """Return which bins of 4 px hold signal in any channel.

    Parameters
    ----------
    pixels : (c, y, x) uint8, uint16 or float32
        A window that starts at multiples of 4 px and ends at multiples of 4 px or at the
        edge of the slide.
    thresholds : sequence of float
        One per channel, see :func:`codexseg.core.intensity.background.signal_threshold`.
        A channel with an infinite threshold is ignored.

    Returns
    -------
    (ceil(y / 4), ceil(x / 4)) bool
    """
    height, width = pixels.shape[1:]
    foreground = np.zeros((-(-height // BIN_PX), -(-width // BIN_PX)), np.bool_)
    for channel, threshold in zip(pixels, thresholds, strict=True):
        if np.isfinite(threshold):
            foreground |= block_mean(channel, BIN_PX) > threshold
    return foreground


def tally_pixels(
    labels: Labels, pixels: Pixels, foreground: Mask, offset: tuple[int, int] = (0, 0)
) -> Tally:
    """Count pixels of cells and foreground, and sum their intensities, in one pass.

    Parameters
    ----------
    labels : (y, x) uint32
        Cells, 0 is background.
    pixels : (2, y, x) uint8, uint16 or float32
        Intensities of the nuclear and the whole-cell channel.
    foreground : (rows, columns) bool
        See :func:`foreground_bins`. It may extend beyond the window.
    offset : (int, int)
        Row and column of the first pixel of the window, counted from the first pixel of
        `foreground`.

    Returns
    -------
    Tally
        Sums of integers are exact below 2**53.
    """
    return Tally(*_tally(labels, pixels, foreground, *offset))


def sizes(areas: Int64) -> Sizes:
    """Return the distribution of the areas of cells, (n,) px."""
    n = len(areas)
    median = float(np.median(areas)) if n else float("nan")
    if n < 2:
        return Sizes(n, median, *3 * (float("nan"),))
    std = float(np.std(areas))
    deviation = float(np.median(np.abs(areas - median)))
    robust_cv = _MAD_TO_STD * deviation / median
    return Sizes(n, median, std, std / float(np.mean(areas)), robust_cv)


def quality_metrics(
    tally: Tally,
    areas: Sizes,
    counts: tuple[int, int, int],
    backgrounds: Sequence[float | None],
    mpp: float,
) -> dict[str, float]:
    """Compute the metrics of a patch or a slide.

    Parameters
    ----------
    tally : Tally
        Of all pixels.
    areas : Sizes
        Of all cells.
    counts : (int, int, int)
        Pairs of a cell and its nucleus (one to one), cells, nuclei.
    backgrounds : sequence of two floats
        Background of the nuclear and the whole-cell channel; None for a missing channel.
    mpp : float
        Micrometres per pixel.

    Returns
    -------
    dict of str to float
        NaN where the denominator is 0.

        ``cells_matched``, ``nuclei_matched``: fraction of the cells and of the nuclei
        that have a partner.
        ``matched_fraction``: pairs / (cells + nuclei - pairs) [FMCN].
        ``foreground_fraction``: fraction of the pixels with signal.
        ``foreground_covered``: fraction of the foreground in cells [FFC].
        ``background_covered``: fraction of the other pixels in cells [FBC].
        ``cells_on_foreground``: fraction of the cells' pixels with signal [FCF].
        ``nuclear_signal_in_cells``: fraction of the foreground's nuclear intensity in
        cells (not in the paper).
        ``cells_per_100_um2``: cells per 100 um2 of foreground [NC].
        ``median_cell_diameter_um``: diameter of a disc with the median area.
        ``size_cv``, ``size_cv_robust``: see :class:`Sizes`.
        ``size_score``: 1 / (ln(standard deviation of the areas, px) + 1) [from CSSD],
        NaN below 1 px.
        ``outside_cv``, ``inside_cv``: coefficient of variation of the foreground's
        intensity outside cells [ACVF] and in cells, averaged over the channels.
    """
    pairs, cells, nuclei = counts
    pixels, foreground, in_cells, covered = (int(count) for count in tally.counts)
    inside_cv, outside_cv = (
        _mean_cv(tally, region, n, backgrounds)
        for region, n in enumerate((covered, foreground - covered))
    )
    log_std = np.log(areas.std) + 1 if areas.std >= 1 else float("nan")
    return {
        "cells_matched": _fraction(pairs, cells),
        "nuclei_matched": _fraction(pairs, nuclei),
        "matched_fraction": _fraction(pairs, cells + nuclei - pairs),
        "foreground_fraction": _fraction(foreground, pixels),
        "foreground_covered": _fraction(covered, foreground),
        "background_covered": _fraction(in_cells - covered, pixels - foreground),
        "cells_on_foreground": _fraction(covered, in_cells),
        "nuclear_signal_in_cells": _nuclear_signal_in_cells(tally, backgrounds[0]),
        "cells_per_100_um2": _fraction(cells, foreground * mpp**2 / 100),
        "median_cell_diameter_um": 2 * float(np.sqrt(areas.median / np.pi)) * mpp,
        "size_cv": areas.cv,
        "size_cv_robust": areas.robust_cv,
        "size_score": _fraction(1, log_std),
        "inside_cv": inside_cv,
        "outside_cv": outside_cv,
    }


def _fraction(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else float("nan")


def _nuclear_signal_in_cells(tally: Tally, background: float | None) -> float:
    if background is None:
        return float("nan")
    _, foreground, _, covered = (int(count) for count in tally.counts)
    inside, outside = tally.sums[0, :, 0].tolist()
    total = inside + outside - foreground * background
    return _fraction(inside - covered * background, total) if total > 0 else float("nan")


def _mean_cv(
    tally: Tally, region: int, n: int, backgrounds: Sequence[float | None]
) -> float:
    """Average the coefficients of variation over the channels, in or outside cells."""
    values = []
    for channel, background in enumerate(backgrounds):
        total, squares = tally.sums[channel, region].tolist()
        if background is not None and n and total / n > background:
            variance = max(0.0, squares / n - (total / n) ** 2)
            values.append(variance**0.5 / (total / n - background))
    return float(np.mean(values)) if values else float("nan")


@kernel
def _tally(
    labels: Labels, pixels: Pixels, foreground: Mask, oy: int, ox: int
) -> tuple[Int64, Float64]:
    """Return the counts and sums of :class:`Tally`, bin by bin along each row."""
    height, width = labels.shape
    counts, sums = np.zeros(4, np.int64), np.zeros((2, 2, 2))
    counts[0] = height * width
    for y in range(height):
        row = foreground[(y + oy) // BIN_PX]
        x = 0
        while x < width:
            column = (x + ox) // BIN_PX
            stop = min(width, (column + 1) * BIN_PX - ox)
            if not row[column]:
                for i in range(x, stop):
                    counts[2] += labels[y, i] > 0
                x = stop
                continue
            counts[1] += stop - x
            for i in range(x, stop):
                region = 1
                if labels[y, i] > 0:
                    region = 0
                    counts[2] += 1
                    counts[3] += 1
                for channel in range(2):
                    value = np.float64(pixels[channel, y, i])
                    sums[channel, region, 0] += value
                    sums[channel, region, 1] += value * value
            x = stop
    return counts, sums
