"""From a network's maps to objects: markers, flood, small objects, small holes, numbers.

What ``deepcell_toolbox.deep_watershed`` 0.12.1 does with Mesmer's settings (Greenwald et
al. 2022), with the same labels; exactly equal values need ``ties="heap"`` for that.
"""

from typing import overload

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from codexseg.arrays import Float32, Int64, Labels, Mask
from codexseg.core.algorithms.flood import Ties, flood
from codexseg.core.algorithms.h_maxima import UNCUT, Cut, h_maxima
from codexseg.core.kernel import kernel
from codexseg.core.labels.operations import object_table, relabel
from codexseg.errors import InputError

_SMALL_TABLE = 1 << 16
_MINE, _LARGE = 1, 2  # gap that is being measured; gap that is too large to fill


@overload
def deep_watershed(
    maxima: Float32,
    interior: Float32,
    *,
    h: float,
    interior_threshold: float = 0.2,
    smoothing_px: float = 2.0,
    min_area: int = 15,
    max_hole: int = 15,
    ties: Ties = "raster",
    cut: None = None,
) -> Labels: ...
@overload
def deep_watershed(
    maxima: Float32,
    interior: Float32,
    *,
    h: float,
    interior_threshold: float = 0.2,
    smoothing_px: float = 2.0,
    min_area: int = 15,
    max_hole: int = 15,
    ties: Ties = "raster",
    cut: Cut,
) -> tuple[Labels, Mask]: ...
def deep_watershed(
    maxima: Float32,
    interior: Float32,
    *,
    h: float,
    interior_threshold: float = 0.2,
    smoothing_px: float = 2.0,
    min_area: int = 15,
    max_hole: int = 15,
    ties: Ties = "raster",
    cut: Cut | None = None,
) -> Labels | tuple[Labels, Mask]:
    """Find the objects of one compartment in a network's two maps of it.

    Parameters
    ----------
    maxima : (y, x) float32
        Map that peaks at the middle of an object (Mesmer's inner distance).
    interior : (y, x) float32
        Probability to be inside an object.
    h : float
        Least height of a peak that starts an object, in the units of `maxima`; Mesmer's
        is 0.075 for whole cells and 0.1 for nuclei.
    interior_threshold : float
        Objects consist of pixels whose smoothed `interior` is above.
    smoothing_px : float
        Sigma of the Gaussian that smooths `interior`.
    min_area : int
        Objects of fewer pixels are dropped.
    max_hole : int
        Holes of fewer pixels are filled, see `fill_holes`.
    ties : "raster" or "heap"
        Which of marker pixels of exactly equal value is flooded first, see `flood`:
        "raster" does not depend on what lies far away, "heap" is deepcell's order.
    cut : (top, left, bottom, right) bool, optional
        The edges at which the maps were cut out of larger ones.

    Returns
    -------
    labels : (y, x) uint32
        1..n, in the raster order of the markers' first pixels.
    doubtful : (y, x) bool
        Only with `cut`: the boxes, 1 px wider on all sides, of the objects whose peak may
        not be one in the larger maps, whatever their distance to a cut edge; also of those
        then dropped as small. Without such an object its neighbours share its pixels, so
        objects outside have the same rivals in both. Peaks outside the mask do not count.

    Raises
    ------
    InputError
        If the maps differ in shape, are no 2-D float32 arrays, hold NaN or infinity, `h` is
        not above 0, or `cut` does not name four edges.

    Notes
    -----
    `doubtful` is about peaks alone. Near a cut edge objects are cut off, and the smoothed
    interior and the flood may be others, without a doubt: keep a margin.

    Peak memory besides the two maps: about 23 bytes per pixel with the result; deepcell's
    is about 90.
    """
    _check(maxima, interior)
    if not maxima.size:
        labels = np.zeros(maxima.shape, np.uint32)
        return labels if cut is None else (labels, labels > 0)
    markers, doubted = _markers(maxima, h, cut)
    smooth = ndimage.gaussian_filter(interior, smoothing_px)
    mask = smooth > np.float32(interior_threshold)
    np.negative(smooth, out=smooth)  # the innermost is flooded first
    labels = flood(smooth, markers, mask, ties=ties)
    del smooth, markers, mask
    doubtful = _surroundings(labels, doubted)
    labels = fill_holes(remove_small_objects(labels, min_area), max_hole)
    labels = remove_small_objects(labels, 1)  # numbers again: holes can swallow objects
    return labels if cut is None else (labels, doubtful)


