"""Repair: every kept cell has one nucleus, both carry one id, none reaches outside.

Array-level functions for notebooks; the repair stage of a run is built on the same core.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
from numpy.typing import ArrayLike

from codexseg.arrays import Int64, Labels
from codexseg.core.labels.matching import (
    Matching,
    MatchingStats,
    PairTable,
    apply_pairs,
    check_rules,
    interior,
    match,
    matched_fraction,
    matching_stats,
    pair_table,
)
from codexseg.core.labels.operations import as_labels, object_table
from codexseg.errors import InputError


class Repaired(TypedDict):
    """What `repair_masks` returns; the masks are (y, x) uint32."""

    cell_matched_mask: Labels
    nucleus_matched_mask: Labels
    cell_outside_nucleus_mask: Labels
    cell_matched_boundary: Labels
    nucleus_matched_boundary: Labels
    matched_fraction: float
    matching_stats: MatchingStats
    pairs: Int64
    unmatched_cells: Labels
    unmatched_nuclei: Labels


def repair_masks_batch(
    seg_res_batch: Sequence[Mapping[str, Any]],
    *,
    matching: Matching = "best",
    min_overlap: float = 0.0,
) -> list[Repaired]:
    """Match and trim the masks of several patches, each on its own.

    Parameters
    ----------
    seg_res_batch : sequence of mappings
        One per patch, with the label images "cell" and "nucleus", (y, x) integer; other
        keys are ignored.
    matching, min_overlap
        See `repair_masks`.

    Returns
    -------
    list of Repaired
        One per patch, in the same order.

    Raises
    ------
    InputError
        If a patch lacks a mask or a mask is not a label image; the message names the
        patch.
    """
    check_rules(matching, min_overlap)
    patches = [_masks_of(patch, number) for number, patch in enumerate(seg_res_batch)]
    return [
        repair_masks(cells, nuclei, matching=matching, min_overlap=min_overlap)
        for cells, nuclei in patches
    ]


def repair_masks(
    cells: ArrayLike,
    nuclei: ArrayLike,
    *,
    matching: Matching = "best",
    min_overlap: float = 0.0,
    tie: Callable[[PairTable], Int64] | None = None,
) -> Repaired:
    """Match every cell with one nucleus and trim the nucleus to the cell's interior.

    Parameters
    ----------
    cells, nuclei : (y, x) integer
        Label images of the same pixels, 0 is background. Any labels up to 2**32 - 1.
    matching : {"best", "sequential"}
        ``best``: pairs by the highest overlap first, whatever the numbers of the labels.
        ``sequential``: the published rule, cells choose in the order of their labels.
        See `codexseg.core.labels.matching.match`.
    min_overlap : float
        Smallest share of a nucleus that must lie in the interior of its cell, 0 to 1;
        0: any pixel.
    tie : callable, optional
        Given the table of candidate pairs, returns a rank per row that decides between
        pairs of equal overlap, the lowest first.

    Returns
    -------
    Repaired
        The masks carry ids 1..m: in raster order of the cells' first pixels (``best``)
        or in the order of the match (``sequential``). "pairs" is (m, 3) int64: new id,
        label in `cells`, label in `nuclei`. "unmatched_cells" and "unmatched_nuclei" are
        the labels that found no partner, ascending. "matched_fraction" is
        m / (cells + nuclei - m), NaN where there is neither.

    Raises
    ------
    InputError
        If the masks are not label images of one shape, or a setting is not valid.
    """
    cells, nuclei = as_labels(cells, "cells"), as_labels(nuclei, "nuclei")
    _check_same_shape(cells, nuclei, "")
    inside = interior(cells)
    candidates = pair_table(cells, nuclei, interior=inside)
    cell_table, nucleus_table = object_table(cells), object_table(nuclei)
    accepted = match(
        np.searchsorted(cell_table.label, candidates.cell),
        np.searchsorted(nucleus_table.label, candidates.nucleus),
        candidates.shared,
        nucleus_area=nucleus_table.area,
        cell_first=cell_table.first,
        nucleus_first=nucleus_table.first,
        matching=matching,
        min_overlap=min_overlap,
        tie=None if tie is None else tie(candidates),
    )
    pair_cell, pair_nucleus = candidates.cell[accepted], candidates.nucleus[accepted]
    ids = np.arange(1, len(accepted) + 1, dtype=np.uint32)
    masks = apply_pairs(cells, nuclei, pair_cell, pair_nucleus, ids, interior=inside)
    counts = len(ids), len(cell_table.label), len(nucleus_table.label)
    return Repaired(
        cell_matched_mask=masks.cell,
        nucleus_matched_mask=masks.nucleus,
        cell_outside_nucleus_mask=masks.cytoplasm,
        cell_matched_boundary=masks.cell_boundary,
        nucleus_matched_boundary=masks.nucleus_boundary,
        matched_fraction=matched_fraction(*counts),
        matching_stats=matching_stats(*counts),
        pairs=np.column_stack([ids, pair_cell, pair_nucleus]).astype(np.int64),
        unmatched_cells=np.setdiff1d(cell_table.label, pair_cell, assume_unique=True),
        unmatched_nuclei=np.setdiff1d(
            nucleus_table.label, pair_nucleus, assume_unique=True
        ),
    )


def _masks_of(patch: Mapping[str, Any], number: int) -> tuple[Labels, Labels]:
    missing = [key for key in ("cell", "nucleus") if key not in patch]
    if missing:
        raise InputError(
            f"patch {number} of the batch has the keys {sorted(patch)}, expected the label "
            f"images 'cell' and 'nucleus': {' and '.join(missing)} missing."
        )
    cells = as_labels(patch["cell"], f"'cell' of patch {number}")
    nuclei = as_labels(patch["nucleus"], f"'nucleus' of patch {number}")
    _check_same_shape(cells, nuclei, f" of patch {number}")
    return cells, nuclei


def _check_same_shape(cells: Labels, nuclei: Labels, where: str) -> None:
    if cells.shape != nuclei.shape:
        raise InputError(
            f"cells and nuclei{where} must cover the same pixels, got shapes "
            f"{cells.shape} and {nuclei.shape}."
        )
