"""Label images: boundaries, object tables and relabelling.

A label image is (y, x) uint32, 0 is background. Labels may have gaps, any order and
values up to 2**32 - 1. Kernels read an image run by run and look up each run's label in a
hash table (open addressing with linear probing) of the labels that occur. Time is
proportional to the pixels, memory to the objects.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from codexseg.arrays import Int64, Labels, Mask, UInt64
from codexseg.core.kernel import kernel
from codexseg.errors import InputError

MAX_LABEL = 2**32 - 1

_START_SIZE = 1 << 10
_MIX_1 = np.uint64(0x9E3779B97F4A7C15)
_MIX_2 = np.uint64(0xBF58476D1CE4E5B9)
_HALF = np.uint64(32)
_EMPTY = np.uint64(0)


class ObjectTable(NamedTuple):
    """Objects of a label image, one row each, in ascending order of label.

    Attributes
    ----------
    label : (n,) uint32
        Label of the object.
    area : (n,) int64
        Number of pixels.
    first : (n,) int64
        Raster index (y * width + x) of its first pixel.
    """

    label: Labels
    area: Int64
    first: Int64


def as_labels(labels: Any, name: str) -> Labels:
    """Validate a label image and convert it to uint32.

    Parameters
    ----------
    labels : (y, x) integer
        Label image, 0 is background.
    name : str
        Name of the array in error messages.

    Returns
    -------
    (y, x) uint32
        C-contiguous; the input itself if it has this dtype and layout.

    Raises
    ------
    InputError
        If the input is not a 2-D integer array with values from 0 to 2**32 - 1.
    """
    labels = np.asarray(labels)
    if labels.ndim != 2:
        raise InputError(
            f"{name} has shape {labels.shape}, expected (y, x). Pass one patch at a time, "
            f"for example labels[0] of a (1, y, x) array."
        )
    if labels.dtype.kind not in "iu":
        raise InputError(
            f"{name} has dtype {labels.dtype}, expected integers. Label the objects of a "
            f"mask with skimage.measure.label."
        )
    if labels.size and (labels.dtype.kind == "i" or labels.dtype.itemsize > 4):
        lowest, highest = int(labels.min()), int(labels.max())
        if lowest < 0 or highest > MAX_LABEL:
            raise InputError(
                f"{name} has labels from {lowest} to {highest}, expected 0 (background) "
                f"to {MAX_LABEL}. Relabel the objects."
            )
    return np.ascontiguousarray(labels, dtype=np.uint32)


def inner_boundary(labels: Labels) -> Mask:
    """Return the pixels of objects that touch another label or the background.

    Neighbours are 4-connected; the border of the image is not a boundary.
    Equal to ``find_boundaries(labels, mode="inner", connectivity=1) & (labels > 0)`` of
    scikit-image.

    Parameters
    ----------
    labels : (y, x) uint32
        Label image.

    Returns
    -------
    boundary : (y, x) bool
    """
    boundary = np.empty(labels.shape, np.bool_)
    _mark_boundary(np.ascontiguousarray(labels, dtype=np.uint32), boundary)
    return boundary


def label_boundaries(labels: Labels) -> Labels:
    """Return the labels on the inner boundary of their objects, 0 elsewhere.

    Parameters
    ----------
    labels : (y, x) uint32
        Label image.

    Returns
    -------
    boundaries : (y, x) uint32
        `labels` where `inner_boundary` is true.
    """
    boundaries = np.empty(labels.shape, np.uint32)
    _mark_boundary(np.ascontiguousarray(labels, dtype=np.uint32), boundaries)
    return boundaries


def object_table(labels: Labels) -> ObjectTable:
    """Measure area and first pixel of each object in one pass.

    Parameters
    ----------
    labels : (y, x) uint32
        Label image.

    Returns
    -------
    ObjectTable
        Sorted by label; `first` is relative to the corner of `labels`.
    """
    flat = np.ascontiguousarray(labels, dtype=np.uint32).reshape(-1)
    label, area, first = _tally_labels(flat)
    order = np.argsort(label)
    return ObjectTable(label[order].astype(np.uint32), area[order], first[order])


def relabel(labels: Labels, old: Labels, new: Labels) -> Labels:
    """Replace labels; objects that are not in `old` become background.

    Parameters
    ----------
    labels : (y, x) uint32
        Label image.
    old, new : (n,) uint32
        Distinct labels above 0, and their replacements.

    Returns
    -------
    relabelled : (y, x) uint32

    Raises
    ------
    InputError
        If `old` and `new` differ in length, or `old` has duplicates or 0.
    """
    keys, rows = label_hash_index(old)
    if len(old) != len(new):
        raise InputError(
            f"Got {len(old)} old and {len(new)} new labels. Pass one new label for each."
        )
    labels = np.ascontiguousarray(labels, dtype=np.uint32)
    relabelled = np.empty_like(labels)
    values = np.ascontiguousarray(new, dtype=np.uint32)
    _relabel(labels.reshape(-1), keys, rows, values, relabelled.reshape(-1))
    return relabelled


@kernel
def any_where(labels: Labels, where: Mask) -> bool:
    """Return whether any object pixel, (y, x) uint32, is inside a mask, (y, x) bool."""
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            if where[y, x] and labels[y, x] != 0:
                return True
    return False


def renumber(labels: Labels, numbers: Labels) -> Labels:
    """Replace each label i by `numbers[i]`.

    Parameters
    ----------
    labels : (y, x) uint32
        Label image.
    numbers : (n,) uint32
        May be memory-mapped; only entries of labels that occur are read.

    Returns
    -------
    renumbered : (y, x) uint32

    Raises
    ------
    InputError
        If a label has no entry in `numbers`.
    """
    numbers = np.asarray(numbers).view()
    numbers.flags.writeable = False  # same compiled version for memory maps
    renumbered = np.empty(labels.shape, np.uint32)
    unknown = _renumber(labels, numbers, renumbered)
    if unknown >= 0:
        raise InputError(
            f"Label {unknown} has no new number. Expected labels below {len(numbers)}."
        )
    return renumbered


def label_hash_index(labels: Labels) -> tuple[UInt64, Int64]:
    """Build a hash table from label to row, see `find_slot`.

    Parameters
    ----------
    labels : (n,) uint32
        Distinct labels above 0.

    Returns
    -------
    keys : (2**k,) uint64
        Label of each slot, 0 if empty.
    rows : (2**k,) int64
        Position in `labels` of each slot, -1 if empty.

    Raises
    ------
    InputError
        If a label is 0 or a duplicate.
    """
    bits = max(4, int(2 * len(labels)).bit_length())
    keys, rows = np.zeros(1 << bits, np.uint64), np.full(1 << bits, -1, np.int64)
    invalid = _fill_index(np.ascontiguousarray(labels, dtype=np.uint32), keys, rows)
    if invalid >= 0:
        raise InputError(
            f"Label {int(labels[invalid])} in row {invalid} is background or a duplicate. "
            f"Pass distinct labels above 0."
        )
    return keys, rows


@kernel
def find_slot(keys: UInt64, key: np.uint64) -> np.uint64:
    """Return the slot of `key`, or the empty slot for it (mixer of splitmix64)."""
    mask = np.uint64(keys.size - 1)
    mixed = key * _MIX_1
    mixed = (mixed ^ (mixed >> _HALF)) * _MIX_2
    slot = (mixed >> _HALF) & mask
    while keys[slot] != _EMPTY and keys[slot] != key:
        slot = (slot + np.uint64(1)) & mask
    return slot


@kernel
def _new_tally(size: int) -> tuple[UInt64, Int64, Int64]:
    """Return an empty table: keys, pixel counts, raster indexes of first pixels."""
    return np.zeros(size, np.uint64), np.zeros(size, np.int64), np.zeros(size, np.int64)


@kernel
def _double_tally(
    keys: UInt64, counts: Int64, firsts: Int64
) -> tuple[UInt64, Int64, Int64]:
    """Rehash a tally into a table of twice the size."""
    keys_2, counts_2, firsts_2 = _new_tally(2 * keys.size)
    for i in range(keys.size):
        if keys[i] != _EMPTY:
            slot = find_slot(keys_2, keys[i])
            keys_2[slot], counts_2[slot], firsts_2[slot] = keys[i], counts[i], firsts[i]
    return keys_2, counts_2, firsts_2


@kernel
def _tally_labels(labels: Labels) -> tuple[UInt64, Int64, Int64]:
    keys, counts, firsts = _new_tally(_START_SIZE)
    used, i = 0, 0
    while i < labels.size:
        label, start = labels[i], i
        i += 1
        while i < labels.size and labels[i] == label:
            i += 1
        if label == 0:
            continue
        slot = find_slot(keys, np.uint64(label))
        counts[slot] += i - start
        if keys[slot] == _EMPTY:
            keys[slot], firsts[slot] = np.uint64(label), start
            used += 1
            if 2 * used > keys.size:
                keys, counts, firsts = _double_tally(keys, counts, firsts)
    taken = keys != _EMPTY
    return keys[taken], counts[taken], firsts[taken]


@kernel
def tally_pairs(first: Labels, second: Labels, mask: Mask | None) -> tuple[UInt64, Int64]:
    """Count the pixels of each pair of labels that occurs in two flat images.

    Without a mask, background is a label like any other, except in the pair (0, 0). With
    a mask, only its pixels count, and pairs with background are omitted.

    Returns
    -------
    keys : (n,) uint64
        ``first << 32 | second`` in the order of the hash table, see `split_keys`.
    counts : (n,) int64
    """
    keys, counts, firsts = _new_tally(_START_SIZE)
    used, i, size = 0, 0, first.size
    while i < size:
        a, b, run = first[i], second[i], 0
        if mask is None:
            start = i
            i += 1
            while i < size and first[i] == a and second[i] == b:
                i += 1
            run = i - start
        elif b == 0:
            while i < size and second[i] == 0:
                i += 1
            continue
        else:
            while i < size and first[i] == a and second[i] == b:
                run += mask[i]
                i += 1
            if run == 0 or a == 0:
                continue
        key = (np.uint64(a) << _HALF) | np.uint64(b)
        if key == _EMPTY:
            continue
        slot = find_slot(keys, key)
        counts[slot] += run
        if keys[slot] != key:
            keys[slot] = key
            used += 1
            if 2 * used > keys.size:
                keys, counts, firsts = _double_tally(keys, counts, firsts)
    taken = keys != _EMPTY
    return keys[taken], counts[taken]


def split_keys(keys: UInt64) -> tuple[Labels, Labels]:
    """Return the first and the second label, uint32, of the keys of `tally_pairs`."""
    low = keys & np.uint64(0xFFFFFFFF)
    return (keys >> _HALF).astype(np.uint32), low.astype(np.uint32)


@kernel
def _mark_boundary(labels: Labels, out: NDArray[Any]) -> None:
    height, width = labels.shape
    for y in range(height):
        # Replicate the edge, so that the border of the image is not a boundary.
        above, here, below = (
            labels[max(y - 1, 0)],
            labels[y],
            labels[min(y + 1, height - 1)],
        )
        row = out[y]
        for x in range(1, width - 1):
            c = here[x]
            differs = (c != above[x]) | (c != below[x])
            differs |= (c != here[x - 1]) | (c != here[x + 1])
            row[x] = c if differs else 0
        for x in (0, width - 1):
            if width > 0:
                c = here[x]
                differs = (c != above[x]) | (c != below[x])
                differs |= (c != here[max(x - 1, 0)]) | (c != here[min(x + 1, width - 1)])
                row[x] = c if differs else 0


@kernel
def _fill_index(labels: Labels, keys: UInt64, rows: Int64) -> int:
    for row in range(labels.size):
        key = np.uint64(labels[row])
        slot = find_slot(keys, key)
        if key == _EMPTY or keys[slot] == key:
            return row
        keys[slot], rows[slot] = key, row
    return -1


@kernel
def _relabel(labels: Labels, keys: UInt64, rows: Int64, new: Labels, out: Labels) -> None:
    last, value = np.uint32(0), np.uint32(0)
    for i in range(labels.size):
        label = labels[i]
        if label != last:
            last = label
            row = rows[find_slot(keys, np.uint64(label))]
            value = new[row] if row >= 0 else np.uint32(0)
        out[i] = value


@kernel
def _renumber(labels: Labels, numbers: Labels, out: Labels) -> int:
    last = value = np.uint32(0)
    if numbers.size:
        value = numbers[0]
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            label = labels[y, x]
            if label != last:
                if label >= numbers.size:
                    return int(label)
                last, value = label, numbers[label]
            out[y, x] = value
    return -1
