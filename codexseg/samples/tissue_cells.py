"""Cells of synthetic tissue: positions, shapes, nuclei and markers.

The anatomy is smooth noise over micrometres. A cell is a row of the structured dtype
`CELL`, in px. `scale` is px per um, `keys` (N_STREAMS,) uint64 are derived from the seed.

A lattice has one candidate per square. Candidates are placed by random sequential
adsorption in a few synchronous rounds, so that a cell depends only on candidates within
ROUNDS x CONTACT_UM.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"
from math import cos, exp, floor, pi, sin, sqrt

import numpy as np

from codexseg.core.kernel import kernel

CHANNELS = ("DAPI", "PANCK", "CD45", "CD3", "VIM", "KI67")
CELL = np.dtype(
    [("slot", "i8"), ("kind", "i8"), ("n_nuclei", "i8"), ("rank", "u8")]
    + [(name, "f8") for name in ("y", "x", "by", "bx", "a", "b", "cos", "sin")]
    + [("na", "f8"), ("nb", "f8"), ("ny", "f8", (2,)), ("nx", "f8", (2,))]
    + [("nby", "f8", (2,)), ("nbx", "f8", (2,)), ("level", "f8", (len(CHANNELS),))]
    + [("positive", "u1", (len(CHANNELS),))]
)

PITCH_UM = 4.0  # side of a lattice square, with one candidate cell each
REACH_UM = 12.0  # largest extent of a distorted cell from its centre
CONTACT_UM = 15.5  # cells farther apart than this do not touch
ROUNDS = 5  # of adsorption; candidates undecided after them are not placed
ABSENT, WAITING, PLACED = 0, 1, 2
TUMOUR, IMMUNE, STROMA = 0, 1, 2
_NEIGHBOURS = int(CONTACT_UM / PITCH_UM) + 1
_MAX_LONG_UM = 9.5  # long half axis
_CLEAR_UM = 2.2  # minimum depth of a nucleus centre in its cell, relative to other cells

# Streams of random numbers, each with its own key and numbered sub-streams.
(WARP, BEND, NEST, LYMPH, SPARSE, EDGE, GLOW, GRAIN, ILLUMINATION, PLACE, RANK, KIND, SIZE,
 TURN, NUCLEUS, MARK, LEVEL, SHOT) = range(18)  # fmt: skip
N_STREAMS = 18

# By channel: typical signal of positive and of negative cells, counts.
_BRIGHT = np.array([7000.0, 5200.0, 4200.0, 3200.0, 2600.0, 4600.0])
_DIM = np.array([150.0, 90.0, 60.0, 40.0, 110.0, 50.0])
_NEEDS_NUCLEUS = np.array([True, False, False, False, False, True])
# By kind: fraction of positive cells per channel.
_POSITIVE = np.array(
    [
        [1.0, 0.95, 0.0, 0.0, 0.03, 0.25],
        [1.0, 0.0, 1.0, 0.6, 0.2, 0.08],
        [1.0, 0.0, 0.0, 0.0, 0.95, 0.02],
    ]
)
# By kind: minimum and maximum of the short half axis (um), of the elongation, and of the
# ratio of nuclear to cell axes. Cells closer than `_CONTACT` times their radii do not
# coexist; kinds with smaller values are packed more tightly.
_SHAPE = np.array(
    [
        [5.8, 7.4, 1.0, 1.35, 0.45, 0.62],
        [4.2, 5.1, 1.0, 1.2, 0.62, 0.76],
        [2.5, 3.6, 1.6, 3.2, 0.5, 0.66],
    ]
)
_CONTACT = np.array([0.62, 0.66, 0.80])


@kernel
def lattice_hash(key, y, x):
    """Return 64 random bits of a lattice point (multiply-xorshift, as in splitmix64)."""
    h = key ^ (np.uint64(y) * np.uint64(0x9E3779B97F4A7C15))
    h = (h ^ (h >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    h = h ^ (np.uint64(x) * np.uint64(0xC2B2AE3D27D4EB4F))
    h = (h ^ (h >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    h = (h ^ (h >> np.uint64(29))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(32))


@kernel
def _unit(keys, stream, number, y, x):
    """Return a uniform random number in [0, 1) of a stream at a lattice point."""
    h = lattice_hash(keys[stream] + np.uint64(number), y, x)
    return float(h >> np.uint64(11)) * 2.0**-53


@kernel
def normal(h):
    """Return a nearly standard normal number: the sum of four 16-bit parts of a hash."""
    low = np.uint64(0xFFFF)
    total = (h & low) + ((h >> np.uint64(16)) & low) + ((h >> np.uint64(32)) & low)
    return (float(total + (h >> np.uint64(48))) / 65536.0 - 2.0) * sqrt(3.0)


@kernel
def _slope(key, iy, ix, dy, dx):
    h = lattice_hash(key, iy, ix)
    gy = float(h & np.uint64(0xFFFF)) * (2.0 / 65535.0) - 1.0
    gx = float((h >> np.uint64(16)) & np.uint64(0xFFFF)) * (2.0 / 65535.0) - 1.0
    return gy * dy + gx * dx


@kernel
def noise(keys, stream, number, y, x):
    """Return gradient noise (Perlin 2002) with lattice spacing 1, in (-1, 1), mean 0."""
    key = keys[stream] + np.uint64(number)
    iy, ix = floor(y), floor(x)
    dy, dx = y - iy, x - ix
    sy = dy * dy * dy * (dy * (6.0 * dy - 15.0) + 10.0)
    sx = dx * dx * dx * (dx * (6.0 * dx - 15.0) + 10.0)
    top = _slope(key, iy, ix, dy, dx)
    top += sx * (_slope(key, iy, ix + 1, dy, dx - 1.0) - top)
    low = _slope(key, iy + 1, ix, dy - 1.0, dx)
    low += sx * (_slope(key, iy + 1, ix + 1, dy - 1.0, dx - 1.0) - low)
    return top + sy * (low - top)


@kernel
def _nest(keys, y, x):
    """Return the depth of a position (um) in a tumour nest; negative in the stroma."""
    by = y + 45.0 * noise(keys, BEND, 0, y / 90.0, x / 90.0)
    bx = x + 45.0 * noise(keys, BEND, 1, y / 90.0, x / 90.0)
    wide = noise(keys, NEST, 0, by / 120.0, bx / 120.0)
    fine = noise(keys, NEST, 1, (by + bx) / 62.0, (bx - by) / 62.0)
    return wide + 0.4 * fine


@kernel
def _depth(keys, y, x, size, scale):
    """Return the approximate depth (um) of a position in tissue; negative on glass."""
    height, width = size[0] / scale, size[1] / scale
    v, u = abs(y / height - 0.5) / 0.45, abs(x / width - 0.56) / 0.50
    edge = 1.0 - (u**3 + v**3) ** (1.0 / 3.0)
    edge += 0.45 * noise(keys, EDGE, 0, 3.1 * y / height, 3.1 * x / width)
    edge += 0.12 * noise(keys, EDGE, 1, 11.0 * y / height, 11.0 * x / width)
    rough = 10.0 * noise(keys, EDGE, 2, y / 25.0, x / 25.0)
    return 0.5 * min(height, width) * edge + rough


@kernel
def solid_depth(keys, y, x, size, scale):
    """Return the approximate depth (um) of a position in tissue without lumen or vessel."""
    depth = _depth(keys, y, x, size, scale)
    nest = _nest(keys, y, x)
    depth = min(depth, 130.0 * (0.40 - nest))
    vessel = noise(keys, SPARSE, 1, y / 70.0, x / 70.0)
    return min(depth, 90.0 * (0.52 - vessel))


@kernel
def _choose(keys, gy, gx, y, x):
    """Return the kind of a candidate at a position (um) and its probability to exist."""
    nest, draw = _nest(keys, y, x), _unit(keys, KIND, 0, gy, gx)
    if nest > 0.03:
        return (IMMUNE if draw < 0.06 else TUMOUR), 1.0
    lymph = noise(keys, LYMPH, 0, y / 130.0, x / 130.0)
    lymph += 0.4 * noise(keys, LYMPH, 1, y / 45.0, x / 45.0)
    if lymph > 0.24:
        return (STROMA if draw < 0.05 else IMMUNE), 1.0
    sparse = 0.22 + 0.55 * noise(keys, SPARSE, 0, y / 85.0, x / 85.0)
    immune = 0.25 + 1.2 * lymph
    return (IMMUNE if draw < immune else STROMA), min(1.0, max(0.04, sparse))


@kernel
def _angle(keys, gy, gx, kind, y, x):
    """Return the direction of the long axis: along the nest in stroma, else random."""
    turn = _unit(keys, TURN, 0, gy, gx)
    if kind != STROMA:
        return pi * turn
    step, here = 4.0, _nest(keys, y, x)
    dy, dx = _nest(keys, y + step, x) - here, _nest(keys, y, x + step) - here
    return np.arctan2(dx, -dy) + 0.9 * (turn - 0.5)


@kernel
def propose(keys, cells, block, columns, size, scale):
    """Fill a block with candidate cells, one per lattice square; return their states."""
    state = np.zeros(cells.shape, np.uint8)
    pitch = PITCH_UM * scale
    for r in range(cells.shape[0]):
        for c in range(cells.shape[1]):
            gy, gx, cell = r + block[0], c + block[1], cells[r, c]
            y = (gy + _unit(keys, PLACE, 0, gy, gx)) * pitch - 0.5
            x = (gx + _unit(keys, PLACE, 1, gy, gx)) * pitch - 0.5
            if not (0 <= y <= size[0] - 1 and 0 <= x <= size[1] - 1):
                continue
            if solid_depth(keys, y / scale, x / scale, size, scale) < 2.5:
                continue
            kind, chance = _choose(keys, gy, gx, y / scale, x / scale)
            if _unit(keys, KIND, 1, gy, gx) >= chance:
                continue
            shape = _SHAPE[kind]
            short = shape[0] + (shape[1] - shape[0]) * _unit(keys, SIZE, 0, gy, gx)
            long = shape[2] + (shape[3] - shape[2]) * _unit(keys, SIZE, 1, gy, gx)
            if kind == TUMOUR and _unit(keys, NUCLEUS, 0, gy, gx) > 0.92:
                short, long = 6.6, 1.4  # room for two nuclei
            angle = _angle(keys, gy, gx, kind, y / scale, x / scale)
            cell.slot, cell.kind, cell.y, cell.x = gy * columns + gx, kind, y, x
            cell.rank = lattice_hash(keys[RANK], gy, gx)
            cell.b, cell.a = short * scale, min(short * long, _MAX_LONG_UM) * scale
            cell.cos, cell.sin = cos(angle), sin(angle)
            state[r, c] = WAITING
    return state


@kernel
def _radius(cell, dy, dx):
    """Return the radius of a cell in a direction."""
    u, v = dx * cell.cos + dy * cell.sin, dy * cell.cos - dx * cell.sin
    norm = (u / cell.a) ** 2 + (v / cell.b) ** 2
    return sqrt((dy * dy + dx * dx) / norm)


@kernel
def _verdict(cells, state, r, c, reach):
    """Return the state of a waiting candidate after a round."""
    cell, verdict = cells[r, c], PLACED
    for i in range(max(0, r - _NEIGHBOURS), min(cells.shape[0], r + _NEIGHBOURS + 1)):
        for j in range(max(0, c - _NEIGHBOURS), min(cells.shape[1], c + _NEIGHBOURS + 1)):
            other = cells[i, j]
            if state[i, j] == ABSENT or (i == r and j == c):
                continue
            if state[i, j] == WAITING and other.rank > cell.rank:
                continue
            dy, dx = other.y - cell.y, other.x - cell.x
            distance = dy * dy + dx * dx
            if distance >= reach * reach:
                continue
            room = _CONTACT[cell.kind] * _radius(cell, dy, dx)
            room += _CONTACT[other.kind] * _radius(other, dy, dx)
            if distance < room * room:
                if state[i, j] == PLACED:
                    return ABSENT
                verdict = WAITING
    return verdict


@kernel
def adsorb(cells, state, scale):
    """Place candidates by rank unless a placed cell is too close; updates `state`.

    Random sequential adsorption in synchronous rounds: a decision in a round depends only
    on candidates within CONTACT_UM. Those still waiting at the end are not placed.
    """
    reach = CONTACT_UM * scale
    for _ in range(ROUNDS):
        before = state.copy()
        for r in range(state.shape[0]):
            for c in range(state.shape[1]):
                if before[r, c] == WAITING:
                    state[r, c] = _verdict(cells, before, r, c, reach)


@kernel
def bent_point(keys, y, x, scale):
    """Return a point (px) after a smooth distortion, after which cells are ellipses."""
    v, u = y / scale, x / scale
    dy = 2.0 * noise(keys, WARP, 0, v / 12.0, u / 12.0)
    dx = 2.0 * noise(keys, WARP, 1, v / 12.0, u / 12.0)
    dy += 0.5 * noise(keys, WARP, 2, v / 3.5, u / 3.5)
    dx += 0.5 * noise(keys, WARP, 3, v / 3.5, u / 3.5)
    return y + scale * dy, x + scale * dx


@kernel
def outside(cell, y, x):
    """Return the approximate distance (px) of a bent point from a cell; -b at centre."""
    dy, dx = y - cell.by, x - cell.bx
    u, v = dx * cell.cos + dy * cell.sin, dy * cell.cos - dx * cell.sin
    return (sqrt((u / cell.a) ** 2 + (v / cell.b) ** 2) - 1.0) * cell.b


@kernel
def _set_nucleus(keys, cells, state, r, c, number, y, x, size, scale):
    """Place a nucleus at a point if that is on the slide and clear of other cells."""
    by, bx = bent_point(keys, y, x, scale)
    own = outside(cells[r, c], by, bx) + _CLEAR_UM * scale
    if own > 0.6 * scale or not (0 <= y <= size[0] - 1 and 0 <= x <= size[1] - 1):
        return False
    for i in range(max(0, r - _NEIGHBOURS), min(cells.shape[0], r + _NEIGHBOURS + 1)):
        for j in range(max(0, c - _NEIGHBOURS), min(cells.shape[1], c + _NEIGHBOURS + 1)):
            if state[i, j] != PLACED or (i == r and j == c):
                continue
            if outside(cells[i, j], by, bx) < own:
                return False
    cell = cells[r, c]
    cell.ny[number], cell.nx[number] = y, x
    cell.nby[number], cell.nbx[number] = by, bx
    return True


@kernel
def _set_nuclei(keys, cells, state, r, c, gy, gx, size, scale):
    """Set centres and half axes of up to two nuclei of a cell."""
    cell, draw = cells[r, c], _unit(keys, NUCLEUS, 0, gy, gx)
    shape = _SHAPE[cell.kind]
    cell.n_nuclei = 0
    if draw < 0.06:
        return
    away = 0.44 * cell.a
    if cell.kind == TUMOUR and draw > 0.92:
        y, x = away * cell.sin, away * cell.cos
        if _set_nucleus(
            keys, cells, state, r, c, 0, cell.y + y, cell.x + x, size, scale
        ) and _set_nucleus(
            keys, cells, state, r, c, 1, cell.y - y, cell.x - x, size, scale
        ):
            cell.n_nuclei, cell.na, cell.nb = 2, away - 0.9 * scale, 0.5 * cell.b
            return
    share = shape[4] + (shape[5] - shape[4]) * _unit(keys, NUCLEUS, 1, gy, gx)
    turn = 2 * pi * _unit(keys, NUCLEUS, 2, gy, gx)
    shift = 0.5 * (1.0 - share) * cell.b * _unit(keys, NUCLEUS, 3, gy, gx)
    y, x = cell.y + shift * sin(turn), cell.x + shift * cos(turn)
    if _set_nucleus(keys, cells, state, r, c, 0, y, x, size, scale) or _set_nucleus(
        keys, cells, state, r, c, 0, cell.y, cell.x, size, scale
    ):
        cell.n_nuclei, cell.na, cell.nb = 1, share * cell.a, share * cell.b


@kernel
def furnish(keys, cells, state, block, size, scale):
    """Set nuclei, markers and intensities of the placed cells, in place."""
    for r in range(cells.shape[0]):
        for c in range(cells.shape[1]):
            cell = cells[r, c]
            if state[r, c] == PLACED:
                cell.by, cell.bx = bent_point(keys, cell.y, cell.x, scale)
    for r in range(cells.shape[0]):
        for c in range(cells.shape[1]):
            if state[r, c] != PLACED:
                continue
            gy, gx, cell = r + block[0], c + block[1], cells[r, c]
            _set_nuclei(keys, cells, state, r, c, gy, gx, size, scale)
            for k in range(len(_BRIGHT)):
                has = _unit(keys, MARK, k, gy, gx) < _POSITIVE[cell.kind, k]
                if _NEEDS_NUCLEUS[k] and cell.n_nuclei == 0:
                    has = False
                spread = normal(lattice_hash(keys[LEVEL] + np.uint64(k), gy, gx))
                typical = _BRIGHT[k] if has else _DIM[k]
                cell.positive[k], cell.level[k] = has, typical * exp(0.3 * spread)
            if cell.kind == IMMUNE:
                cell.level[0] *= 1.25  # small, dense nuclei
