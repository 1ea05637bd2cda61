"""Quality of a segmentation without a truth: what labels and light alone say of it.

The figures are those of Chen and Murphy (2023), "Evaluation of cell segmentation methods
without reference segmentations", Mol. Biol. Cell 34(6) ar50 (PMC10208095), made anew from
its definitions; the names in brackets are the paper's. Three things differ. Foreground is
what :mod:`codexseg.core.intensity.background` calls signal and not a threshold of the
image at hand, so
that it does not depend on how a slide is cut. The density of cells [NC] is that of the
foreground, as most of a slide may be empty. Light is counted above the background of the
slide, as a camera's offset would hide every spread.

Left out are the figures that need clusters of cells or principal components (PCF, ACVC,
FPCC, AS) and the score into which the paper weighs all of them together: its weights hold
for the images that they were found on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from codexseg.core.intensity.background import BIN_PX, NOISE_FACTOR, RANGE_FRACTION
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
"""The figures that are parts of a whole, 0 to 1."""

OTHERS = (
    "cells_per_100_um2",
    "median_cell_diameter_um",
    "size_cv",
    "size_cv_robust",
    "size_score",
    "inside_cv",
    "outside_cv",
)
"""The other figures."""

_ROUNDING_STD = 0.2887  # of grey levels that are whole numbers
_MAD_TO_STD = 1.4826  # of a normal distribution

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Tally:
    """Counts and sums over pixels, which add up over windows.

    Attributes
    ----------
    counts : (4,) int64
        Pixels; those of the foreground; those of cells; those of both.
    sums : (2, 2, 2) float64
        Over the foreground, per channel (nucleus, whole cell), in cells and outside: the
        sums of the grey levels and of their squares.
    """

    counts: NDArray[np.int64]
    sums: NDArray[np.float64]

    @classmethod
    def empty(cls, n_pixels: int = 0) -> "Tally":
        """Return the tally of pixels that hold neither foreground nor cells."""
        return cls(np.array([n_pixels, 0, 0, 0], np.int64), np.zeros((2, 2, 2)))

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.counts + other.counts, self.sums + other.sums)


class Sizes(NamedTuple):
    """Areas of cells: number, median (px), and spread, NaN for fewer than two cells.

    `std` is the standard deviation in px, `cv` divides it by the mean, `robust_cv` divides
    1.4826 times the median absolute deviation by the median: a few giants do not move it.
    """

    n: int
    median: float
    std: float
    cv: float
    robust_cv: float


def signal_threshold(level: float, noise: float, p999: float, *, integer: bool) -> float:
    """Return the mean of a 4 px square above which there is signal, in grey levels.

    Parameters
    ----------
    level, noise, p999 : float
        What `codexseg.core.intensity.background.channel_statistics` says of the channel:
        background, its
        standard deviation per pixel, 99.9th percentile.
    integer : bool
        Whether grey levels are integers.

    Returns
    -------
    float
        The threshold of `codexseg.core.intensity.background.estimate_background`.
    """
    rounding = _ROUNDING_STD if integer else 0.0
    rise = NOISE_FACTOR * max(noise, rounding) / BIN_PX
    return level + max(rise, RANGE_FRACTION * (p999 - level))


def foreground_squares(pixels: NDArray[Any], thresholds: Sequence[float]) -> Mask:
    """Say which squares of 4 px hold signal in any channel.

    Parameters
    ----------
    pixels : (c, y, x) uint8, uint16 or float32
        A window whose first pixel lies on a multiple of 4, and whose last one does or is
        the slide's.
    thresholds : sequence of float
        One per channel, see :func:`signal_threshold`; infinite: the channel is not looked
        at.

    Returns
    -------
    (ceil(y / 4), ceil(x / 4)) bool
    """
    height, width = pixels.shape[1:]
    found = np.zeros((-(-height // BIN_PX), -(-width // BIN_PX)), np.bool_)
    for channel, threshold in zip(pixels, thresholds, strict=True):
        if np.isfinite(threshold):
            found |= block_mean(channel, BIN_PX) > threshold
    return found


def tally_pixels(
    labels: NDArray[np.uint32],
    pixels: NDArray[Any],
    squares: Mask,
    offset: tuple[int, int] = (0, 0),
) -> Tally:
    """Count pixels of cells and foreground, and add up their light, in one pass.

    Parameters
    ----------
    labels : (y, x) uint32
        Cells, 0 is background.
    pixels : (2, y, x) uint8, uint16 or float32
        Grey levels of the same pixels: nucleus, whole cell.
    squares : bool
        See :func:`foreground_squares`; may reach over the window.
    offset : (int, int)
        Row and column of the window's first pixel, counted from that of the squares.

    Returns
    -------
    Tally
        Sums are exact for integers below 2**53.
    """
    counts, sums = _tally(labels, pixels, squares, *offset)
    return Tally(counts, sums)


def sizes(areas: NDArray[np.int64]) -> Sizes:
    """Describe the areas of cells, (n,) px."""
    n = len(areas)
    median = float(np.median(areas)) if n else float("nan")
    if n < 2:
        return Sizes(n, median, *3 * (float("nan"),))
    std = float(np.std(areas))
    away = float(np.median(np.abs(areas - median)))
    return Sizes(n, median, std, std / float(np.mean(areas)), _MAD_TO_STD * away / median)


def quality_metrics(
    tally: Tally,
    areas: Sizes,
    counts: tuple[int, int, int],
    levels: Sequence[float | None],
    mpp: float,
) -> dict[str, float]:
    """Bring tallies to figures, NaN where there is nothing to divide by.

    Parameters
    ----------
    tally : Tally
        Of all pixels.
    areas : Sizes
        Of all cells.
    counts : (int, int, int)
        Pairs of a cell and its nucleus (one to one), cells, nuclei.
    levels : sequence of two floats
        Background of the nucleus and the whole-cell channel; None: there is no such one.
    mpp : float
        Micrometres per pixel.

    Returns
    -------
    dict
        `cells_matched`, `nuclei_matched`: part of the cells and of the nuclei that have a
        partner; `matched_fraction`: pairs / (cells + nuclei - pairs) [FMCN].
        `foreground_fraction`: part of the pixels with signal; `foreground_covered`: part
        of these in cells [FFC]; `background_covered`: part of the others in cells [FBC];
        `cells_on_foreground`: part of the cells' pixels with signal [FCF].
        `nuclear_signal_in_cells`: part of the nuclear signal of the foreground in cells
        (not in the paper).
        `cells_per_100_um2` [NC], of foreground; `median_cell_diameter_um`, of a disc of
        the median area; `size_cv`, `size_cv_robust`, see :class:`Sizes`; `size_score`:
        1 / (ln(standard deviation of the areas, px) + 1) [from CSSD], NaN below 1 px.
        `outside_cv`: coefficient of variation of the foreground's light outside cells,
        mean of the channels [ACVF]; `inside_cv`: the same in cells.
    """
    pairs, cells, nuclei = counts
    pixels, foreground, inside, both = (int(count) for count in tally.counts)
    inside_cv, outside_cv = (
        _mean_cv(tally, place, n, levels)
        for place, n in enumerate((both, foreground - both))
    )
    spread = np.log(areas.std) + 1 if areas.std >= 1 else float("nan")
    return {
        "cells_matched": _part(pairs, cells),
        "nuclei_matched": _part(pairs, nuclei),
        "matched_fraction": _part(pairs, cells + nuclei - pairs),
        "foreground_fraction": _part(foreground, pixels),
        "foreground_covered": _part(both, foreground),
        "background_covered": _part(inside - both, pixels - foreground),
        "cells_on_foreground": _part(both, inside),
        "nuclear_signal_in_cells": _nuclear_signal_in_cells(
            tally, both, foreground, levels[0]
        ),
        "cells_per_100_um2": _part(cells, foreground * mpp**2 / 100),
        "median_cell_diameter_um": 2 * float(np.sqrt(areas.median / np.pi)) * mpp,
        "size_cv": areas.cv,
        "size_cv_robust": areas.robust_cv,
        "size_score": _part(1, spread),
        "inside_cv": inside_cv,
        "outside_cv": outside_cv,
    }


def _part(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def _nuclear_signal_in_cells(
    tally: Tally, both: int, foreground: int, level: float | None
) -> float:
    if level is None:
        return float("nan")
    inside, outside = tally.sums[0, :, 0].tolist()
    light = inside - both * level
    whole = inside + outside - foreground * level
    return _part(light, whole) if whole > 0 else float("nan")


def _mean_cv(tally: Tally, place: int, n: int, levels: Sequence[float | None]) -> float:
    """Average the coefficients of variation of the channels that there are."""
    found = []
    for channel, level in enumerate(levels):
        total, squares = tally.sums[channel, place].tolist()
        if level is not None and n and total / n > level:
            variance = max(0.0, squares / n - (total / n) ** 2)
            found.append(variance**0.5 / (total / n - level))
    return float(np.mean(found)) if found else float("nan")


@kernel
def _tally(
    labels: NDArray[np.uint32], pixels: NDArray[Any], squares: Mask, oy: int, ox: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    height, width = labels.shape
    counts, sums = np.zeros(4, np.int64), np.zeros((2, 2, 2))
    counts[0] = height * width
    for y in range(height):
        row = squares[(y + oy) // BIN_PX]
        x = 0
        while x < width:
            square = (x + ox) // BIN_PX
            stop = min(width, (square + 1) * BIN_PX - ox)
            if not row[square]:
                for at in range(x, stop):
                    counts[2] += labels[y, at] > 0
                x = stop
                continue
            counts[1] += stop - x
            for at in range(x, stop):
                place = 1
                if labels[y, at] > 0:
                    place = 0
                    counts[2] += 1
                    counts[3] += 1
                for channel in range(2):
                    value = np.float64(pixels[channel, y, at])
                    sums[channel, place, 0] += value
                    sums[channel, place, 1] += value * value
            x = stop
    return counts, sums
