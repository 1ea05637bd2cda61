"""Basins of a surface: steepest ascent, trimming, pairwise merging and numbering.

The results do not depend on label numbers, scan order or the origin of the array.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from codexseg.arrays import Float32, Int64, Labels
from codexseg.core.kernel import kernel

STAY = 4  # raster index of the centre of a 3 x 3 neighbourhood


@kernel
def climb(surface: Float32) -> tuple[Labels, Int64]:
    """Assign each pixel to the peak that its steepest ascent reaches.

    Steepest ascent is the toboggan algorithm of Mortensen and Barrett (1999). Pixels are
    ordered by value, then by raster position. This total order gives each pixel of a
    plateau a unique ascent, so the result does not depend on the scan order.

    Parameters
    ----------
    surface : (y, x) float32
        Heights; -inf in the background.

    Returns
    -------
    basins : (y, x) uint32
        1..n; 0 in the background.
    peaks : (n + 1, 2) int64
        Row and column (px) of the peak of each basin; row 0 is unused.
    """
    height, width = surface.shape
    basins, way, count = _ways_up(surface)
    peaks = np.zeros((count + 1, 2), np.int64)
    for y in range(height):
        for x in range(width):
            if surface[y, x] == -np.inf:
                continue
            yy, xx = y, x  # ascend to the first pixel with a basin
            while basins[yy, xx] == 0:
                k = way[yy, xx]
                yy, xx = yy + k // 3 - 1, xx + k % 3 - 1
            basin = basins[yy, xx]
            if way[yy, xx] == STAY:
                peaks[basin, 0], peaks[basin, 1] = yy, xx
            yy, xx = y, x  # label the path, so that each pixel is visited once
            while basins[yy, xx] == 0:
                basins[yy, xx] = basin
                k = way[yy, xx]
                yy, xx = yy + k // 3 - 1, xx + k % 3 - 1
    return basins, peaks


@kernel
def _ways_up(surface: Float32) -> tuple[Labels, NDArray[np.uint8], int]:
    """Return numbered peaks, the ascent direction of each pixel and the peak count.

    A direction is a raster index (0..8) into the 3 x 3 neighbourhood of the pixel.
    """
    height, width = surface.shape
    basins = np.zeros((height, width), np.uint32)
    way = np.full((height, width), STAY, np.uint8)
    count = 0
    for y in range(height):
        for x in range(width):
            highest = surface[y, x]
            if highest == -np.inf:
                continue
            for k in range(9):  # of equal values, the last in raster order wins
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
    """Remove pixels that are low or far from the peak of their basin, in place.

    A pixel is removed if its height is less than `level` times the height of the peak, or
    if the peak is more than `reach` px away. The reach bounds basins on plateaus and
    ramps. Without it, a pixel could depend on a peak at any distance.

    Parameters
    ----------
    basins : (y, x) uint32
        Basins of `climb`, modified in place.
    surface : (y, x) float32
    peaks : (n + 1, 2) int64
        Row and column (px) of each peak.
    level : float
        Share of the peak height.
    reach : float
        Maximum distance to the peak, px.
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
    """Merge adjacent basins without a deep saddle between them.

    The saddle of two basins is the highest pass along their contact (8 neighbours). Two
    basins are linked if saddle >= level * lower peak and their peaks are at most
    `distance` px apart. Objects are the connected components of these links. Each pair
    is tested on its own, so the result does not depend on the order of merging.

    Parameters
    ----------
    basins : (y, x) uint32
        Basins of `climb`, trimmed or not.
    surface : (y, x) float32
    peaks : (n + 1, 2) int64
        Row and column (px) of each peak.
    level : float
        Minimum saddle height as a share of the lower peak.
    distance : float
        Maximum distance of the peaks, px.

    Returns
    -------
    objects : (y, x) uint32
        The lowest basin number of each object; 0 in the background.
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
    """Return the basin pair and the pass height of each contact of two pixels.

    A pair is one int64 with the smaller basin number in the upper half. The pass of two
    pixels p and q is min(f(p), f(q)). Every contact occurs once.
    """
    height, width = basins.shape
    count = 0
    pairs, passes = np.empty(0, np.int64), np.empty(0, np.float32)
    for filling in (False, True):  # count the contacts, then store them
        if filling:
            pairs, passes = np.empty(count, np.int64), np.empty(count, np.float32)
            count = 0
        for y in range(height):
            for x in range(width):
                a = np.int64(basins[y, x])
                if a == 0:
                    continue
                for k in range(4):  # right, lower left, below, lower right
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
    """Return the root of `i` in a union-find forest and halve the path to it."""
    while parents[i] != i:
        parents[i] = parents[parents[i]]
        i = parents[i]
    return i


def _components(count: int, a: Int64, b: Int64) -> Labels:
    """Map each of `count` nodes to the lowest node of its component under edges (a, b)."""
    graph = csr_array((np.ones(a.size, np.int8), (a, b)), (count, count))
    component = connected_components(graph, directed=False)[1]
    lowest = np.unique(component, return_index=True)[1]
    return np.asarray(lowest[component], np.uint32)


@kernel
def connected(objects: Labels, min_pixels: int) -> Labels:
    """Split objects into connected parts (4 neighbours) and remove small parts.

    Two-pass labelling: a raster scan assigns provisional numbers and joins them in a
    union-find forest, then a second scan replaces each number by its root.

    Parameters
    ----------
    objects : (y, x) uint32
    min_pixels : int
        Parts with fewer pixels become background.

    Returns
    -------
    parts : (y, x) uint32
        1..n in the raster order of the first pixels; 0 in the background.
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
    """Remove parts of fewer than `min_pixels` pixels and number the rest, in place."""
    height, width = parts.shape
    area = np.zeros(parents.size, np.int64)
    for y in range(height):
        for x in range(width):
            area[_root(parents, parts[y, x])] += 1
    number, count = np.zeros(parents.size, np.uint32), 0
    for i in range(1, parents.size):  # the root is the lowest number of a part
        if parents[i] == i and area[i] >= min_pixels:
            count += 1
            number[i] = count
    for y in range(height):
        for x in range(width):
            parts[y, x] = number[_root(parents, parts[y, x])]
    return parts


def fill_enclosed_gaps(labels: Labels, max_pixels: int) -> Labels:
    """Fill background gaps that a single label encloses, in place.

    Gaps are connected (4 neighbours). Gaps at the border of the array are not filled.

    Parameters
    ----------
    labels : (y, x) uint32
        Modified in place.
    max_pixels : int
        Gaps of this many pixels or more are kept.

    Returns
    -------
    labels : (y, x) uint32
        The input array.
    """
    gaps = connected((labels == 0).astype(np.uint32), 1)
    _fill(labels, gaps, int(gaps.max(initial=0)), max_pixels)
    return labels


@kernel
def _fill(labels: Labels, gaps: Labels, count: int, max_pixels: int) -> None:
    """Fill gaps smaller than `max_pixels` with the label around them, in place."""
    height, width = labels.shape
    area = np.zeros(count + 1, np.int64)
    around = np.zeros(count + 1, np.int64)  # label around a gap; -1: several, or border
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
