"""Marker-based watershed by flooding in the order of value, then of arrival.

Algorithm of Soille and Ansoult (1990), as in scikit-image without watershed lines. The
flood repeatedly visits the lowest pixel in the queue and passes its label to its
unlabelled neighbours (4 neighbours). Let L(p) be the level at which pixel p is flooded.
A pixel q that is labelled from p has

    L(q) = max(f(q), L(p)).

The queue is an array of buckets by value. Each bucket is a linked list of waiting pixels.
Only the current bucket is sorted, with a binary heap that is small enough for the cache.
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

# Cells are a flat array with a border of one pixel. The cell of an unlabelled pixel is its
# level minus _OPEN, which is negative; of a labelled pixel, its label; 0 outside the mask.
_OPEN = 1 << 33
_NONE = 0xFFFFFFFF  # end of a linked list
_LAST_NODE = 1 << 31
_FIRST_AGE = 1 << 31  # lower ages: pixels that waited in the bucket before it opened
_LAST_AGE = (1 << 32) - 4
_PIXELS_PER_BUCKET_BITS = 2
_BUCKET, _SIZE, _AGE, _FREE, _USED = range(5)  # indices into the state of the flood


def flood(
    image: Float32, markers: NDArray[Any], mask: Mask, *, ties: Ties = "raster"
) -> Labels:
    """Flood `image` from `markers` within `mask`.

    With ``ties="heap"``, equal to
    ``skimage.segmentation.watershed(image, markers, mask=mask)`` of scikit-image 0.25.2
    and 0.26; other versions can differ. `ties` only affects marker pixels of exactly equal
    value, which occur in saturated maps.

    Parameters
    ----------
    image : (y, x) float32
        Finite within the mask. The lowest values are flooded first.
    markers : (y, x) uint32
        Start labels; 0 elsewhere. Markers outside the mask are ignored.
    mask : (y, x) bool
        Pixels to flood.
    ties : "raster" or "heap"
        "raster": marker pixels of equal value are visited in raster order, so the labels
        of a connected component of the mask depend on that component only. "heap": they
        are visited in the order of scikit-image, which gives all markers the same age. The
        order then depends on the layout of the binary heap, and so on all other pixels.
        This is slower.

    Returns
    -------
    labels : (y, x) uint32
        0 outside the mask and in its connected components (4 neighbours) without a marker.

    Raises
    ------
    InputError
        If the arrays differ in shape, if `image` is not a 2-D float32 array, or if more
        than 2**31 pixels wait at a time or share nearly one value (2**32 with "heap").

    Notes
    -----
    Memory is 8 to 10 bytes per pixel besides the result, and 32 bytes per waiting pixel.
    In practice, about one pixel in twelve waits at a time.
    """
    check_map(image, "image")
    if not image.shape == markers.shape == mask.shape:
        raise InputError(
            f"image, markers and mask have shapes {image.shape}, {markers.shape} and "
            f"{mask.shape}. Pass three arrays of the same shape."
        )
    bits = np.ascontiguousarray(image).view(np.int32)
    markers = np.ascontiguousarray(markers, dtype=np.uint32)
    mask = np.ascontiguousarray(mask, dtype=np.bool_)
    cells = np.zeros((image.shape[0] + 2, image.shape[1] + 2), np.int64)
    low, high, marked = _lay_cells(bits, markers, mask, cells)
    if marked:
        run = _run_buckets if ties == "raster" else _run_heap
        run(bits, cells.reshape(-1), low, high, marked)
    np.maximum(cells, 0, out=cells)  # pixels that no marker reaches
    return cells[1:-1, 1:-1].astype(np.uint32)


def check_map(values: NDArray[Any], name: str) -> None:
    """Raise InputError unless an array is 2-D and float32."""
    if values.ndim != 2 or values.dtype != np.float32:
        raise InputError(
            f"{name} has shape {values.shape} and dtype {values.dtype}, expected (y, x) "
            f"float32. Pass a single map as float32."
        )


def _run_buckets(bits: Bits, cells: Int64, low: int, high: int, marked: int) -> None:
    """Flood with one bucket per range of levels; ties are in raster order."""
    bucket_bits = max(bits.size.bit_length() - _PIXELS_PER_BUCKET_BITS, 1)
    shift = max((high - low).bit_length() - bucket_bits, 0)
    first = np.full(((high - low) >> shift) + 1, _NONE, np.uint32)
    nodes = np.empty((marked + bits.size // 16 + 8, 2), np.int64)
    used = _wait_markers(bits, cells, low, shift, first, nodes)
    state = np.array([0, 0, _FIRST_AGE, _NONE, used])
    _run(bits.shape[1] + 2, cells, low, shift, first, nodes, np.empty_like(nodes), state)


def _run_heap(bits: Bits, cells: Int64, low: int, high: int, marked: int) -> None:
    """Flood with a single bucket: all markers and pixels go through one heap.

    `_push` and `_pop` sift like the heap of scikit-image, so ties have the same order.
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
    """Flood the cells and double the queue each time the kernel runs out of space.

    The arrays grow outside the kernel: reassigning them inside slows it by a third.
    """
    while not _flood(span, cells, low, shift, first, nodes, heap, state):
        if state[_AGE] >= _LAST_AGE or len(nodes) >= _LAST_NODE:
            raise InputError(
                f"Too many of {cells.size} pixels are in the queue or share one value. "
                f"Flood smaller windows."
            )
        nodes = np.concatenate((nodes, np.empty_like(nodes)))
        heap = np.concatenate((heap, np.empty_like(heap)))


@kernel
def _level(bits: np.int32) -> int:
    """Map the bits of a float32 to an integer with the same order; -0.0 equals 0.0."""
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
    """Queue the marker pixels with an unlabelled neighbour, in raster order.

    Returns the number of nodes. A node has two elements: the cell index of a pixel, and
    its level in the upper half with the index of the next node in the lower half.
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
    """Push all marker pixels on the heap in raster order, all of age 0; return its size."""
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
    """Flood bucket by bucket from `state` (Soille and Ansoult 1990).

    Returns False, with `state` updated, if `nodes`, `heap` or the ages are exhausted.
    """
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
                level = max(level + _OPEN, flooded)  # L(q) = max(f(q), L(p))
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
    """Move a list of nodes to the empty heap; equal values keep their order of arrival.

    Returns the size of the heap and the head of the list of free nodes.
    """
    size, age, node = 0, np.int64(_FIRST_AGE), np.int64(head)
    while node != _NONE:  # from the last arrival to the first
        age -= 1
        level_after = nodes[node, 1]
        size = _push(heap, size, ((level_after >> 32) << 32) | age, nodes[node, 0])
        nodes[node, 1] = free
        free, node = node, level_after & 0xFFFFFFFF
    return size, free


@kernel
def _push(heap: Int64, size: int, key: int, place: int) -> int:
    """Insert an item into a binary min-heap of (key, place); return the new size."""
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
    """Remove the minimum of a binary min-heap; return the new size."""
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
