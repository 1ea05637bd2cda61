"""Which nucleus belongs to which cell: the pairs, the trimmed nuclei, the statistics.

The rules are those of the matching step of CellSegmentationEvaluator (Murphy lab), as
published for CODEX pipelines, with its faults corrected: a nucleus counts for a cell by
the share of its pixels that lie in the cell's interior (the cell without its inner
boundary), pairs are one to one, and a nucleus is trimmed to the interior of its cell.

Four steps, so that a slide cut into patches can take them apart: `pair_table` counts
shared pixels in one pass (tables of several patches may be concatenated and summed),
`match` decides on the tables alone, `apply_pairs` writes the masks in one more pass, and
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
    """Cells and nuclei that share interior pixels, in ascending order of (cell, nucleus).

    Attributes
    ----------
    cell, nucleus : (n,) uint32
        Labels of the two.
    shared : (n,) int64
        Pixels of the nucleus in the interior of the cell, above 0.
    """

    cell: Labels
    nucleus: Labels
    shared: Int64


class MatchedMasks(NamedTuple):
    """Label images that carry one id for a cell and its nucleus, all (y, x) uint32.

    Attributes
    ----------
    cell, nucleus
        Matched cells; matched nuclei, trimmed to the interior of their cells.
    cytoplasm
        The cells without their nuclei.
    cell_boundary, nucleus_boundary
        Inner boundaries of `cell` and `nucleus`.
    """

    cell: Labels
    nucleus: Labels
    cytoplasm: Labels
    cell_boundary: Labels
    nucleus_boundary: Labels


def interior(cells: Labels) -> Mask:
    """Mark the pixels of cells that are not on the inner boundary; (y, x) bool."""
    return (cells > 0) & ~inner_boundary(cells)


def pair_table(cells: Labels, nuclei: Labels, *, interior: Mask | None = None) -> PairTable:
    """Count the pixels that every nucleus shares with the interior of every cell.

    Parameters
    ----------
    cells, nuclei : (y, x) uint32
        Label images of the same pixels.
    interior : (y, x) bool, optional
        Pixels to count; those of the cells' interiors where none is given. A window of a
        larger image passes what it knows of its surroundings.

    Returns
    -------
    PairTable

    Raises
    ------
    InputError
        If the shapes differ.

    Notes
    -----
    Memory follows the pairs that occur, never cells x nuclei nor the highest label.
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
    """Choose pairs, one to one.

    ``best`` takes pairs greedily by the highest overlap (shared pixels / pixels of the
    nucleus), then by more shared pixels, then the larger nucleus, then the nucleus and
    then the cell whose first pixel comes first: label numbers never decide.
    ``sequential`` is the published rule: cells in ascending order of their index, each
    takes the free nucleus with the highest overlap; ties as in ``best``.

    Parameters
    ----------
    cell, nucleus : (n,) integer
        Candidate pairs, as indexes into the arrays per object below. No pair twice. For
        ``sequential``, cells must be indexed in the order in which they choose.
    shared : (n,) integer
        Pixels of the nucleus in the interior of the cell.
    nucleus_area : (nuclei,) integer
        Pixels of the whole nucleus.
    cell_first, nucleus_first : (cells,), (nuclei,) integer
        Raster index of the first pixel of each object.
    matching : {"best", "sequential"}
    min_overlap : float
        Smallest overlap, 0 to 1, of a pair; it must be above 0 in any case.
    tie : (n,) integer, optional
        Rank of each pair among pairs of equal overlap, the lowest first; it decides
        before the rules above.

    Returns
    -------
    accepted : (m,) int64
        Rows of the accepted pairs, in the order that numbers them: of the cells' first
        pixels (``best``), of the cells' indexes (``sequential``).

    Raises
    ------
    InputError
        If `matching` or `min_overlap` is not one of the values above.

    Notes
    -----
    Overlaps are float64 quotients of integers. Equal fractions give equal quotients, and
    different ones different quotients while nuclei have up to 2**26 px.
    """
    check_rules(matching, min_overlap)
    overlap = shared / nucleus_area[nucleus]
    rows = np.flatnonzero((shared > 0) & (overlap >= min_overlap))
    # Only pairs that share a partner with another one need to be put in order.
    rivals = np.maximum(
        np.bincount(cell[rows], minlength=len(cell_first))[cell[rows]],
        np.bincount(nucleus[rows], minlength=len(nucleus_first))[nucleus[rows]],
    )
    alone, disputed = rows[rivals == 1], rows[rivals > 1]
    c, n = cell[disputed], nucleus[disputed]
    # Equal overlap and equal shared pixels are equal areas: the nucleus needs no key.
    keys: list[Int64 | Float64] = [cell_first[c], nucleus_first[n], -shared[disputed]]
    keys += [tie[disputed]] if tie is not None else []
    keys += [-overlap[disputed]]
    keys += [c] if matching == "sequential" else []
    order = np.lexsort(keys)
    c, n = c[order].astype(np.int64), n[order].astype(np.int64)
    free = np.ones(len(cell_first), np.bool_), np.ones(len(nucleus_first), np.bool_)
    accepted = np.concatenate([alone, disputed[order][_take_greedily(c, n, *free)]])
    numbering = cell if matching == "sequential" else cell_first[cell]
    return accepted[np.argsort(numbering[accepted])]


