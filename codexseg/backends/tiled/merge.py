"""Merging of the labels of overlapping tiles, as a function of the image alone."""

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np

from codexseg.arrays import Int64, Labels
from codexseg.backends.slide_pass import SlideView
from codexseg.core.grid import PatchGrid, Window
from codexseg.core.labels.overlaps import overlaps

TileObjects = tuple[Window, Window, Labels]
"""Core and outer window of a tile, and its labels (planes, y, x)."""


def merge_tiles(
    tiles: PatchGrid, window: Window, slide: SlideView, planes: Sequence[int]
) -> Labels:
    """Merge the labels of tiles in a window.

    A pixel has the label of the tile that owns it. Objects of two tiles are joined if
    they share more than half of their union in the overlap of the tiles. The first plane
    decides for all planes.

    Parameters
    ----------
    tiles : PatchGrid
        Tiles of the image.
    window : Window
        Window of the image, px.
    slide : SlideView
        Results of the slide pass "tiles": `labels` (2, y, x) in each outer window, or
        nothing.
    planes : sequence of int
        Label planes that share their numbers.

    Returns
    -------
    labels : (planes, y, x) uint32
        Labels of the window, numbered from 1.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    near = list(_tiles_near(tiles, window, slide, planes))
    sizes = [0, *(int(labels.max()) for _, _, labels in near)]
    offsets = np.cumsum(sizes)  # makes labels unique over all tiles
    merged = np.zeros((len(planes), *window.shape), np.int64)
    for (core, outer, labels), offset in zip(near, offsets[:-1], strict=True):
        owned = core.intersection(window)
        if owned is not None:
            own = labels[:, *owned.within(outer)]
            merged[:, *owned.within(window)] = np.where(own > 0, own + offset, 0)
    size = int(offsets[-1]) + 1
    pairs = np.array([*_same_objects(near, offsets)], np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(pairs), np.int8), pairs.T), shape=(size, size))
    groups = connected_components(graph, directed=False)[1].astype(np.int64)
    occurs = np.zeros(size, np.bool_)
    occurs[groups[merged.ravel()]] = True
    occurs[groups[0]] = False  # background
    numbers = np.where(occurs, np.cumsum(occurs), 0).astype(np.uint32)
    relabelled: Labels = numbers[groups][merged]
    return relabelled


def _tiles_near(
    tiles: PatchGrid, window: Window, slide: SlideView, planes: Sequence[int]
) -> Iterator[TileObjects]:
    """Yield the tiles with objects in or near a window.

    A tile next to the window can join two objects in it.
    """
    for tile in tiles.near(window.grow(tiles.halo, tiles.shape)):
        arrays = slide.block_result("tiles", tile.number)
        if arrays:
            yield tile.core, tile.outer, np.asarray(arrays["labels"])[list(planes)]


def _same_objects(
    tiles: Sequence[TileObjects], offsets: Int64
) -> Iterator[tuple[int, int]]:
    """Yield pairs of unique labels of two tiles that are one object."""
    for (i, (_, outer_a, labels_a)), (j, (_, outer_b, labels_b)) in combinations(
        enumerate(tiles), 2
    ):
        overlap = outer_a.intersection(outer_b)
        if overlap is None:
            continue
        plane_a = np.ascontiguousarray(labels_a[0][overlap.within(outer_a)])
        plane_b = np.ascontiguousarray(labels_b[0][overlap.within(outer_b)])
        table = overlaps(plane_a, plane_b)
        is_pair = (table.truth > 0) & (table.pred > 0)
        a, b, shared = table.truth[is_pair], table.pred[is_pair], table.shared[is_pair]
        areas_a, areas_b = np.bincount(plane_a.ravel()), np.bincount(plane_b.ravel())
        agree = 3 * shared > areas_a[a] + areas_b[b]  # IoU above a half
        for p, q in zip(a[agree].tolist(), b[agree].tolist(), strict=True):
            yield int(offsets[i]) + p, int(offsets[j]) + q
