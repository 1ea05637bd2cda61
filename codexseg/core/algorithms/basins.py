"""Basins of a surface: steepest ascent, trimming, merging in pairs, numbering.

The results do not depend on label numbers, scan order or the origin of the array.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from codexseg.arrays import Float32, Int64, Labels
from codexseg.core.kernel import kernel

STAY = 4  # the middle of a 3 x 3 neighbourhood in raster order


@kernel
def climb(surface: Float32) -> tuple[Labels, Int64]:
    """Give each pixel to the peak that steepest ascent leads to.

    Pixels are ordered by value, then by raster position, so plateaus have one way up
    and the outcome does not depend on the scan.

    Parameters
    ----------
    surface : (y, x) float32
        -inf: background.

    Returns
    -------
    basins : (y, x) uint32
        0 background, else 1..n.
    peaks : (n + 1, 2) int64
        Row and column of each basin's peak; row 0 is unused.
    """
    height, width = surface.shape
    basins, way, count = _ways_up(surface)
    peaks = np.zeros((count + 1, 2), np.int64)
    for y in range(height):
        for x in range(width):
            if surface[y, x] == -np.inf:
                continue
            yy, xx = y, x
            while basins[yy, xx] == 0:
                k = way[yy, xx]
                yy, xx = yy + k // 3 - 1, xx + k % 3 - 1
            basin = basins[yy, xx]
            if way[yy, xx] == STAY:
                peaks[basin, 0], peaks[basin, 1] = yy, xx
            yy, xx = y, x
            while basins[yy, xx] == 0:
                basins[yy, xx] = basin
                k = way[yy, xx]
                yy, xx = yy + k // 3 - 1, xx + k % 3 - 1
    return basins, peaks


@kernel
def _ways_up(surface: Float32) -> tuple[Labels, NDArray[np.uint8], int]:
    """Where in its 3 x 3 neighbourhood (0..8, raster order) each pixel goes; peaks."""
    height, width = surface.shape
    basins = np.zeros((height, width), np.uint32)
    way = np.full((height, width), STAY, np.uint8)
    count = 0
    for y in range(height):
        for x in range(width):
            highest = surface[y, x]
            if highest == -np.inf:
                continue
            for k in range(9):  # in raster order, so of equals the last one wins
                yy, xx = y + k // 3 - 1, x + k % 3 - 1
                if yy < 0 or xx < 0 or yy >= height or xx >= width:
                    continue
                value = surface[yy, xx]
                if value > highest or (value == highest and k > way[y, x]):
                    highest, way[y, x] = value, k
            if way[y, x] == STAY:
                count += 1
                basins[y, x] = count
    return basins, way, count


@kernel
def trim(
    basins: Labels, surface: Float32, peaks: Int64, level: float, reach: float
) -> None:
    """Remove pixels that are low or far (px) from the peak of their basin, in place.

    The reach bounds basins on plateaus and ramps: without it a pixel's fate could hang
    on a peak at any distance.
    """
    height, width = basins.shape
    for y in range(height):
        for x in range(width):
            basin = basins[y, x]
            if basin:
                py, px = peaks[basin]
                far = (y - py) ** 2 + (x - px) ** 2 > reach * reach
                if far or surface[y, x] < level * surface[py, px]:
                    basins[y, x] = 0


def merge(
    basins: Labels, surface: Float32, peaks: Int64, level: float, distance: float
) -> Labels:
    """Join basins that a saddle hardly divides.

    Two basins that touch (8 neighbours) are related where the saddle, the highest pass
    between them, is at least `level` of the lower peak, and the peaks are at most
    `distance` px apart. Objects are the connected components of that relation: it holds
    or not for a pair, whatever happens to other pairs.

    Returns
    -------
    objects : (y, x) uint32
    """
    pairs, passes = _passes(basins, surface)
    order = np.argsort(pairs, kind="stable")
    pairs, passes = pairs[order], passes[order]
    first = np.flatnonzero(np.diff(pairs, prepend=np.int64(-1)))
    if not first.size:
        return basins
    saddles = np.maximum.reduceat(passes, first)
    a, b = pairs[first] >> 32, pairs[first] & 0xFFFFFFFF
    height = surface[peaks[:, 0], peaks[:, 1]]
    near = ((peaks[a] - peaks[b]) ** 2).sum(axis=1) <= distance**2
    joined = near & (saddles >= level * np.minimum(height[a], height[b]))
    return _components(len(peaks), a[joined], b[joined])[basins]


@kernel
def _passes(basins: Labels, surface: Float32) -> tuple[Int64, Float32]:
    """Pairs of basins (one int64, the smaller above) and the pass at each contact."""
    height, width = basins.shape
    count = 0
    pairs, passes = np.empty(0, np.int64), np.empty(0, np.float32)
    for filling in (False, True):
        if filling:
            pairs, passes = np.empty(count, np.int64), np.empty(count, np.float32)
            count = 0
        for y in range(height):
            for x in range(width):
                a = np.int64(basins[y, x])
                if a == 0:
                    continue
                for k in range(4):  # right; below left, below, below right
                    yy, xx = (y, x + 1) if k == 0 else (y + 1, x + k - 2)
                    if yy >= height or xx < 0 or xx >= width:
                        continue
                    b = np.int64(basins[yy, xx])
                    if b == 0 or b == a:
                        continue
                    if filling:
                        pairs[count] = (min(a, b) << 32) | max(a, b)
                        passes[count] = min(surface[y, x], surface[yy, xx])
                    count += 1
    return pairs, passes


@kernel
def _root(parents: Labels, i: Any) -> Any:
    while parents[i] != i:
        parents[i] = parents[parents[i]]
        i = parents[i]
    return i


def _components(count: int, a: Int64, b: Int64) -> Labels:
    """Map each of `count` nodes to the lowest node that edges (a, b) connect it to."""
    graph = csr_array((np.ones(a.size, np.int8), (a, b)), (count, count))
    component = connected_components(graph, directed=False)[1]
    lowest = np.unique(component, return_index=True)[1]
    return np.asarray(lowest[component], np.uint32)


@kernel
def connected(objects: Labels, min_pixels: int) -> Labels:
    """Drop small connected parts (4 neighbours) of objects and number the others.

    Parameters
    ----------
    objects : (y, x) uint32
    min_pixels : int
        Parts with fewer pixels become background.

    Returns
    -------
    parts : (y, x) uint32
        1..n by first pixel in raster order.
    """
    height, width = objects.shape
    parts = np.zeros((height, width), np.uint32)
    parents, count = np.zeros(1024, np.uint32), 0
    for y in range(height):
        for x in range(width):
            value = objects[y, x]
            if value == 0:
                continue
            above = parts[y - 1, x] if y and objects[y - 1, x] == value else np.uint32(0)
            left = parts[y, x - 1] if x and objects[y, x - 1] == value else np.uint32(0)
            if above and left:
                one, two = _root(parents, above), _root(parents, left)
                parents[max(one, two)] = min(one, two)
                parts[y, x] = min(one, two)
            elif above or left:
                parts[y, x] = max(above, left)
            else:
                count += 1
                if count == parents.size:
                    parents = np.concatenate((parents, np.zeros_like(parents)))
                parents[count] = count
                parts[y, x] = count
    return _drop_small(parts, parents[: count + 1], min_pixels)


@kernel
def _drop_small(parts: Labels, parents: Labels, min_pixels: int) -> Labels:
    height, width = parts.shape
    area = np.zeros(parents.size, np.int64)
    for y in range(height):
        for x in range(width):
            area[_root(parents, parts[y, x])] += 1
    number, count = np.zeros(parents.size, np.uint32), 0
    for i in range(1, parents.size):  # a root is the part's first number
        if parents[i] == i and area[i] >= min_pixels:
            count += 1
            number[i] = count
    for y in range(height):
        for x in range(width):
            parts[y, x] = number[_root(parents, parts[y, x])]
    return parts


def fill_enclosed_gaps(labels: Labels, max_pixels: int) -> Labels:
    """Fill background of fewer than `max_pixels` that one label alone encloses, in place.

    Background at the border of the array is no hole.
    """
    gaps = connected((labels == 0).astype(np.uint32), 1)
    _fill(labels, gaps, int(gaps.max(initial=0)), max_pixels)
    return labels


@kernel
def _fill(labels: Labels, gaps: Labels, count: int, max_pixels: int) -> None:
    height, width = labels.shape
    area = np.zeros(count + 1, np.int64)
    around = np.zeros(count + 1, np.int64)  # the one label around a gap, -1: no such
    for y in range(height):
        for x in range(width):
            gap = gaps[y, x]
            if gap == 0:
                continue
            area[gap] += 1
            if y == 0 or x == 0 or y == height - 1 or x == width - 1:
                around[gap] = -1
                continue
            for near in (
                labels[y - 1, x],
                labels[y + 1, x],
                labels[y, x - 1],
                labels[y, x + 1],
            ):
                if near and around[gap] != near:
                    around[gap] = near if around[gap] == 0 else -1
    for y in range(height):
        for x in range(width):
            gap = gaps[y, x]
            if gap and around[gap] > 0 and area[gap] < max_pixels:
                labels[y, x] = around[gap]
