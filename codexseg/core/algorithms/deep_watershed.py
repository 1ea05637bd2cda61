"""Deep watershed: markers, flood, removal of small objects, hole filling and numbering.

Reimplementation of ``deepcell_toolbox.deep_watershed`` 0.12.1 with the settings of Mesmer
(Greenwald et al. 2022). The labels are identical. For maps with exactly equal marker
values, this requires ``ties="heap"``.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from codexseg.arrays import Float32, Int64, Labels, Mask
from codexseg.core.algorithms.flood import Ties, check_map, flood
from codexseg.core.algorithms.h_maxima import UNCUT, Cut, h_maxima
from codexseg.core.kernel import kernel
from codexseg.core.labels.operations import object_table, relabel
from codexseg.errors import InputError

_SMALL_TABLE = 1 << 16
_MINE, _LARGE = 1, 2  # gap being measured; gap too large to fill


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
    cut: Cut = UNCUT,
) -> tuple[Labels, Mask]:
    """Segment one compartment from the two maps that a network predicts for it.

    Parameters
    ----------
    maxima : (y, x) float32
        Map with a peak at the centre of each object (inner distance of Mesmer).
    interior : (y, x) float32
        Probability that a pixel is inside an object.
    h : float
        Minimum height of a peak that starts an object, in the units of `maxima`. Mesmer
        uses 0.075 for whole cells and 0.1 for nuclei.
    interior_threshold : float
        Objects consist of pixels with a smoothed `interior` above this value.
    smoothing_px : float
        Standard deviation of the Gaussian filter for `interior`, px.
    min_area : int
        Minimum area of an object, px. Smaller objects are removed.
    max_hole : int
        Holes of fewer pixels are filled, see `fill_holes`.
    ties : "raster" or "heap"
        Flooding order of marker pixels of exactly equal value, see `flood`. With "raster",
        labels do not depend on distant pixels. "heap" is the order of deepcell.
    cut : (top, left, bottom, right) bool
        The edges at which the maps were cut out of larger maps.

    Returns
    -------
    labels : (y, x) uint32
        1..n, in the raster order of the first pixels of the markers.
    doubtful : (y, x) bool
        Bounding boxes, enlarged by 1 px on all sides, of objects with a doubtful peak: the
        peak may be absent from the larger maps. Such an object can be at any distance from
        a cut edge, and small objects that are removed count as well. In the larger maps,
        the neighbours may occupy its pixels. Objects outside the boxes compete with the
        same neighbours in both. Peaks outside the mask are ignored. Without a cut edge,
        there are none.

    Raises
    ------
    InputError
        If the maps differ in shape, are not 2-D float32 arrays or contain NaN or infinity,
        if `h` is not above 0, or if `cut` does not have four elements.

    Notes
    -----
    `doubtful` covers peaks only. Objects near a cut edge are truncated, and the smoothed
    interior and the flood may differ there. Discard a margin at each cut edge.

    Peak memory besides the two maps is about 23 bytes per pixel including the result,
    compared with about 90 for deepcell.
    """
    _check(maxima, interior)
    if not maxima.size:
        return np.zeros(maxima.shape, np.uint32), np.zeros(maxima.shape, np.bool_)
    peaks, doubtful_peaks = h_maxima(maxima, h, cut)
    markers = np.empty(maxima.shape, np.uint32)
    ndimage.label(peaks, np.ones((3, 3), bool), output=markers)
    doubted = np.unique(markers[doubtful_peaks]).astype(np.int64)
    del peaks, doubtful_peaks
    smooth = ndimage.gaussian_filter(interior, smoothing_px)
    mask = smooth > np.float32(interior_threshold)
    np.negative(smooth, out=smooth)  # flood from the highest interior value
    labels = flood(smooth, markers, mask, ties=ties)
    del smooth, markers, mask
    doubtful = _surroundings(labels, doubted)
    labels = fill_holes(remove_small_objects(labels, min_area), max_hole)
    labels = remove_small_objects(labels, 1)  # renumber: filled holes can remove objects
    return labels, doubtful


def _surroundings(labels: Labels, chosen: Int64) -> Mask:
    """Return a mask of the chosen labels' bounding boxes, enlarged by 1 px each side."""
    marked = np.zeros(labels.shape, np.bool_)
    if chosen.size:
        highest = max(int(chosen[-1]), int(labels.max()))
        for y0, x0, y1, x1 in _boxes(labels, chosen, highest):
            if y0 < y1:  # false for labels without pixels
                marked[max(y0 - 1, 0) : y1 + 1, max(x0 - 1, 0) : x1 + 1] = True
    return marked


