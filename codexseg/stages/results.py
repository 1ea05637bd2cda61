"""What a patch's results look like as arrays: the pickles and the facade are made of it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from codexseg.core.labels.matching import matched_fraction, matching_stats
from codexseg.core.labels.operations import label_boundaries, relabel
from codexseg.stages.base import Job
from codexseg.stages.metadata import cells_of, counts_of
from codexseg.stages.pixels import grid_of
from codexseg.stages.stitch import store_of

Labels = NDArray[np.uint32]
Masks = dict[str, Any]


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
