"""h-maxima: maxima at least h above their surroundings (Soille 2003, chapter 6).

Pixel p with value f(p) is an h-maximum if f(p) - R(p) >= h, where R is the greyscale
reconstruction by dilation of f - h under f. By Vincent (1993),

    R(p) = max over paths q ~> p of min(f(q) - h, min of f over the path).

Therefore p is not an h-maximum if and only if a path of pixels r with f(p) - f(r) < h
leads from p to a pixel q with f(p) - (f(q) - h) < h. A search from p outward finds such a
path, usually at a neighbour of p, and no image is reconstructed.

In a window of a larger image, such a path also exists in the image, so a pixel rejected
in the window is rejected in the image. A maximum of the window may be rejected by pixels
beyond a cut edge, unless the search, which then visited all pixels connected to p, stayed
away from every cut edge.
"""

from typing import overload

import numpy as np
from numpy.typing import NDArray

from codexseg.arrays import Float32, Int64, Mask
from codexseg.core.kernel import kernel
from codexseg.errors import InputError

State = NDArray[np.uint8]
Cut = tuple[bool, bool, bool, bool]  # is the image cut at the top, left, bottom, right?
Box = tuple[int, int, int, int]

UNCUT = (False, False, False, False)

# Lowering takes this part of a value beyond h, as scikit-image does, so that rounding
# never leaves a lowered pixel less than h below itself.
_SLACK = np.float32(2) * np.finfo(np.float32).resolution

# State of a pixel; SEEN and DOUBT, which goes with MAXIMUM, are flags.
_LOWER, _MAXIMUM, _OPEN, _SEEN, _DOUBT = 0, 1, 2, 4, 8

# A disk of radius 2 without its centre, the nearest first.
_REACH = 2
_DY = np.array([-1, 0, 0, 1, -1, -1, 1, 1, -2, 0, 0, 2])
_DX = np.array([0, -1, 1, 0, -1, 1, -1, 1, 0, -2, 2, 0])


@overload
def h_maxima(image: Float32, h: float, cut: None = None) -> Mask: ...
@overload
def h_maxima(image: Float32, h: float, cut: Cut) -> tuple[Mask, Mask]: ...
def h_maxima(image: Float32, h: float, cut: Cut | None = None) -> Mask | tuple[Mask, Mask]:
    """Mark the maxima of height `h` or more.

    Equal to ``skimage.morphology.h_maxima(image, h, footprint=disk(2))`` with its float32
    arithmetic (0.25.2 and 0.26).

    Parameters
    ----------
    image : (y, x) float32
        Finite values.
    h : float
        Least height, above 0, in the units of `image`.
    cut : (top, left, bottom, right) bool, optional
        The edges at which `image` was cut out of a larger one.

    Returns
    -------
    maxima : (y, x) bool
        All false where `h` exceeds the range of `image`, unless an edge is cut: then the
        range is not known, and the highest pixels are maxima, in doubt.
    doubtful : (y, x) bool
        Only with `cut`: the maxima that need not be maxima of the larger image. All
        other pixels, maxima or not, are in it what they are here.

    Raises
    ------
    InputError
        If `image` is no 2-D float32 array, holds NaN or infinity, `h` is not above 0, or
        `cut` does not name four edges.

    Notes
    -----
    Time is close to linear in the pixels: a search stops at a pixel known to be no
    maximum and settles what it has seen. Memory: 1 byte per pixel, and 8 per pixel of the
    largest search, in practice a cell or the gap between two.
    """
    if image.ndim != 2 or image.dtype != np.float32:
        raise InputError(
            f"image has shape {image.shape} and dtype {image.dtype}, expected (y, x) "
            f"float32: pass one map, as float32."
        )
    if not h > 0:
        raise InputError(f"h is {h}, expected a height above 0.")
    if cut is not None and len(cut) != 4:
        raise InputError(f"cut is {cut}, expected (top, left, bottom, right).")
    if not image.size:
        maxima = np.zeros(image.shape, np.bool_)
        return maxima if cut is None else (maxima, maxima.copy())
    low, high = image.min(), image.max()
    if not np.isfinite(low) or not np.isfinite(high):
        raise InputError(
            f"image ranges from {low} to {high}, expected finite values: replace NaN and "
            f"infinity first."
        )
    height = np.float32(h)
    if height > high - low:
        maxima = np.zeros(image.shape, np.bool_)
        if any(cut or UNCUT):  # all pixels are joined: only the highest are not outdone
            np.greater_equal(image - np.float32(_lowered(high, height)), height, out=maxima)
        return maxima if cut is None else (maxima, maxima.copy())
    image = np.ascontiguousarray(image)
    state = np.empty(image.shape, np.uint8)
    _sift(image, height, state)
    _search(image, height, state, _complete(image.shape, cut))
    if cut is None:
        return state.view(np.bool_)  # only LOWER, 0, and MAXIMUM, 1, are left
    doubtful = state >= _DOUBT
    state &= _MAXIMUM
    return state.view(np.bool_), doubtful


