"""h-maxima: maxima at least h above their surroundings (Soille 2003, chapter 6).

Pixel p with value f(p) is an h-maximum if f(p) - R(p) >= h, where R is the greyscale
reconstruction by dilation of f - h under f. By Vincent (1993),

    R(p) = max over paths q ~> p of min(f(q) - h, min of f over the path).

Therefore p is not an h-maximum if and only if a path of pixels r with

    f(p) - f(r) < h                                                              (1)

leads from p to a pixel q with

    f(p) - L(q) < h,                                                             (2)

where L(q) is f(q) - h, lowered further by 2e-6 |f(q)| against rounding (see `_SLACK`). A
search from p outward finds such a path, usually at a neighbour of p, so no image is
reconstructed.

A path in a window of a larger image also exists in the larger image. A pixel rejected in
the window is therefore rejected in the image. An h-maximum of the window may be rejected
by pixels beyond a cut edge. It is certain if its search, which visits all pixels connected
to p, stays away from every cut edge.
"""

import numpy as np
from numpy.typing import NDArray

from codexseg.arrays import Float32, Int64, Mask
from codexseg.core.algorithms.flood import check_map
from codexseg.core.kernel import kernel
from codexseg.errors import InputError

State = NDArray[np.uint8]
Cut = tuple[bool, bool, bool, bool]  # whether the top, left, bottom, right is cut
Box = tuple[int, int, int, int]

UNCUT = (False, False, False, False)

# Lowering subtracts h and this share of the value, as in scikit-image. Without it, rounding
# could leave a lowered pixel less than h below its original value.
_SLACK = np.float32(2) * np.finfo(np.float32).resolution

# State of a pixel. _SEEN and _DOUBT are flags; _DOUBT occurs only with _MAXIMUM.
_LOWER, _MAXIMUM, _OPEN, _SEEN, _DOUBT = 0, 1, 2, 4, 8

# Offsets of a disk of radius 2 without its centre, nearest first.
_REACH = 2
_DY = np.array([-1, 0, 0, 1, -1, -1, 1, 1, -2, 0, 0, 2])
_DX = np.array([0, -1, 1, 0, -1, 1, -1, 1, 0, -2, 2, 0])


def h_maxima(image: Float32, h: float, cut: Cut = UNCUT) -> tuple[Mask, Mask]:
    """Return a mask of the h-maxima of an image, and a mask of the doubtful ones.

    Equal to ``skimage.morphology.h_maxima(image, h, footprint=disk(2))`` of scikit-image
    0.25.2 and 0.26, including its float32 rounding.

    Parameters
    ----------
    image : (y, x) float32
        Finite values.
    h : float
        Minimum height, above 0, in the units of `image`.
    cut : (top, left, bottom, right) bool
        The edges at which `image` was cut out of a larger image.

    Returns
    -------
    maxima : (y, x) bool
        False everywhere if `h` exceeds the range of `image` and no edge is cut. With a cut
        edge, the range of the larger image is unknown, and the highest pixels are doubtful
        maxima.
    doubtful : (y, x) bool
        Maxima that may not be maxima of the larger image; none if no edge is cut. For all
        other pixels, `maxima` equals the mask of the larger image.

    Raises
    ------
    InputError
        If `image` is not a 2-D float32 array or contains NaN or infinity, if `h` is not
        above 0, or if `cut` does not have four elements.

    Notes
    -----
    Time is close to linear in the number of pixels, because a search stops at a pixel
    known to be rejected and settles the pixels it has visited. Memory is 1 byte per pixel,
    and 8 bytes per pixel of the largest search, in practice one cell or the gap between
    two cells.
    """
    check_map(image, "image")
    if not h > 0:
        raise InputError(f"h is {h}, expected a value above 0.")
    if len(cut) != 4:
        raise InputError(f"cut is {cut}, expected (top, left, bottom, right).")
    if not image.size:
        return np.zeros(image.shape, np.bool_), np.zeros(image.shape, np.bool_)
    low, high = image.min(), image.max()
    if not np.isfinite(low) or not np.isfinite(high):
        raise InputError(
            f"image ranges from {low} to {high}, expected finite values. Replace NaN and "
            f"infinity."
        )
    height = np.float32(h)
    if height > high - low:
        maxima = np.zeros(image.shape, np.bool_)
        if any(cut):  # all satisfy (1), so q in (2) is the highest pixel
            np.greater_equal(image - np.float32(_lowered(high, height)), height, out=maxima)
        return maxima, maxima.copy()
    image = np.ascontiguousarray(image)
    state = np.empty(image.shape, np.uint8)
    _sift(image, height, state)
    _search(image, height, state, _complete(image.shape, cut))
    doubtful = state >= _DOUBT
    state &= _MAXIMUM  # other pixels are _LOWER, 0
    return state.view(np.bool_), doubtful


def _complete(shape: tuple[int, ...], cut: Cut) -> Box:
    """Return the box (y0, x0, y1, x1; half-open) of pixels with a complete footprint."""
    top, left, bottom, right = (_REACH if edge else 0 for edge in cut)
    return top, left, shape[0] - bottom, shape[1] - right


@kernel
def _lowered(value: np.float32, h: np.float32) -> np.float32:
    """Return f - h minus the slack, rounded in the same order as in scikit-image."""
    return np.float32(np.float32(value - h) - np.float32(_SLACK * abs(value)))


@kernel
def _sift(image: Float32, h: np.float32, state: State) -> None:
    """Reject pixels by inequality (2) with q among their four neighbours or themselves.

    The inner loop has no branches and compiles to vector code. At the border, the pixel
    replaces the missing neighbour. The pixel itself needs the test because rounding can
    make it satisfy (2).
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
    """Settle the open pixels in raster order; each search also settles other pixels."""
    height, width = image.shape
    queue = np.empty(1 << 12, np.int64)
    for y in range(height):
        for x in range(width):
            if state[y, x] == _OPEN:
                queue = _settle(image, h, state, complete, y, x, queue)


@kernel
def _settle(
    image: Float32, h: np.float32, state: State, complete: Box, y: int, x: int, queue: Int64
) -> Int64:
    """Settle p = (y, x) by a breadth-first search for a pixel q that satisfies (2).

    All visited pixels are connected to p by pixels that satisfy (1). This settles p and
    some visited pixels at once:

    - If q is found, it also rejects the visited pixels that are not higher than p.
    - A rejected pixel that is at least as high as p is connected to a pixel that rejects
      p as well.
    - If the search ends without q, the visited pixels of the value f(p) are h-maxima with
      p. They are doubtful if a visited pixel may have neighbours beyond a cut edge.

    Returns the queue, which may have grown.
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
            if known & _SEEN or np.float32(peak - value) >= h:  # r violates (1)
                continue
            if (known == _LOWER and value >= peak) or (
                np.float32(peak - _lowered(value, h)) < h  # q satisfies (2)
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
    """Return whether any of the pixels is outside the box."""
    y0, x0, y1, x1 = box
    for i in range(pixels.size):
        y, x = pixels[i] >> 32, pixels[i] & 0xFFFFFFFF
        if y < y0 or x < x0 or y >= y1 or x >= x1:
            return True
    return False
