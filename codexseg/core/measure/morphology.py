"""Shape measurements of objects: moments, axes and convex hulls.

Sums are exact 64-bit integers, so the results of an object are independent of the window.
The definitions are those of `skimage.measure.regionprops`, which takes about fifty times
longer.
"""

import numpy as np
from numpy.typing import NDArray

from codexseg.arrays import Columns, Float64, Int64
from codexseg.core.kernel import kernel

Index = NDArray[np.int32]
"""Position of the object at each pixel, -1 for none; also runs of pixels."""

_FAR = 2**40
"""Larger than any column; marks rows without a pixel of the object."""


def measure_shapes(index: Index, n: int, origin: tuple[int, int]) -> Columns:
    """Measure size, position and shape of objects.

    Parameters
    ----------
    index : (y, x) int32
        Position 0..n-1 of the object at each pixel, -1 for none.
    n : int
        Number of objects.
    origin : (int, int)
        Row and column of the window's first pixel on the slide, px.

    Returns
    -------
    columns : dict of (n,) arrays
        `area` (px, int64); `y`, `x` (centroid, px of the slide); `bbox_y0`, `bbox_x0`,
        `bbox_y1`, `bbox_x1` (px of the slide, half-open); `eccentricity`;
        `axis_major_length`, `axis_minor_length` (px); `orientation` (radians between
        axis 0 and the major axis, -pi/2 to pi/2). All columns except `area` are float64.
        An object without pixels has area 0 and NaN in all other columns.

    Notes
    -----
    The definitions are those of `skimage.measure.regionprops`: the ellipse has the second
    central moments of the pixel centres. The moments are exact 64-bit integers about the
    pixel below the centroid, which avoids cancellation.
    """
    boxes, sums = _moments(index, n)
    area = sums[0]
    with np.errstate(invalid="ignore", divide="ignore"):
        (y, x), (rest_y, rest_x), (yy, xx, xy) = _central(sums)
        mean_yy = yy / area - (rest_y / area) ** 2
        mean_xx = xx / area - (rest_x / area) ** 2
        mean_xy = xy / area - (rest_y / area) * (rest_x / area)
        major, minor = _eigenvalues(mean_yy, mean_xx, mean_xy)
        flat = np.where(major == 0, 0.0, np.sqrt(1 - minor / major))
        columns: Columns = {
            "y": (y + origin[0]) + rest_y / area,
            "x": (x + origin[1]) + rest_x / area,
            **{
                f"bbox_{edge}": (boxes[i] + origin[i % 2]).astype(np.float64)
                for i, edge in enumerate(("y0", "x0", "y1", "x1"))
            },
            "eccentricity": flat,
            "axis_major_length": 4 * np.sqrt(major),
            "axis_minor_length": 4 * np.sqrt(minor),
            "orientation": _orientation(mean_yy, mean_xx, mean_xy),
        }
    empty = area == 0
    return {"area": area} | {
        name: np.where(empty, np.nan, values) for name, values in columns.items()
    }


def solidity(index: Index, n: int) -> Float64:
    """Return the ratio of each object's area to the area of its convex hull.

    Parameters
    ----------
    index : (y, x) int32
        Position 0..n-1 of the object at each pixel, -1 for none.
    n : int
        Number of objects.

    Returns
    -------
    solidity : (n,) float64
        In (0, 1]; NaN for an object without pixels.

    Notes
    -----
    The definition is that of `skimage.measure.regionprops`: the hull encloses the midpoints
    of all pixel edges, and its area is the number of pixel centres inside or on its
    border. The hull is computed in exact integers (monotone chains, Andrew 1979).
    """
    boxes, sums = _moments(index, n)
    height = np.where(sums[0] > 0, boxes[2] - boxes[0], 0)
    offsets = np.concatenate([[0], np.cumsum(height)]).astype(np.int64)
    hulls = _hull_areas(index, boxes[0], offsets)
    with np.errstate(invalid="ignore"):
        return np.where(sums[0] > 0, sums[0] / hulls, np.nan)


def _central(sums: Int64) -> tuple[Int64, ...]:
    """Shift moments to the pixel below the centroid: that pixel, remainder, moments."""
    area = np.maximum(sums[0], 1)
    first = sums[1:3]
    place = first // area
    rest = first - place * area
    square = sums[3:5] - 2 * place * first + place**2 * area
    mixed = sums[5] - place[0] * first[1] - place[1] * first[0] + place[0] * place[1] * area
    return place, rest, np.stack([square[0], square[1], mixed])


