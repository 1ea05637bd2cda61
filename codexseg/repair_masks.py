"""Repair of label images: one nucleus per cell, inside the cell, with the same id.

Array-level functions for notebooks. The repair stage of a run uses the same kernels.
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
    """Result of `repair_masks`; masks are (y, x) uint32."""

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
    """Match and trim the masks of several patches independently.

    Parameters
    ----------
    seg_res_batch : sequence of mappings
        One per patch, with label images "cell" and "nucleus", (y, x) integer. Other keys
        are ignored.
    matching, min_overlap
        See `repair_masks`.

    Returns
    -------
    list of Repaired
        One per patch, in the same order.

    Raises
    ------
    InputError
        If a mask of a patch is missing or not a label image.
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
    """Match each cell with one nucleus and trim the nucleus to the cell's interior.

    Parameters
    ----------
    cells, nuclei : (y, x) integer
        Label images of the same pixels, 0 is background. Labels up to 2**32 - 1.
    matching : {"best", "sequential"}
        ``best``: pairs in descending order of overlap, independent of label numbers.
        ``sequential``: the published rule, cells in the order of their labels. See
        `codexseg.core.labels.matching.match`.
    min_overlap : float
        Minimum fraction of a nucleus inside the interior of its cell, 0 (any pixel) to 1.
    tie : callable, optional
        Function from the table of candidate pairs to a rank per row, which orders pairs
        of equal overlap, lowest first.

    Returns
    -------
    Repaired
        Masks have ids 1..m, in raster order of the cells' first pixels (``best``) or in
        the order of the match (``sequential``). "pairs" is (m, 3) int64: new id, label in
        `cells`, label in `nuclei`. "unmatched_cells" and "unmatched_nuclei" are labels
        without a partner, ascending. "matched_fraction" is m / (cells + nuclei - m), NaN
        without objects.

    Raises
    ------
    InputError
        If the masks are not label images of the same shape, or a setting is invalid.
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
            f"Patch {number} of the batch has the keys {sorted(patch)}; "
            f"{' and '.join(missing)} missing. Pass the label images 'cell' and 'nucleus'."
        )
    cells = as_labels(patch["cell"], f"'cell' of patch {number}")
    nuclei = as_labels(patch["nucleus"], f"'nucleus' of patch {number}")
    _check_same_shape(cells, nuclei, f" of patch {number}")
    return cells, nuclei


def _check_same_shape(cells: Labels, nuclei: Labels, where: str) -> None:
    if cells.shape != nuclei.shape:
        raise InputError(
            f"Shapes of cells and nuclei{where} differ: {cells.shape} and {nuclei.shape}. "
            f"Pass images of the same pixels."
        )
