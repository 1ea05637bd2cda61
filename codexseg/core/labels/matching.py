"""Matching of cells and nuclei: pairs, trimmed nuclei and statistics.

The rules follow the matching step of CellSegmentationEvaluator (Murphy lab; Chen and
Murphy 2023), with its errors corrected. The overlap of a nucleus and a cell is the
fraction of the nucleus inside the interior of the cell, which is the cell without its
inner boundary. Pairs are one to one. A nucleus is trimmed to the interior of its cell.

Four separate steps also work on a slide that is split into patches: `pair_table` counts
shared pixels in one pass (tables of several patches are concatenated and summed), `match`
selects pairs from the tables, `apply_pairs` writes the masks in a second pass, and
`matching_stats` counts.
"""

from typing import Literal, NamedTuple, get_args

import numpy as np

from codexseg.arrays import Float64, Int64, Labels, Mask, UInt64
from codexseg.core.kernel import kernel
from codexseg.core.labels.operations import (
    find_slot,
    inner_boundary,
    label_boundaries,
    label_hash_index,
    split_keys,
    tally_pairs,
)
from codexseg.errors import InputError

Matching = Literal["best", "sequential"]
MatchingStats = dict[str, dict[str, tuple[int, float]]]


class PairTable(NamedTuple):
    """Cells and nuclei that share interior pixels, sorted by (cell, nucleus).

    Attributes
    ----------
    cell, nucleus : (n,) uint32
        Labels of the pair.
    shared : (n,) int64
        Pixels of the nucleus in the interior of the cell, above 0.
    """

    cell: Labels
    nucleus: Labels
    shared: Int64


class MatchedMasks(NamedTuple):
    """Label images with one id for a cell and its nucleus, all (y, x) uint32.

    Attributes
    ----------
    cell, nucleus
        Matched cells; matched nuclei, trimmed to the interior of their cells.
    cytoplasm
        Cells without their nuclei.
    cell_boundary, nucleus_boundary
        Inner boundaries of `cell` and `nucleus`.
    """

    cell: Labels
    nucleus: Labels
    cytoplasm: Labels
    cell_boundary: Labels
    nucleus_boundary: Labels


def interior(cells: Labels) -> Mask:
    """Return the pixels of cells that are not on the inner boundary; (y, x) bool."""
    return (cells > 0) & ~inner_boundary(cells)


def pair_table(cells: Labels, nuclei: Labels, *, interior: Mask | None = None) -> PairTable:
    """Count the pixels that each nucleus shares with the interior of each cell.

    Parameters
    ----------
    cells, nuclei : (y, x) uint32
        Label images of the same pixels.
    interior : (y, x) bool, optional
        Pixels to count; by default `interior(cells)`. For a window of a larger image,
        pass the interiors of the larger image.

    Returns
    -------
    PairTable

    Raises
    ------
    InputError
        If the shapes differ.

    Notes
    -----
    Memory is proportional to the number of pairs that occur.
    """
    inside = _interior_of(cells, nuclei, interior)
    keys, shared = tally_pairs(_flat(cells), _flat(nuclei), inside.reshape(-1))
    order = np.argsort(keys)
    return PairTable(*split_keys(keys[order]), shared[order])