def _markers(maxima: Float32, h: float, cut: Cut | None) -> tuple[Labels, Int64]:
    """Give numbers to the peaks (8 neighbours); name those in doubt."""
    markers = np.empty(maxima.shape, np.uint32)
    peaks, doubtful = h_maxima(maxima, h, cut or UNCUT)
    ndimage.label(peaks, np.ones((3, 3), bool), output=markers)
    return markers, np.unique(markers[doubtful]).astype(np.int64)


def _surroundings(labels: Labels, chosen: Int64) -> Mask:
    """Mark the bounding boxes, 1 px wider on all sides, of the chosen labels."""
    marked = np.zeros(labels.shape, np.bool_)
    if chosen.size:
        highest = max(int(chosen[-1]), int(labels.max()))
        for y0, x0, y1, x1 in _boxes(labels, chosen, highest):
            if y0 < y1:  # else the label does not occur
                marked[max(y0 - 1, 0) : y1 + 1, max(x0 - 1, 0) : x1 + 1] = True
    return marked


def _check(maxima: Float32, interior: Float32) -> None:
    if maxima.shape != interior.shape:
        raise InputError(
            f"maxima and interior must cover the same pixels, got shapes {maxima.shape} "
            f"and {interior.shape}."
        )
    if interior.ndim != 2 or interior.dtype != np.float32:
        raise InputError(
            f"interior has shape {interior.shape} and dtype {interior.dtype}, expected "
            f"(y, x) float32: pass one map, as float32."
        )
    if interior.size and not np.isfinite([interior.min(), interior.max()]).all():
        raise InputError(
            "interior holds NaN or infinity, expected finite values: the network or its "
            "input is broken."
        )


def remove_small_objects(labels: Labels, min_area: int) -> Labels:
    """Drop objects of fewer than `min_area` pixels and number the others.

    Parameters
    ----------
    labels : (y, x) uint32
    min_area : int
        An object of exactly so many pixels stays.

    Returns
    -------
    numbered : (y, x) uint32
        1..n, in the order of the old labels.
    """
    table = object_table(labels)
    kept = table.label[table.area >= min_area]
    return relabel(labels, kept, np.arange(1, kept.size + 1, dtype=np.uint32))


def fill_holes(labels: Labels, max_hole: int) -> Labels:
    """Fill the small holes of objects, as deepcell does.

    Objects are taken in the order of their labels. One whose Euler number is below 1 has
    every gap filled that has fewer than `max_hole` pixels. A gap is a connected part
    (4 neighbours) of what is not the object within the object's bounding box: background
    and other objects alike, and also notches that the box cuts off.

    Parameters
    ----------
    labels : (y, x) uint32
        Labels about 1..n, as `remove_small_objects` gives them: memory goes by the
        highest.
    max_hole : int
        A gap of exactly so many pixels stays.

    Returns
    -------
    filled : (y, x) uint32
        With the same labels; objects in a hole can be lost. May be `labels` itself.

    Raises
    ------
    InputError
        If a label is above the number of pixels (and 65536).

    Notes
    -----
    Euler numbers of all objects come from one pass over the 2 x 2 quads (Gray 1971),
    objects being 8-connected. Only objects that have a hole are looked at again.
    """
    highest = int(labels.max(initial=0))
    if highest > max(labels.size, _SMALL_TABLE):
        raise InputError(
            f"the highest label is {highest} in an image of {labels.size} pixels, expected "
            f"labels 1..n: number them with remove_small_objects first."
        )
    candidates = np.flatnonzero(euler_numbers(labels, highest) < 1)
    if not candidates.size or max_hole < 2:
        return labels
    boxes = _boxes(labels, candidates, highest)
    filled = labels.copy()
    _fill_all(filled, candidates, boxes, max_hole)
    return filled