def _check(maxima: Float32, interior: Float32) -> None:
    """Raise InputError unless the maps match and `interior` is 2-D, float32 and finite."""
    if maxima.shape != interior.shape:
        raise InputError(
            f"maxima and interior have shapes {maxima.shape} and {interior.shape}. "
            f"Pass two maps of the same shape."
        )
    check_map(interior, "interior")
    if interior.size and not np.isfinite([interior.min(), interior.max()]).all():
        raise InputError(
            "interior contains NaN or infinity, expected finite values. Check the network "
            "and its input."
        )


def remove_small_objects(labels: Labels, min_area: int) -> Labels:
    """Remove objects of fewer than `min_area` pixels and renumber the rest.

    Parameters
    ----------
    labels : (y, x) uint32
    min_area : int
        Minimum area of an object, px. Objects of exactly this area are kept.

    Returns
    -------
    numbered : (y, x) uint32
        1..n, in the order of the input labels.
    """
    table = object_table(labels)
    kept = table.label[table.area >= min_area]
    return relabel(labels, kept, np.arange(1, kept.size + 1, dtype=np.uint32))


def fill_holes(labels: Labels, max_hole: int) -> Labels:
    """Fill small holes of objects with the algorithm of deepcell.

    Objects are processed in label order. In an object with an Euler number below 1, every
    gap of fewer than `max_hole` pixels is filled. A gap is a connected component
    (4 neighbours) of the complement of the object in its bounding box. Gaps therefore
    include other objects, and notches that the bounding box closes.

    Parameters
    ----------
    labels : (y, x) uint32
        Labels close to 1..n, such as the output of `remove_small_objects`. Memory is
        proportional to the highest label.
    max_hole : int
        Gaps of this many pixels or more are kept.

    Returns
    -------
    filled : (y, x) uint32
        The same labels. Objects inside a filled hole are removed. May be the input array.

    Raises
    ------
    InputError
        If a label exceeds both the number of pixels and 65536.

    Notes
    -----
    The Euler numbers of all objects are counted in one pass over 2 x 2 quads (Gray 1971)
    with 8-connectivity. Only objects with a hole are processed further.
    """
    highest = int(labels.max(initial=0))
    if highest > max(labels.size, _SMALL_TABLE):
        raise InputError(
            f"Highest label is {highest} in an image of {labels.size} pixels, expected "
            f"labels 1..n. Renumber the labels with remove_small_objects."
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
    """Return the Euler number (components minus holes) of every object.

    Quads are counted after Gray (1971): with 8-connectivity, 4 E = Q1 - Q3 - 2 QD.

    Parameters
    ----------
    labels : (y, x) uint32
    highest : int
        The highest label in `labels`.

    Returns
    -------
    numbers : (highest + 1,) int64
        Indexed by label; 1 for the background and for labels without pixels.
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
    """Add a quad, rows (a, b) and (c, d), to Q1 - Q3 - 2 QD of each of its labels.

    Q1 and Q3 are quads with one and three pixels of a label, QD those with two diagonal
    pixels (Gray 1971).
    """
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
    """Return the bounding boxes (y0, x0, y1, x1; half-open) of the candidates."""
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
    """Fill the small gaps of each candidate in turn, in place."""
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
    """Fill the gap at (y, x) if it has fewer than `max_hole` pixels, in place.

    Flood fill with 4 neighbours. It stops at `max_hole` pixels or at a pixel of a gap
    already found too large, so the cost of a gap is linear in its pixels.
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