def check_rules(matching: str, min_overlap: float) -> None:
    """Check the two settings of a matching.

    Raises
    ------
    InputError
        If `matching` is no known rule, or `min_overlap` not from 0 to 1.
    """
    if matching not in get_args(Matching):
        raise InputError(
            f"matching is {matching!r}, expected one of {', '.join(get_args(Matching))}."
        )
    if not 0 <= min_overlap <= 1:
        raise InputError(
            f"min_overlap is {min_overlap}, expected the smallest share of a nucleus that "
            f"must lie in its cell, from 0 (any) to 1 (all of it)."
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
    """Write the masks of matched cells; objects without a pair become background.

    Parameters
    ----------
    cells, nuclei : (y, x) uint32
        Label images of the same pixels.
    pair_cell, pair_nucleus, ids : (m,) uint32
        Labels of each pair and the id that both get. One to one; pairs whose objects do
        not occur in the images change nothing.
    interior : (y, x) bool, optional
        The interiors of `cells`, where they are known already. Pixels of cells that it
        leaves out count as boundary.

    Returns
    -------
    MatchedMasks

    Raises
    ------
    InputError
        If the shapes differ, or a cell stands in two pairs.
    """
    inside = _interior_of(cells, nuclei, interior)
    if not len(pair_cell) == len(pair_nucleus) == len(ids):
        raise InputError(
            f"got {len(pair_cell)} cells, {len(pair_nucleus)} nuclei and {len(ids)} ids, "
            f"expected one of each for every pair."
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
    """Return m / (c + n - m) of m pairs, c cells and n nuclei; NaN where there is none."""
    return m / (c + n - m) if c + n else float("nan")


def matching_stats(m: int, c: int, n: int) -> MatchingStats:
    """Count what found a partner and what did not.

    Parameters
    ----------
    m, c, n : int
        Number of pairs, cells and nuclei.

    Returns
    -------
    dict
        ``{"nucleus": {"total", "matched", "unmatched"}, "whole_cell": {...}}``, each a
        count and its percentage of the total (NaN where the total is 0).
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
            f"cells, nuclei and interior must cover the same pixels, got shapes "
            f"{cells.shape}, {nuclei.shape} and {inside.shape}."
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
    # In blocks that stay in the cache: looking up is scalar work, writing is not.
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
    # Where a cell has no partner its id is 0, and so is all that is written.
    zero = np.uint32(0)
    for i in range(cell.size):
        in_nucleus = inside[i] & is_partner[i]
        nucleus[i] = cell[i] if in_nucleus else zero
        cytoplasm[i] = zero if in_nucleus else cell[i]
        cell_boundary[i] = zero if inside[i] else cell[i]