@kernel
def euler_numbers(labels: Labels, highest: int) -> Int64:
    """Count the parts less the holes of every object.

    Parameters
    ----------
    labels : (y, x) uint32
    highest : int
        The highest label in `labels`.

    Returns
    -------
    numbers : (highest + 1,) int64
        Of 8-connected objects; 1 for the background and labels that do not occur.
    """
    height, width = labels.shape
    fourfold = np.zeros(highest + 1, np.int64)
    outside = np.zeros(width, labels.dtype)
    occurs = np.zeros(highest + 1, np.bool_)
    for y in range(height + 1):
        above = labels[y - 1] if y else outside
        below = labels[y] if y < height else outside
        a = c = np.uint32(0)
        for x in range(width + 1):
            b = above[x] if x < width else np.uint32(0)
            d = below[x] if x < width else np.uint32(0)
            if a != b or c != d or a != c:
                occurs[d] = True
                _count_quad(a, b, c, d, fourfold)
            a, c = b, d
    occurs[0] = False
    for label in range(highest + 1):
        fourfold[label] = fourfold[label] // 4 if occurs[label] else 1
    return fourfold


@kernel
def _count_quad(
    a: np.uint32, b: np.uint32, c: np.uint32, d: np.uint32, fourfold: Int64
) -> None:
    """Add a quad (a b over c d) to 4 x Euler number = Q1 - Q3 - 2 QD of its labels."""
    quad = (a, b, c, d)
    for k in range(4):
        label = quad[k]
        seen = False
        for j in range(k):
            seen |= quad[j] == label
        if label == 0 or seen:
            continue
        count = 0
        for j in range(k, 4):
            count += quad[j] == label
        if count == 1:
            fourfold[label] += 1
        elif count == 3:
            fourfold[label] -= 1
        elif count == 2 and (label == a == d or label == b == c):
            fourfold[label] -= 2


@kernel
def _boxes(labels: Labels, candidates: Int64, highest: int) -> Int64:
    """Bounding boxes (y0, x0, y1, x1; half-open) of the candidates."""
    height, width = labels.shape
    rows = np.full(highest + 1, -1, np.int64)
    boxes = np.empty((candidates.size, 4), np.int64)
    for i in range(candidates.size):
        rows[candidates[i]] = i
        boxes[i] = np.array([height, width, 0, 0])
    for y in range(height):
        for x in range(width):
            i = rows[labels[y, x]]
            if i >= 0:
                boxes[i, 0] = min(boxes[i, 0], y)
                boxes[i, 1] = min(boxes[i, 1], x)
                boxes[i, 2] = max(boxes[i, 2], y + 1)
                boxes[i, 3] = max(boxes[i, 3], x + 1)
    return boxes


@kernel
def _fill_all(labels: Labels, candidates: Int64, boxes: Int64, max_hole: int) -> None:
    """Fill the candidates' gaps, in place and in order."""
    for i in range(candidates.size):
        y0, x0, y1, x1 = boxes[i]
        box = labels[y0:y1, x0:x1]
        state = np.zeros(box.shape, np.uint8)
        for y in range(box.shape[0]):
            for x in range(box.shape[1]):
                if box[y, x] != candidates[i] and state[y, x] == 0:
                    _fill_gap(box, state, candidates[i], y, x, max_hole)


@kernel
def _fill_gap(
    box: Labels, state: NDArray[np.uint8], label: int, y: int, x: int, max_hole: int
) -> None:
    """Fill the gap that (y, x) is in if it is small.

    Measuring stops where the gap has `max_hole` pixels or meets one known to be large, so
    no gap costs more than its pixels.
    """
    stack = np.empty(max_hole, np.int64)
    stack[0] = (y << 32) | x
    state[y, x] = _MINE
    done, size, large = 0, 1, False
    while done < size and not large:
        y, x = stack[done] >> 32, stack[done] & 0xFFFFFFFF
        done += 1
        for yy, xx in ((y - 1, x), (y, x - 1), (y, x + 1), (y + 1, x)):
            if yy < 0 or xx < 0 or yy >= box.shape[0] or xx >= box.shape[1]:
                continue
            if box[yy, xx] == label or state[yy, xx] == _MINE:
                continue
            if state[yy, xx] == _LARGE or size == max_hole - 1:
                large = True
                break
            state[yy, xx] = _MINE
            stack[size] = (yy << 32) | xx
            size += 1
    for i in range(size):
        y, x = stack[i] >> 32, stack[i] & 0xFFFFFFFF
        state[y, x] = _LARGE
        if not large:
            box[y, x] = label