def _eigenvalues(yy: Float64, xx: Float64, xy: Float64) -> tuple[Float64, Float64]:
    middle, radius = (yy + xx) / 2, np.hypot((yy - xx) / 2, xy)
    return middle + radius, np.maximum(middle - radius, 0)


def _orientation(yy: Float64, xx: Float64, xy: Float64) -> Float64:
    diagonal = np.where(xy > 0, np.pi / 4, -np.pi / 4)
    twice = 2 * xy + 0.0  # -0.0 would rotate the angle by pi
    return np.where(yy == xx, diagonal, 0.5 * np.arctan2(twice, yy - xx))


@kernel
def _moments(index: Index, n: int) -> tuple[Int64, Int64]:
    """Return boxes (y0, x0, y1, x1) and sums of 1, y, x, yy, xx, xy, px of the window."""
    height, width = index.shape
    boxes, sums = np.zeros((4, n), np.int64), np.zeros((6, n), np.int64)
    for y in range(height):
        x = 0
        while x < width:
            i, start = index[y, x], x
            x += 1
            while x < width and index[y, x] == i:
                x += 1
            if i < 0:
                continue
            if sums[0, i] == 0:
                boxes[0, i], boxes[1, i], boxes[3, i] = y, start, x
            boxes[1, i], boxes[2, i] = min(boxes[1, i], start), y + 1
            boxes[3, i] = max(boxes[3, i], x)
            # Sums of a run in closed form: squares below m sum to (m-1) m (2m-1) / 6.
            length = x - start
            first = (start + x - 1) * length // 2
            squares = (x - 1) * x * (2 * x - 1) // 6
            squares -= (start - 1) * start * (2 * start - 1) // 6
            sums[0, i] += length
            sums[1, i] += y * length
            sums[2, i] += first
            sums[3, i] += y * y * length
            sums[4, i] += squares
            sums[5, i] += y * first
    return boxes, sums


@kernel
def _hull_areas(index: Index, tops: Int64, offsets: Int64) -> Int64:
    """Count the pixel centres in the hulls; object i has rows offsets[i:i + 2]."""
    left = np.full(offsets[-1], _FAR, np.int64)
    right = np.full(offsets[-1], _FAR, np.int64)  # mirrored: minus the last column
    for y in range(index.shape[0]):
        for x in range(index.shape[1]):
            i = index[y, x]
            if i >= 0:
                row = offsets[i] + y - tops[i]
                left[row], right[row] = min(left[row], x), min(right[row], -x)
    areas = np.zeros(offsets.size - 1, np.int64)
    for i in range(areas.size):
        if offsets[i] < offsets[i + 1]:
            own = slice(offsets[i], offsets[i + 1])
            ends = _first_centres(right[own]) + _first_centres(left[own])
            areas[i] = (1 - ends).sum()
    return areas


@kernel
def _first_centres(columns: Int64) -> Int64:
    """Return the first pixel centre of each row in the hull of the pixels' edge midpoints.

    Units are half pixels: row r is y = 2r, and its pixel at column x contributes the points
    (2r - 1, 2x), (2r, 2x - 1) and (2r + 1, 2x). Left half of the monotone chain algorithm
    (Andrew 1979).
    """
    rows = columns.size
    points = np.full(2 * rows + 1, _FAR)  # smallest column at y = -1, 0, ... 2 rows - 1
    for r in range(rows):
        if columns[r] < _FAR:
            points[2 * r] = min(points[2 * r], 2 * columns[r])
            points[2 * r + 1] = 2 * columns[r] - 1
            points[2 * r + 2] = 2 * columns[r]
    chain, top = np.empty(points.size, np.int64), 0
    for k in range(points.size):
        if points[k] == _FAR:
            continue
        while top > 1:  # drop points on or right of the line through their neighbours
            a, b = chain[top - 2], chain[top - 1]
            if (points[b] - points[a]) * (k - a) < (points[k] - points[a]) * (b - a):
                break
            top -= 1
        chain[top] = k
        top += 1
    first, at = np.empty(rows, np.int64), 0
    for r in range(rows):
        k = 2 * r + 1
        while chain[at + 1] < k:
            at += 1
        a, b = chain[at], chain[at + 1]
        column = points[a] * (b - a) + (points[b] - points[a]) * (k - a)
        first[r] = -((-column) // (2 * (b - a)))
    return first