def match(
    cell: Int64,
    nucleus: Int64,
    shared: Int64,
    *,
    nucleus_area: Int64,
    cell_first: Int64,
    nucleus_first: Int64,
    matching: Matching = "best",
    min_overlap: float = 0.0,
    tie: Int64 | None = None,
) -> Int64:
    """Select one-to-one pairs.

    ``best`` accepts pairs greedily by the highest overlap (shared pixels / pixels of the
    nucleus). Ties are resolved by more shared pixels, then by the first pixel of the
    nucleus and then of the cell in raster order, never by label numbers. ``sequential``
    is the published rule: in ascending order of their index, each cell takes the free
    nucleus with the highest overlap. Ties are resolved as in ``best``.

    Parameters
    ----------
    cell, nucleus : (n,) integer
        Distinct candidate pairs, as indexes into the arrays per object below. For
        ``sequential``, the index of a cell is its rank.
    shared : (n,) integer
        Pixels of the nucleus in the interior of the cell.
    nucleus_area : (nuclei,) integer
        Pixels of the whole nucleus.
    cell_first, nucleus_first : (cells,), (nuclei,) integer
        Raster index of the first pixel of each object.
    matching : {"best", "sequential"}
    min_overlap : float
        Minimum overlap of a pair, 0 to 1. Pairs without shared pixels are never accepted.
    tie : (n,) integer, optional
        Rank of each pair among pairs of equal overlap, lowest first. Takes precedence
        over the rules above.

    Returns
    -------
    accepted : (m,) int64
        Rows of the accepted pairs, in the order of their ids: by first pixel of the cell
        (``best``) or by index of the cell (``sequential``).

    Raises
    ------
    InputError
        If `matching` or `min_overlap` is invalid.

    Notes
    -----
    Overlaps are float64 quotients of integers. Equal fractions give equal quotients;
    different fractions give different quotients for nuclei of up to 2**26 px.
    """
    check_rules(matching, min_overlap)
    overlap = shared / nucleus_area[nucleus]
    rows = np.flatnonzero((shared > 0) & (overlap >= min_overlap))
    # Only pairs that compete for a partner need to be sorted.
    competitors = np.maximum(
        np.bincount(cell[rows], minlength=len(cell_first))[cell[rows]],
        np.bincount(nucleus[rows], minlength=len(nucleus_first))[nucleus[rows]],
    )
    alone, contested = rows[competitors == 1], rows[competitors > 1]
    c, n = cell[contested], nucleus[contested]
    # Equal overlap and equal shared pixels imply equal areas, so area is not a key.
    keys: list[Int64 | Float64] = [cell_first[c], nucleus_first[n], -shared[contested]]
    keys += [tie[contested]] if tie is not None else []
    keys += [-overlap[contested]]
    keys += [c] if matching == "sequential" else []
    order = np.lexsort(keys)
    c, n = c[order].astype(np.int64), n[order].astype(np.int64)
    free = np.ones(len(cell_first), np.bool_), np.ones(len(nucleus_first), np.bool_)
    accepted = np.concatenate([alone, contested[order][_take_greedily(c, n, *free)]])
    numbering = cell if matching == "sequential" else cell_first[cell]
    return accepted[np.argsort(numbering[accepted])]


def check_rules(matching: str, min_overlap: float) -> None:
    """Check the settings of a matching.

    Raises
    ------
    InputError
        If `matching` is not a known rule, or `min_overlap` is not in 0 to 1.
    """
    if matching not in get_args(Matching):
        raise InputError(
            f"matching is {matching!r}. Expected one of {', '.join(get_args(Matching))}."
        )
    if not 0 <= min_overlap <= 1:
        raise InputError(
            f"min_overlap is {min_overlap}. Expected the minimum fraction of a nucleus "
            f"inside its cell, from 0 (any pixel) to 1 (all pixels)."
        )


def apply_pairs(
    cells: Labels,
    nuclei: Labels,
    pair_cell: Labels,
    pair_nucleus: Labels,
    ids: Labels,
    *,
    interior: Mask | None = None,
) -> MatchedMasks:
    """Write masks of matched cells and nuclei; unmatched objects become background.

    Parameters
    ----------
    cells, nuclei : (y, x) uint32
        Label images of the same pixels.
    pair_cell, pair_nucleus, ids : (m,) uint32
        Labels of each pair and their common id. Pairs are one to one; pairs of objects
        that are absent from the images are ignored.
    interior : (y, x) bool, optional
        Interiors of `cells`, by default `interior(cells)`. All other pixels of cells are
        boundary.

    Returns
    -------
    MatchedMasks

    Raises
    ------
    InputError
        If the shapes differ, or a cell is in two pairs.
    """
    inside = _interior_of(cells, nuclei, interior)
    if not len(pair_cell) == len(pair_nucleus) == len(ids):
        raise InputError(
            f"Got {len(pair_cell)} cells, {len(pair_nucleus)} nuclei and {len(ids)} ids. "
            f"Pass one of each for every pair."
        )
    keys, rows = label_hash_index(pair_cell)
    masks = tuple(np.empty(cells.shape, np.uint32) for _ in range(4))
    cell, nucleus, cytoplasm, cell_boundary = masks
    _write_pairs(
        _flat(cells),
        _flat(nuclei),
        inside.reshape(-1),
        keys,
        rows,
        _flat(pair_nucleus),
        _flat(ids),
        *(mask.reshape(-1) for mask in masks),
    )
    nucleus_boundary = label_boundaries(nucleus)
    return MatchedMasks(cell, nucleus, cytoplasm, cell_boundary, nucleus_boundary)


