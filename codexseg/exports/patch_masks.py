"""Masks of patches: the two pickles of the specification."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from codexseg.artifacts.patch_labels import PatchLabels
from codexseg.artifacts.patches import informative_patches
from codexseg.core.labels.matching import matched_fraction, matching_stats
from codexseg.core.labels.operations import label_boundaries, relabel
from codexseg.exports.base import Exporter
from codexseg.exports.pickles import join_pickle, write_pickle_item
from codexseg.run.records import StageRecords
from codexseg.workflow.worker import WorkerState

Masks = dict[str, Any]


class PatchPickle(Exporter):
    """Writes the masks of all valid patches as a pickle.

    Parameters
    ----------
    name : str
        "original" or "matched".
    masks : callable
        Returns the masks of a patch.
    """

    format = "pickle"

    def __init__(self, name: str, masks: Callable[[WorkerState, int], Masks]) -> None:
        self.file = f"{name}_seg_res_batch.pickle"
        self.masks = masks

    def pieces(self, state: WorkerState) -> Sequence[int]:
        """Return the informative patches."""
        return informative_patches(state.inputs.records("flag"))

    def encode(self, state: WorkerState, pieces: StageRecords, piece: int) -> list[Path]:
        """Pickle the masks of a patch."""
        write_pickle_item(self._item(pieces, piece), self.masks(state, piece))
        return [self._item(pieces, piece)]

    def write(self, state: WorkerState, pieces: StageRecords, path: Path) -> None:
        """Join the items of all patches."""
        join_pickle(path, (self._item(pieces, piece) for piece in self.pieces(state)))

    def _item(self, pieces: StageRecords, piece: int) -> Path:
        return pieces.folder / f"{piece:06d}.pickle"


def original_masks(state: WorkerState, patch: int) -> Masks:
    """Return the labels (y, x) uint32 of the backend in the outer window of a patch.

    The labels of a failed patch are zeros.
    """
    inputs = state.inputs
    segmented = PatchLabels(inputs.run.patches, inputs.records("segment"), state.grid)
    cell, nucleus = segmented.original(patch)
    return {
        "cell": cell,
        "nucleus": nucleus,
        "cell_boundary": label_boundaries(cell),
        "nucleus_boundary": label_boundaries(nucleus),
    }


def matched_masks(state: WorkerState, patch: int) -> Masks:
    """Return the matched cells that a patch owns, in its outer window, by cell id."""
    outer, cells = state.grid[patch].outer, state.cells
    ids = np.asarray(cells.cell_id[cells.patch_id == patch])
    cell = relabel(state.labels.read("cell", outer), ids, ids)
    nucleus = relabel(state.labels.read("nucleus", outer), ids, ids)
    counts = cells.counts(patch)
    return {
        "cell_matched_mask": cell,
        "nucleus_matched_mask": nucleus,
        "cell_outside_nucleus_mask": np.where(nucleus > 0, np.uint32(0), cell),
        "cell_matched_boundary": label_boundaries(cell),
        "nucleus_matched_boundary": label_boundaries(nucleus),
        "matched_fraction": matched_fraction(*counts),
        "matching_stats": matching_stats(*counts),
    }


PICKLES = (PatchPickle("original", original_masks), PatchPickle("matched", matched_masks))