def _complete(shape: tuple[int, ...], cut: Cut | None) -> Box:
    """Where (y0, x0, y1, x1; half-open) no neighbour of a pixel can have been cut off."""
    top, left, bottom, right = (_REACH if edge else 0 for edge in cut or UNCUT)
    return top, left, shape[0] - bottom, shape[1] - right


@kernel
def _lowered(value: np.float32, h: np.float32) -> np.float32:
    """Lower a value by h and the slack; the order of rounding is scikit-image's."""
    return np.float32(np.float32(value - h) - np.float32(_SLACK * abs(value)))


@kernel
def _sift(image: Float32, h: np.float32, state: State) -> None:
    """Settle the pixels that have a higher one among their four nearest or are their own.

    Free of branches, so that it compiles to vector code. Beyond the border stands the
    pixel itself, which needs the test as well: rounding can leave it too low.
    """
    height, width = image.shape
    for y in range(height):
        above, here, below = image[max(y - 1, 0)], image[y], image[min(y + 1, height - 1)]
        row = state[y]
        for x in range(1, width - 1):
            peak = here[x]
            top = max(max(above[x], below[x]), max(here[x - 1], here[x + 1]))
            lower = np.float32(peak - _lowered(top, h)) < h
            lower |= np.float32(peak - _lowered(peak, h)) < h
            row[x] = _LOWER if lower else _OPEN
        for x in (0, width - 1):
            peak = here[x]
            side = max(here[max(x - 1, 0)], here[min(x + 1, width - 1)])
            top = max(max(above[x], below[x]), side)
            lower = np.float32(peak - _lowered(top, h)) < h
            lower |= np.float32(peak - _lowered(peak, h)) < h
            row[x] = _LOWER if lower else _OPEN


@kernel
def _search(image: Float32, h: np.float32, state: State, complete: Box) -> None:
    """Settle the pixels left open, each by a search that settles others on its way."""
    height, width = image.shape
    queue = np.empty(1 << 12, np.int64)
    for y in range(height):
        for x in range(width):
            if state[y, x] == _OPEN:
                queue = _settle(image, h, state, complete, y, x, queue)


@kernel
def _settle(
    image: Float32,
    h: np.float32,
    state: State,
    complete: Box,
    y: int,
    x: int,
    queue: Int64,
) -> Int64:
    """Search, breadth first, for a pixel that outdoes (y, x); return the queue, grown.

    All that is seen is joined to (y, x) over pixels less than h below it. So a pixel
    found to outdo it outdoes the seen ones that are no higher; a pixel as high or higher
    that is known to be outdone leads to what outdoes this one too; and where nothing is
    found, the seen ones of equal value are maxima with it, in doubt where one of the seen
    may have neighbours behind a cut.
    """
    height, width = image.shape
    peak, outdone = image[y, x], False
    queue[0] = (y << 32) | x
    state[y, x] |= _SEEN
    head, tail = 0, 1
    while head < tail and not outdone:
        y, x = queue[head] >> 32, queue[head] & 0xFFFFFFFF
        head += 1
        if tail + 12 > queue.size:
            queue = np.concatenate((queue, np.empty_like(queue)))
        for k in range(12):
            yy, xx = y + _DY[k], x + _DX[k]
            if yy < 0 or xx < 0 or yy >= height or xx >= width:
                continue
            value, known = image[yy, xx], state[yy, xx]
            if known & _SEEN or np.float32(peak - value) >= h:
                continue
            if (known == _LOWER and value >= peak) or (
                np.float32(peak - _lowered(value, h)) < h
            ):
                outdone = True
                break
            state[yy, xx] = known | _SEEN
            queue[tail] = (yy << 32) | xx
            tail += 1
    found = _MAXIMUM
    if not outdone and _leaves(queue[:tail], complete):
        found |= _DOUBT
    for i in range(tail):
        y, x = queue[i] >> 32, queue[i] & 0xFFFFFFFF
        state[y, x] &= ~_SEEN
        if outdone and image[y, x] <= peak:
            state[y, x] = _LOWER
        elif not outdone and image[y, x] == peak:
            state[y, x] = found
    return queue


@kernel
def _leaves(pixels: Int64, box: Box) -> bool:
    """Tell whether one of the pixels lies outside the box."""
    y0, x0, y1, x1 = box
    for i in range(pixels.size):
        y, x = pixels[i] >> 32, pixels[i] & 0xFFFFFFFF
        if y < y0 or x < x0 or y >= y1 or x >= x1:
            return True
    return False
