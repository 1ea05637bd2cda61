"""Labels of overlapping tiles, put together as a function of the image alone."""

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from codexseg.backends.base import SlideView
from codexseg.core.grid import PatchGrid, Window
from codexseg.core.labels.operations import object_table
from codexseg.core.labels.overlaps import overlaps

Labels = NDArray[np.uint32]
Ints = NDArray[np.int64]
Found = tuple[Window, Window, Labels]
"""Core and outer window of a tile, and its labels."""


def put_together(
    tiles: PatchGrid, window: Window, slide: SlideView, planes: Sequence[int]
) -> Labels:
    """Put the labels of tiles together in a window.

    A pixel takes its label from the tile whose core it lies in. Objects of two tiles are
    one where, in the strip that both see, they share more than half of their union; the
    first plane decides, the others follow.

    Parameters
    ----------
    tiles : PatchGrid
        Of the image.
    window : Window
        Of the image, px.
    slide : SlideView
        Its slide_pass "tiles" found `labels` (2, y, x) in each outer window, or nothing.
    planes : sequence of int
        Which of the labels, that share their numbers.

    Returns
    -------
    labels : (planes, y, x) uint32
        Of the window, numbered from 1.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    found = list(_found(tiles, window, slide, planes))
    sizes = [0, *(int(labels.max()) for _, _, labels in found)]
    first = np.cumsum(sizes)  # what the labels of a tile are counted from
    merged = np.zeros((len(planes), *window.shape), np.int64)
    for (core, outer, labels), start in zip(found, first[:-1], strict=True):
        part = core.intersection(window)
        if part is not None:
            own = labels[:, *part.within(outer)]
            merged[:, *part.within(window)] = np.where(own > 0, own + start, 0)
    size = int(first[-1]) + 1
    pairs = np.array([*_same_objects(found, first)], np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(pairs), np.int8), pairs.T), shape=(size, size))
    groups = connected_components(graph, directed=False)[1].astype(np.int64)
    occurs = np.zeros(size, np.bool_)
    occurs[groups[merged.ravel()]] = True
    occurs[groups[0]] = False  # background
    numbers = np.where(occurs, np.cumsum(occurs), 0).astype(np.uint32)
    relabelled: Labels = numbers[groups][merged]
    return relabelled


def _found(
    tiles: PatchGrid, window: Window, slide: SlideView, planes: Sequence[int]
) -> Iterator[Found]:
    """Yield the tiles that bear on a window, and hold objects.

    One beside it may tell that two objects in it are one.
    """
    for tile in tiles.near(window.grow(tiles.halo, tiles.shape)):
        found = slide.block_result("tiles", tile.number)
        if found:
            yield tile.core, tile.outer, np.asarray(found["labels"])[list(planes)]


def _same_objects(found: Sequence[Found], first: Ints) -> Iterator[tuple[int, int]]:
    """Yield the labels of two tiles, counted over all, that are one object."""
    for (i, (_, outer, own)), (j, (_, other_outer, other)) in combinations(
        enumerate(found), 2
    ):
        strip = outer.intersection(other_outer)
        if strip is None:
            continue
        one = np.ascontiguousarray(own[0][strip.within(outer)])
        two = np.ascontiguousarray(other[0][strip.within(other_outer)])
        table = overlaps(one, two)
        both = (table.truth > 0) & (table.pred > 0)
        a, b, shared = table.truth[both], table.pred[both], table.shared[both]
        agree = 3 * shared > _areas(one)[a] + _areas(two)[b]  # IoU above a half
        for p, q in zip(a[agree].tolist(), b[agree].tolist(), strict=True):
            yield int(first[i]) + p, int(first[j]) + q


def _areas(labels: Labels) -> Ints:
    """Return the areas of objects, by label."""
    table = object_table(labels)
    areas = np.zeros(int(labels.max(initial=0)) + 1, np.int64)
    areas[table.label] = table.area
    return areas
