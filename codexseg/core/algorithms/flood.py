"""Watershed from markers: a flood in the order of value, then of arrival.

Soille and Ansoult (1990), as scikit-image implements it without watershed line: the lowest
pixel reached is visited next and gives its label to those of its four neighbours that have
none. A pixel below the level of the flood counts as of that level.

The queue is a row of buckets by value, each a list of the pixels that wait in it. Only the
bucket that is being emptied is ordered, by a heap that stays in the cache.
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from codexseg.arrays import Float32, Int64, Labels, Mask
from codexseg.core.kernel import kernel
from codexseg.errors import InputError

Bits = NDArray[np.int32]
Heads = NDArray[np.uint32]
Ties = Literal["raster", "heap"]

# A pixel's cell, in one row with a border of one pixel: its level less OPEN, below 0, while
# it waits for a label; then the label; 0 outside the mask.
_OPEN = 1 << 33
_NONE = 0xFFFFFFFF  # end of a list
_LAST_NODE = 1 << 31
_FIRST_AGE = 1 << 31  # within a bucket: below, what waited in it; from here, newcomers
_LAST_AGE = (1 << 32) - 4
_PIXELS_PER_BUCKET_BITS = 2
_BUCKET, _SIZE, _AGE, _FREE, _USED = range(5)  # what the flood remembers


def flood(
    image: Float32, markers: NDArray[Any], mask: Mask, *, ties: Ties = "raster"
) -> Labels:
    """Flood `image` from `markers` within `mask`.

    Equal to ``skimage.segmentation.watershed(image, markers, mask=mask)`` of 0.25.2 and
    0.26 (others can differ), but for the order of marker pixels of exactly equal value,
    which `ties` decides. Saturated maps have such pixels.

    Parameters
    ----------
    image : (y, x) float32
        Finite within the mask; the lowest is flooded first.
    markers : (y, x) uint32
        Labels to start from, 0 elsewhere. What lies outside the mask is ignored.
    mask : (y, x) bool
        Where to flood.
    ties : "raster" or "heap"
        "raster": marker pixels of equal value are visited in raster order, so the labels
        of a connected part of the mask do not depend on anything outside it. "heap": in
        the order of scikit-image, where all of them have the same age and the layout of
        its binary heap, and so every other pixel, decides; slower.

    Returns
    -------
    labels : (y, x) uint32
        0 outside the mask, and in its parts (4 neighbours) that hold no marker.

    Raises
    ------
    InputError
        If the arrays differ in shape, `image` is no 2-D float32 array, or there are more
        than 2**31 waiting pixels, or those of nearly one value ("heap": 2**32 pixels).

    Notes
    -----
    Memory: 8 to 10 bytes per pixel besides the result, and 32 per pixel that waits at a
    time, in practice one in twelve.
    """
    if image.ndim != 2 or image.dtype != np.float32:
        raise InputError(
            f"image has shape {image.shape} and dtype {image.dtype}, expected (y, x) "
            f"float32: pass one map, as float32."
        )
    if not image.shape == markers.shape == mask.shape:
        raise InputError(
            f"image, markers and mask must cover the same pixels, got shapes "
            f"{image.shape}, {markers.shape} and {mask.shape}."
        )
    bits = np.ascontiguousarray(image).view(np.int32)
    markers = np.ascontiguousarray(markers, dtype=np.uint32)
    mask = np.ascontiguousarray(mask, dtype=np.bool_)
    cells = np.zeros((image.shape[0] + 2, image.shape[1] + 2), np.int64)
    low, high, marked = _lay_cells(bits, markers, mask, cells)
    if marked:
        run = _run_buckets if ties == "raster" else _run_heap
        run(bits, cells.reshape(-1), low, high, marked)
    np.maximum(cells, 0, out=cells)  # what no marker reached
    return cells[1:-1, 1:-1].astype(np.uint32)


def _run_buckets(bits: Bits, cells: Int64, low: int, high: int, marked: int) -> None:
    bucket_bits = max(bits.size.bit_length() - _PIXELS_PER_BUCKET_BITS, 1)
    shift = max((high - low).bit_length() - bucket_bits, 0)
    first = np.full(((high - low) >> shift) + 1, _NONE, np.uint32)
    nodes = np.empty((marked + bits.size // 16 + 8, 2), np.int64)
    used = _wait_markers(bits, cells, low, shift, first, nodes)
    state = np.array([0, 0, _FIRST_AGE, _NONE, used])
    _run(bits.shape[1] + 2, cells, low, shift, first, nodes, np.empty_like(nodes), state)


def _run_heap(bits: Bits, cells: Int64, low: int, high: int, marked: int) -> None:
    """Flood with one bucket: every marker, then every pixel, goes through one heap.

    scikit-image's heap sifts as `_push` and `_pop` do, so ties fall as they do there.
    """
    heap = np.empty((marked + bits.size // 16 + 8, 2), np.int64)
    size = _push_markers(bits, cells, heap)
    first, shift = np.full(1, _NONE, np.uint32), int(high - low).bit_length()
    state = np.array([0, size, 1, _NONE, 0])
    _run(bits.shape[1] + 2, cells, low, shift, first, np.empty_like(heap), heap, state)


def _run(
    span: int,
    cells: Int64,
    low: int,
    shift: int,
    first: Heads,
    nodes: Int64,
    heap: Int64,
    state: Int64,
) -> None:
    """Flood the cells; the kernel returns whenever it needs more room.

    It does not make room itself: arrays that can change cost it a third of its speed.
    """
    while not _flood(span, cells, low, shift, first, nodes, heap, state):
        if state[_AGE] >= _LAST_AGE or len(nodes) >= _LAST_NODE:
            raise InputError(
                f"too many pixels of {cells.size} wait at a time, or share one value: "
                f"flood smaller windows."
            )
        nodes = np.concatenate((nodes, np.empty_like(nodes)))
        heap = np.concatenate((heap, np.empty_like(heap)))


@kernel
def _level(bits: np.int32) -> int:
    """Turn the bits of a float32 into an integer of the same order; -0.0 is 0.0."""
    level: int = np.int64(bits)  # type: ignore[assignment]
    return level if level >= 0 else -(level & 0x7FFFFFFF)


@kernel
def _lay_cells(
    bits: Bits, markers: Labels, mask: Mask, cells: Int64
) -> tuple[int, int, int]:
    """Fill the cells; return the lowest and highest level and the number of markers."""
    height, width = bits.shape
    low, high, marked = 1 << 32, -(1 << 32), 0
    for y in range(height):
        for x in range(width):
            if mask[y, x]:
                level = _level(bits[y, x])
                low, high = min(low, level), max(high, level)
                marker = np.int64(markers[y, x])
                cells[y + 1, x + 1] = marker if marker else level - _OPEN
                marked += marker != 0
    return low, high, marked


@kernel
def _wait_markers(
    bits: Bits, cells: Int64, low: int, shift: int, first: Heads, nodes: Int64
) -> int:
    """Put marker pixels with a neighbour to label into the buckets, in raster order.

    A node is the place of a pixel; and its level, with the next node in the lower half.
    """
    height, width = bits.shape
    span, used = width + 2, 0
    for y in range(height):
        for x in range(width):
            i = (y + 1) * span + x + 1
            if cells[i] > 0 and (
                cells[i - span] < 0
                or cells[i - 1] < 0
                or cells[i + 1] < 0
                or cells[i + span] < 0
            ):
                level = _level(bits[y, x])
                to = (level - low) >> shift
                nodes[used, 0] = i
                nodes[used, 1] = (level << 32) | np.int64(first[to])
                first[to] = used
                used += 1
    return used


@kernel
def _push_markers(bits: Bits, cells: Int64, heap: Int64) -> int:
    """Put all marker pixels into the heap, in raster order and of one age."""
    height, width = bits.shape
    size = 0
    for y in range(height):
        for x in range(width):
            i = (y + 1) * (width + 2) + x + 1
            if cells[i] > 0:
                size = _push(heap, size, _level(bits[y, x]) << 32, i)
    return size


@kernel
def _flood(
    span: int,
    cells: Int64,
    low: int,
    shift: int,
    first: Heads,
    nodes: Int64,
    heap: Int64,
    state: Int64,
) -> bool:
    """Visit the pixels bucket by bucket, from `state`; False where room ends."""
    size, age, free, used = state[_SIZE], state[_AGE], state[_FREE], state[_USED]
    for bucket in range(state[_BUCKET], first.size):
        if first[bucket] != _NONE:
            size, free = _open(first[bucket], nodes, free, heap)
            first[bucket] = _NONE
            age = np.int64(_FIRST_AGE)
        while size:
            if max(size, used) + 4 > len(nodes) or age >= _LAST_AGE:
                state[:] = bucket, size, age, free, used
                return False
            flooded, place = heap[0, 0] >> 32, heap[0, 1]
            size = _pop(heap, size)
            label = cells[place]
            for step in (-span, -1, 1, span):
                level = cells[place + step]
                if level >= 0:
                    continue
                level = max(level + _OPEN, flooded)
                cells[place + step] = label
                to = (level - low) >> shift
                if to == bucket:
                    size = _push(heap, size, (level << 32) | age, place + step)
                    age += 1
                    continue
                node = free
                if free == _NONE:
                    node, used = used, used + 1
                else:
                    free = nodes[node, 1]
                nodes[node, 0] = place + step
                nodes[node, 1] = (level << 32) | np.int64(first[to])
                first[to] = node
    return True


@kernel
def _open(head: np.uint32, nodes: Int64, free: Any, heap: Int64) -> tuple[int, Any]:
    """Move a list of nodes into the empty heap; of equal values the first that came leads.

    Returns the size of the heap and the list of nodes to use again.
    """
    size, age, node = 0, np.int64(_FIRST_AGE), np.int64(head)
    while node != _NONE:  # from the last that came to the first
        age -= 1
        level_after = nodes[node, 1]
        size = _push(heap, size, ((level_after >> 32) << 32) | age, nodes[node, 0])
        nodes[node, 1] = free
        free, node = node, level_after & 0xFFFFFFFF
    return size, free


@kernel
def _push(heap: Int64, size: int, key: int, place: int) -> int:
    """Add to a binary heap of (key, place); return its new size."""
    i = size
    while i:
        parent = (i - 1) >> 1
        if heap[parent, 0] <= key:
            break
        heap[i, 0], heap[i, 1] = heap[parent, 0], heap[parent, 1]
        i = parent
    heap[i, 0], heap[i, 1] = key, place
    return size + 1


@kernel
def _pop(heap: Int64, size: int) -> int:
    """Remove the least from a binary heap; return its new size."""
    size -= 1
    key, place = heap[size, 0], heap[size, 1]
    i = 0
    while True:
        child = 2 * i + 1
        if child >= size:
            break
        if child + 1 < size and heap[child + 1, 0] < heap[child, 0]:
            child += 1
        if heap[child, 0] >= key:
            break
        heap[i, 0], heap[i, 1] = heap[child, 0], heap[child, 1]
        i = child
    heap[i, 0], heap[i, 1] = key, place
    return size
