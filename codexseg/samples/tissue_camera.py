"""Pixels of synthetic tissue: labels and intensities of the cells of `tissue_cells`.

Sums at a pixel have a fixed order, so that a pixel does not depend on the window in which
it is rendered. `area` is (y0, x0, height, width) of the rendered window, px.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"
from math import exp, floor, sqrt

import numpy as np

from codexseg.core.kernel import kernel
from codexseg.samples.tissue_cells import (
    GLOW,
    GRAIN,
    ILLUMINATION,
    SHOT,
    bent_point,
    lattice_hash,
    noise,
    normal,
    outside,
    solid_depth,
)

CAMERA_OFFSET = 300
LATTICE_PX = 8  # spacing of the slowly varying fields
_BEND_UM = 2.0  # largest growth of a cell by the distortion
_TAIL_UM = 1.8  # reach of the signal of a cell beyond its border
_FAR = np.float32(1e6)
_GAIN, _READ = 9.0, 14.0  # photon noise: counts per photon; read noise, counts

# By channel: signal of the ground substance (counts), and shares of a cell's signal in
# membrane, cytoplasm and nucleus.
_GROUND = np.array([160.0, 110.0, 90.0, 60.0, 240.0, 70.0])
_MEMBRANE = np.array([0.0, 0.65, 1.0, 1.0, 0.15, 0.0])
_CYTOPLASM = np.array([0.03, 0.60, 0.12, 0.18, 0.85, 0.04])
_NUCLEAR = np.array([1.0, 0.12, 0.03, 0.05, 0.15, 1.0])


@kernel
def bend(keys, area, scale):
    """Return the position of every pixel (2, y, x) after a smooth distortion, px."""
    y0, x0, height, width = area
    bent = np.empty((2, height, width))
    for y in range(height):
        for x in range(width):
            bent[0, y, x], bent[1, y, x] = bent_point(keys, y + y0, x + x0, scale)
    return bent


@kernel
def share(cells, bent, area, scale):
    """Return the nearest two cells of every pixel, -1 if none, and their distances.

    Returns
    -------
    near : (2, y, x) int32
        Indices of the cells.
    gap : (2, y, x) float32
        Distances outside of the cells, px; negative inside.
    """
    y0, x0, height, width = area
    near = np.full((2, height, width), np.int32(-1))
    gap = np.full((2, height, width), _FAR)
    tail = _TAIL_UM * scale
    for k in range(len(cells)):
        cell = cells[k]
        # Bounding box of the ellipse f = tail, grown by the distortion.
        grown = 1.0 + tail / cell.b
        high = grown * sqrt((cell.a * cell.sin) ** 2 + (cell.b * cell.cos) ** 2)
        wide = grown * sqrt((cell.a * cell.cos) ** 2 + (cell.b * cell.sin) ** 2)
        high, wide = high + _BEND_UM * scale, wide + _BEND_UM * scale
        top, left = max(0, int(cell.y - high) - y0), max(0, int(cell.x - wide) - x0)
        bottom = min(height, int(cell.y + high) + 2 - y0)
        right = min(width, int(cell.x + wide) + 2 - x0)
        for y in range(top, bottom):
            for x in range(left, right):
                f = np.float32(outside(cell, bent[0, y, x], bent[1, y, x]))
                if f >= tail or f >= gap[1, y, x]:
                    continue
                if f < gap[0, y, x]:
                    gap[1, y, x], near[1, y, x] = gap[0, y, x], near[0, y, x]
                    gap[0, y, x], near[0, y, x] = f, k
                else:
                    gap[1, y, x], near[1, y, x] = f, k
    return near, gap


@kernel
def _flood(source, value, y, x, stack, out, label):
    """Label the 4-connected component of `source == value` at (y, x), and erase it."""
    height, width = source.shape
    if not (0 <= y < height and 0 <= x < width) or source[y, x] != value:
        return
    source[y, x] = -1
    stack[0], n = y * width + x, 1
    while n:
        n -= 1
        y, x = stack[n] // width, stack[n] % width
        out[y, x] = label
        for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            i, j = y + dy, x + dx
            if 0 <= i < height and 0 <= j < width and source[i, j] == value:
                source[i, j] = -1
                stack[n] = i * width + j
                n += 1


@kernel
def _nuclear(cell, number, y, x):
    """Return the elliptic distance from the centre of a nucleus: 1 on its border."""
    dy, dx = y - cell.nby[number], x - cell.nbx[number]
    u, v = dx * cell.cos + dy * cell.sin, dy * cell.cos - dx * cell.sin
    return sqrt((u / cell.na) ** 2 + (v / cell.nb) ** 2)


@kernel
def label(cells, bent, near, gap, area, scale):
    """Return labels of cells and nuclei (y, x) uint32: components at their centres."""
    y0, x0, height, width = area
    whole, nuclei = np.zeros((2, height, width), np.uint32)
    source = np.full((height, width), np.int32(-1))
    stack = np.empty(height * width, np.int64)
    for y in range(height):
        for x in range(width):
            if gap[0, y, x] < 0:
                source[y, x] = near[0, y, x]
    for k in range(len(cells)):
        y, x = round(cells[k].y) - y0, round(cells[k].x) - x0
        _flood(source, k, y, x, stack, whole, np.uint32(2 * cells[k].slot + 1))
    source[:] = -1
    for y in range(height):
        for x in range(width):
            k = near[0, y, x]
            deep = min(-gap[0, y, x] - 0.4 * scale, gap[1, y, x] - gap[0, y, x] - scale)
            if whole[y, x] and deep > 0:
                for number in range(cells[k].n_nuclei):
                    if _nuclear(cells[k], number, bent[0, y, x], bent[1, y, x]) < 1.0:
                        source[y, x] = 2 * k + number
    for k in range(len(cells)):
        cell = cells[k]
        for number in range(cell.n_nuclei):
            y, x = round(cell.ny[number]) - y0, round(cell.nx[number]) - x0
            value = np.uint32(2 * cell.slot + 1 + number)
            _flood(source, 2 * k + number, y, x, stack, nuclei, value)
    return whole, nuclei


@kernel
def fields(keys, area, size, scale):
    """Return ground substance (0 to 1) and illumination (about 1) at lattice nodes."""
    y0, x0, height, width = area
    top, left = y0 // LATTICE_PX, x0 // LATTICE_PX
    rows = (y0 + height - 1) // LATTICE_PX - top + 2
    columns = (x0 + width - 1) // LATTICE_PX - left + 2
    slow = np.empty((2, rows, columns))
    for r in range(rows):
        for c in range(columns):
            y, x = (r + top) * LATTICE_PX / scale, (c + left) * LATTICE_PX / scale
            depth = solid_depth(keys, y, x, size, scale) / 8.0 + 0.5
            glow = 0.7 + 0.6 * noise(keys, GLOW, 0, y / 60.0, x / 60.0)
            slow[0, r, c] = min(1.0, max(0.0, depth)) * glow
            slow[1, r, c] = 1.0 + 0.16 * noise(keys, ILLUMINATION, 0, y / 420.0, x / 420.0)
    return slow


@kernel
def _signal(cells, near, gap, bent, y, x, scale, grain, out):
    """Write the noiseless signal of the nearest two cells, per channel, to `out`."""
    k, other = near[0, y, x], near[1, y, x]
    f, g = gap[0, y, x], gap[1, y, x]
    half, soft, cell = (g - f) / 2, 0.45 * scale, cells[k]
    deep = min(-f, half)
    rim = exp(-0.5 * (deep / soft) ** 2)
    body = min(1.0, max(0.0, deep / soft * 0.5 + 0.5))
    core = 0.0
    for number in range(cell.n_nuclei):
        e = _nuclear(cell, number, bent[0, y, x], bent[1, y, x])
        core = max(core, min(1.0, max(0.0, (1.0 - e) * cell.nb / (0.7 * scale) + 0.5)))
    core *= min(1.0, max(0.0, deep / soft))
    beside = 0.0
    if other >= 0:
        beside = exp(-0.5 * ((max(half, g) + 0.2 * scale) / soft) ** 2)
    for c in range(len(_GROUND)):
        shape = _MEMBRANE[c] * rim * (1.0 + 0.9 * grain[0])
        shape += _CYTOPLASM[c] * body * (1.0 - 0.75 * core) * (1.0 + 0.8 * grain[1])
        shape += _NUCLEAR[c] * core * (1.0 + 0.6 * grain[2] + 0.5 * grain[1])
        out[c] = cell.level[c] * max(0.0, shape)
        if other >= 0:
            out[c] += cells[other].level[c] * _MEMBRANE[c] * beside


@kernel
def shade(keys, cells, bent, near, gap, slow, area, scale):
    """Return the counts of the camera (c, y, x) uint16."""
    y0, x0, height, width = area
    n = len(_GROUND)
    pixels = np.empty((n, height, width), np.uint16)
    signal, grain = np.zeros(n), np.zeros(3)
    for y in range(height):
        for x in range(width):
            v, u = (y + y0) / scale, (x + x0) / scale
            grain[0] = noise(keys, GRAIN, 0, v / 3.0, u / 3.0)
            signal[:] = 0.0
            if near[0, y, x] >= 0:
                grain[1] = noise(keys, GRAIN, 1, v / 1.1, u / 1.1)
                grain[2] = noise(keys, GRAIN, 2, v / 2.4, u / 2.4)
                _signal(cells, near, gap, bent, y, x, scale, grain, signal)
            r, c = (y + y0) / LATTICE_PX, (x + x0) / LATTICE_PX
            i, j = int(r) - y0 // LATTICE_PX, int(c) - x0 // LATTICE_PX
            dy, dx = r - floor(r), c - floor(c)
            ground, illumination = (1 - dy) * (
                (1 - dx) * slow[:, i, j] + dx * slow[:, i, j + 1]
            ) + (dy * ((1 - dx) * slow[:, i + 1, j] + dx * slow[:, i + 1, j + 1]))
            for k in range(n):
                mean = illumination * (
                    signal[k] + _GROUND[k] * ground * (1.0 + 0.8 * grain[0])
                )
                spread = normal(lattice_hash(keys[SHOT] + np.uint64(k), y + y0, x + x0))
                count = CAMERA_OFFSET + mean + spread * sqrt(_GAIN * mean + _READ**2)
                pixels[k, y, x] = min(65535.0, max(0.0, floor(count + 0.5)))
    return pixels