def matched_fraction(m: int, c: int, n: int) -> float:
    """Return m / (c + n - m) for m pairs, c cells and n nuclei; NaN without objects."""
    return m / (c + n - m) if c + n else float("nan")


def matching_stats(m: int, c: int, n: int) -> MatchingStats:
    """Count matched and unmatched objects.

    Parameters
    ----------
    m, c, n : int
        Number of pairs, cells and nuclei.

    Returns
    -------
    dict
        ``{"nucleus": {"total", "matched", "unmatched"}, "whole_cell": {...}}``, each a
        count and its percentage of the total (NaN if the total is 0).
    """

    def counts(total: int) -> dict[str, tuple[int, float]]:
        numbers = {"total": total, "matched": m, "unmatched": total - m}
        return {
            name: (count, count / total * 100.0 if total else float("nan"))
            for name, count in numbers.items()
        }

    return {"nucleus": counts(n), "whole_cell": counts(c)}


def _interior_of(cells: Labels, nuclei: Labels, mask: Mask | None) -> Mask:
    inside = interior(cells) if mask is None else mask
    if not cells.shape == nuclei.shape == inside.shape:
        raise InputError(
            f"Shapes of cells, nuclei and interior differ: {cells.shape}, "
            f"{nuclei.shape} and {inside.shape}. Pass images of the same pixels."
        )
    return np.ascontiguousarray(inside, dtype=np.bool_)


def _flat(labels: Labels) -> Labels:
    return np.ascontiguousarray(labels, dtype=np.uint32).reshape(-1)


@kernel
def _take_greedily(
    cell: Int64, nucleus: Int64, free_cell: Mask, free_nucleus: Mask
) -> Mask:
    taken = np.zeros(cell.size, np.bool_)
    for row in range(cell.size):
        if free_cell[cell[row]] and free_nucleus[nucleus[row]]:
            free_cell[cell[row]] = free_nucleus[nucleus[row]] = False
            taken[row] = True
    return taken


@kernel
def _write_pairs(
    cells: Labels,
    nuclei: Labels,
    inside: Mask,
    keys: UInt64,
    rows: Int64,
    pair_nucleus: Labels,
    ids: Labels,
    cell: Labels,
    nucleus: Labels,
    cytoplasm: Labels,
    cell_boundary: Labels,
) -> None:
    # Blocks stay in the CPU cache. Look-ups are scalar; writing is vectorised.
    zero, block = np.uint32(0), 4096
    partners = np.empty(block, np.uint32)
    last, number, partner = zero, zero, zero
    for start in range(0, cells.size, block):
        stop = min(start + block, cells.size)
        for i in range(start, stop):
            if cells[i] != last:
                last = cells[i]
                row = rows[find_slot(keys, np.uint64(last))]
                number = ids[row] if row >= 0 else zero
                partner = pair_nucleus[row] if row >= 0 else zero
            cell[i], partners[i - start] = number, partner
        _write_block(
            inside[start:stop],
            nuclei[start:stop] == partners[: stop - start],
            cell[start:stop],
            nucleus[start:stop],
            cytoplasm[start:stop],
            cell_boundary[start:stop],
        )


@kernel
def _write_block(
    inside: Mask,
    is_partner: Mask,
    cell: Labels,
    nucleus: Labels,
    cytoplasm: Labels,
    cell_boundary: Labels,
) -> None:
    # The id of an unmatched cell is 0, so its output is background.
    zero = np.uint32(0)
    for i in range(cell.size):
        in_nucleus = inside[i] & is_partner[i]
        nucleus[i] = cell[i] if in_nucleus else zero
        cytoplasm[i] = zero if in_nucleus else cell[i]
        cell_boundary[i] = zero if inside[i] else cell[i]
