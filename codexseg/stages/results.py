"""What a patch's results look like: its masks as arrays, its counts.

The pickles, the facade and the metadata are all made of these.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codexseg.core.labels import label_boundaries, relabel
from codexseg.core.matching import matched_fraction, matching_stats
from codexseg.run import Tables
from codexseg.stages.base import Job
from codexseg.stages.pixels import grid_of
from codexseg.stages.stitch import cells_of, store_of

Labels = NDArray[np.uint32]
Masks = dict[str, Any]


def valid_patches(job: Job) -> list[int]:
    """Return the informative patches, in the order of the pickles."""
    return [p for p, row in job.rows("flag").items() if row["is_informative"]]


def original_masks(job: Job, number: int) -> Masks:
    """Return what the backend found in a patch: labels (y, x) uint32 of its outer window.

    A patch that failed has no labels: zeros.
    """
    outer = grid_of(job)[number].outer
    row = job.run.row("segment", job.keys["segment"], number)
    if row is None or row["status"] != "done":
        cell = nucleus = np.zeros(outer.shape, np.uint32)
    else:
        cell, nucleus = job.run.read_patch(number, outer)
    return {
        "cell": cell,
        "nucleus": nucleus,
        "cell_boundary": label_boundaries(cell),
        "nucleus_boundary": label_boundaries(nucleus),
    }


def matched_masks(job: Job, number: int) -> Masks:
    """Return the matched cells that a patch owns, in its outer window, in slide ids."""
    outer, cells = grid_of(job)[number].outer, cells_of(job)
    ids = cells["cell_id"][cells["patch_id"] == number]
    store = store_of(job)
    cell = relabel(store.read("cell", outer), ids, ids)
    nucleus = relabel(store.read("nucleus", outer), ids, ids)
    counts = counts_of(job, number)
    return {
        "cell_matched_mask": cell,
        "nucleus_matched_mask": nucleus,
        "cell_outside_nucleus_mask": np.where(nucleus > 0, np.uint32(0), cell),
        "cell_matched_boundary": label_boundaries(cell),
        "nucleus_matched_boundary": label_boundaries(nucleus),
        "matched_fraction": matched_fraction(*counts),
        "matching_stats": matching_stats(*counts),
    }


@lru_cache(maxsize=1)
def _counts(job: Job) -> Tables:
    """Count pairs, cells and nuclei by the patch that owns them."""
    cells, n = cells_of(job), len(grid_of(job))

    def count(patches: NDArray[Any]) -> NDArray[np.int64]:
        return np.bincount(patches, minlength=n)

    alone = [
        cells["unmatched_patch_id"][cells["unmatched_compartment"] == c] for c in (0, 1)
    ]
    has_nucleus = cells["nucleus_original_id"] > 0
    return {
        "cells": count(cells["patch_id"]),
        "pairs": count(cells["patch_id"][has_nucleus]),
        "unmatched_cells": count(alone[0]),
        "unmatched_nuclei": count(alone[1]),
    }


def counts_of(job: Job, number: int) -> tuple[int, int, int]:
    """Return the pairs, the cells and the nuclei that a patch owns.

    A nucleus counts for the patch that owns its cell, one without a cell for the patch
    whose core holds its first pixel.
    """
    table = _counts(job)
    pairs = int(table["pairs"][number])
    return (
        pairs,
        int(table["cells"][number]) + int(table["unmatched_cells"][number]),
        pairs + int(table["unmatched_nuclei"][number]),
    )
