"""Intensity measurements of cells, nuclei and cytoplasms.

Sums run over the pixels of one object in raster order, so the results of a cell are
independent of the window.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codexseg.arrays import Columns, Float64, Int64, Labels, Pixels
from codexseg.core.intensity.histogram import check_dtype
from codexseg.core.kernel import kernel
from codexseg.core.measure.morphology import Index
from codexseg.errors import InputError

COMPARTMENTS = ("cell", "nucleus", "cytoplasm")
QUANTILES = {"median": 0.5, "p5": 0.05, "p25": 0.25, "p75": 0.75, "p95": 0.95}
STATISTICS = ("mean", "std", "max", "min", "total", *QUANTILES)


@dataclass(frozen=True)
class Compartments:
    """Pixels of n cells as runs along rows, in raster order.

    :func:`split_compartments` computes the runs once per window; all channels share them.
    Only pixels of cells are read from a channel.

    Parameters
    ----------
    n : int
        Number of cells.
    shape : (int, int)
        Height and width of the window, px.
    runs : (r, 3) int32
        Row, first column and end column (exclusive), px of the window.
    members : (r, 3) int32
        Index of the cell that contains the run as cell, as nucleus and as cytoplasm; -1
        for none.
    """

    n: int
    shape: tuple[int, int]
    runs: Index
    members: Index

    @cached_property
    def areas(self) -> Int64:
        """Pixels per compartment and cell, (3, n) int64: cell, nucleus, cytoplasm."""
        return _run_areas(self.runs, self.members, self.n)[:, : self.n]


def label_positions(labels: Labels, ids: Labels) -> Index:
    """Return the position of each pixel's label in a sorted list of labels.

    Parameters
    ----------
    labels : (y, x) uint32
        Label image; 0 is background. Labels may have gaps.
    ids : (n,) uint32
        Labels of the objects to measure: distinct, above 0, ascending.

    Returns
    -------
    index : (y, x) int32
        Position of the pixel's label in `ids`, -1 if it is absent.

    Raises
    ------
    InputError
        If `ids` is not sorted, or has duplicates or 0.
    """
    if ids.ndim != 1 or np.any(ids[:1] == 0) or np.any(ids[1:] <= ids[:-1]):
        raise InputError(
            f"Labels {np.array2string(ids, threshold=6, edgeitems=3)} are not distinct, "
            f"above 0 and in ascending order. Sort them with numpy.unique."
        )
    return _label_positions(labels, ids)


def split_compartments(cell_index: Index, nucleus_index: Index, n: int) -> Compartments:
    """Split cells, nuclei and cytoplasms into runs of pixels.

    Parameters
    ----------
    cell_index, nucleus_index : (y, x) int32
        Position 0..n-1 of the cell at each pixel, -1 for none, see
        :func:`label_positions`. Nucleus i belongs to cell i.
    n : int
        Number of cells.

    Returns
    -------
    Compartments
        The cytoplasm of a cell contains its pixels outside its own nucleus.

    Raises
    ------
    InputError
        If the two images differ in shape.
    """
    if cell_index.shape != nucleus_index.shape:
        raise InputError(
            f"Shapes of cells and nuclei differ: {cell_index.shape} and "
            f"{nucleus_index.shape}. Pass images of the same window."
        )
    count = _count_runs(cell_index, nucleus_index)
    runs, members = np.empty((count, 3), np.int32), np.empty((count, 3), np.int32)
    _fill_runs(cell_index, nucleus_index, runs, members)
    shape = (int(cell_index.shape[0]), int(cell_index.shape[1]))
    return Compartments(n, shape, runs, members)


def measure_channel(
    pixels: Pixels, compartments: Compartments, statistics: Sequence[str] = ("mean",)
) -> Columns:
    """Measure the intensities of one channel in cells, nuclei and cytoplasms.

    Parameters
    ----------
    pixels : (y, x) uint8, uint16 or float32
        The channel in the window that `compartments` covers.
    compartments : Compartments
        Pixels of the cells.
    statistics : sequence of str
        Any of `mean`, `std` (of the population), `max`, `min`, `total` (sum), `median`,
        `p5`, `p25`, `p75`, `p95` (percentiles, linearly interpolated).

    Returns
    -------
    columns : dict of (n,) arrays
        `{cell,nucleus,cytoplasm}_{statistic}`, float32, totals float64; NaN if the
        compartment is empty.

    Raises
    ------
    InputError
        If the shapes differ, or the dtype or a statistic is not supported.
    """
    _check_channel(pixels, compartments, statistics)
    runs, members, n = compartments.runs, compartments.members, compartments.n
    areas = compartments.areas
    empty = areas == 0
    results: dict[str, NDArray[Any]] = {}
    requested = set(statistics)
    if requested & {"mean", "std", "total"}:
        add = _add_floats if pixels.dtype.kind == "f" else _add_integers
        results["total"] = add(pixels, runs, members, n)[:, :n]
        results["mean"] = results["total"] / np.maximum(areas, 1)
    if "std" in requested:
        squares = _add_squares(pixels, runs, members, results["mean"])[:, :n]
        results["std"] = np.sqrt(squares / np.maximum(areas, 1))
    if requested & {"min", "max"}:
        results["min"], results["max"] = _extremes(pixels, runs, members, n)
    if ranked := [name for name in QUANTILES if name in requested]:
        shares = np.array([QUANTILES[name] for name in ranked])
        quantiles = _quantiles(pixels, runs, members, areas, shares)
        results |= zip(ranked, quantiles, strict=True)
    columns: dict[str, NDArray[Any]] = {}
    for statistic in statistics:
        kind = np.float64 if statistic == "total" else np.float32
        values = np.where(empty, np.nan, results[statistic]).astype(kind)
        for row, compartment in enumerate(COMPARTMENTS):
            columns[f"{compartment}_{statistic}"] = values[row]
    return columns


def cell_entropy(means: NDArray[Any]) -> Float64:
    """Return the Shannon entropy of each cell's signal over the channels, in bits.

    Parameters
    ----------
    means : (n, c) numbers
        Mean intensity of each cell in each channel.

    Returns
    -------
    entropy : (n,) float64
        -sum(p log2 p) with p = row / sum(row): 0 for a single channel, log2(c) for equal
        channels. NaN if a row is all zero or has negative or non-finite values.
    """
    values = np.asarray(means, np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = values / values.sum(axis=1, keepdims=True)
        terms = np.where(share == 0, 0.0, share * np.log2(share))
    valid = (values >= 0).all(axis=1) & (values > 0).any(axis=1)
    return np.where(valid, np.abs(terms.sum(axis=1)), np.nan)


def _check_channel(
    pixels: Pixels, compartments: Compartments, statistics: Sequence[str]
) -> None:
    if pixels.shape != compartments.shape:
        raise InputError(
            f"Channel of {pixels.shape} px does not match the window of "
            f"{compartments.shape} px. Pass the pixels of the same window."
        )
    check_dtype(pixels)
    if unknown := [name for name in statistics if name not in STATISTICS]:
        raise InputError(
            f"Unknown statistic {', '.join(map(repr, unknown))}. Expected any of "
            f"{', '.join(STATISTICS)}."
        )


@kernel
def _label_positions(labels: Labels, ids: Labels) -> Index:
    height, width = labels.shape
    index = np.full((height, width), -1, np.int32)
    for y in range(height):
        last, place = np.uint32(0), np.int32(-1)
        for x in range(width):
            label = labels[y, x]
            if label != last:  # look up once per run
                last, place = label, np.int32(-1)
                if label != 0:
                    at = np.searchsorted(ids, label)
                    if at < ids.size and ids[at] == label:
                        place = np.int32(at)
            index[y, x] = place
    return index


@kernel
def _count_runs(cells: Index, nuclei: Index) -> int:
    count = 0
    for y in range(cells.shape[0]):
        last_cell, last_nucleus = np.int32(-1), np.int32(-1)
        for x in range(cells.shape[1]):
            cell, nucleus = cells[y, x], nuclei[y, x]
            changed = (cell != last_cell) | (nucleus != last_nucleus)
            count += changed & ((cell >= 0) | (nucleus >= 0))
            last_cell, last_nucleus = cell, nucleus
    return count


@kernel
def _fill_runs(cells: Index, nuclei: Index, runs: Index, members: Index) -> None:
    at, (height, width) = 0, cells.shape
    for y in range(height):
        x = 0
        while x < width:
            cell, nucleus, start = cells[y, x], nuclei[y, x], x
            x += 1
            while x < width and cells[y, x] == cell and nuclei[y, x] == nucleus:
                x += 1
            if cell >= 0 or nucleus >= 0:
                runs[at, 0], runs[at, 1], runs[at, 2] = y, start, x
                members[at, 0], members[at, 1] = cell, nucleus
                members[at, 2] = cell if cell != nucleus else -1
                at += 1


# The kernels below have an extra last column, which collects the index -1 (no cell).


@kernel
def _run_areas(runs: Index, members: Index, n: int) -> Int64:
    areas = np.zeros((3, n + 1), np.int64)
    for r in range(runs.shape[0]):
        for c in range(3):
            areas[c, members[r, c]] += runs[r, 2] - runs[r, 1]
    return areas


@kernel
def _add_integers(pixels: Pixels, runs: Index, members: Index, n: int) -> Int64:
    totals = np.zeros((3, n + 1), np.int64)
    for r in range(runs.shape[0]):
        y, total = runs[r, 0], np.int64(0)
        for x in range(runs[r, 1], runs[r, 2]):
            total += pixels[y, x]
        for c in range(3):
            totals[c, members[r, c]] += total
    return totals


@kernel
def _add_floats(pixels: Pixels, runs: Index, members: Index, n: int) -> Float64:
    """Add pixel by pixel, because a sum of run sums depends on the split into runs."""
    totals = np.zeros((3, n + 1), np.float64)
    for r in range(runs.shape[0]):
        y = runs[r, 0]
        for c in range(3):
            total = totals[c, members[r, c]]
            for x in range(runs[r, 1], runs[r, 2]):
                total += pixels[y, x]
            totals[c, members[r, c]] = total
    return totals


@kernel
def _add_squares(pixels: Pixels, runs: Index, members: Index, means: Float64) -> Float64:
    totals = np.zeros((3, means.shape[1] + 1), np.float64)
    for r in range(runs.shape[0]):
        y = runs[r, 0]
        for c in range(3):
            i = members[r, c]
            if i >= 0:
                total, mean = totals[c, i], means[c, i]
                for x in range(runs[r, 1], runs[r, 2]):
                    total += (pixels[y, x] - mean) ** 2
                totals[c, i] = total
    return totals


@kernel
def _extremes(
    pixels: Pixels, runs: Index, members: Index, n: int
) -> tuple[Float64, Float64]:
    lowest, highest = np.full((3, n + 1), np.inf), np.full((3, n + 1), -np.inf)
    for r in range(runs.shape[0]):
        y = runs[r, 0]
        low = high = pixels[y, runs[r, 1]]
        for x in range(runs[r, 1] + 1, runs[r, 2]):
            low, high = np.minimum(low, pixels[y, x]), np.maximum(high, pixels[y, x])
        for c in range(3):
            i = members[r, c]
            lowest[c, i] = np.minimum(lowest[c, i], low)
            highest[c, i] = np.maximum(highest[c, i], high)
    return lowest[:, :n], highest[:, :n]


@kernel
def _quantiles(
    pixels: Pixels, runs: Index, members: Index, areas: Int64, shares: Float64
) -> Float64:
    n = areas.shape[1]
    quantiles = np.full((shares.size, 3, n), np.nan)
    for c in range(3):
        ends = np.cumsum(areas[c])
        filled = ends - areas[c]
        values = np.empty(areas[c].sum(), pixels.dtype)
        for r in range(runs.shape[0]):
            i = members[r, c]
            if i >= 0:
                for x in range(runs[r, 1], runs[r, 2]):
                    values[filled[i]] = pixels[runs[r, 0], x]
                    filled[i] += 1
        for i in range(n):
            own = np.sort(values[ends[i] - areas[c, i] : ends[i]])
            if own.size == 0 or np.isnan(np.float64(own[-1])):  # NaN sorts last
                continue
            for s in range(shares.size):
                place = shares[s] * (own.size - 1)
                low = int(place)
                high = min(low + 1, own.size - 1)
                part = place - low
                quantiles[s, c, i] = own[low] * (1 - part) + own[high] * part
    return quantiles
