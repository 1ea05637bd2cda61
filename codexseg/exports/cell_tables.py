"""The table of cells as parquet, CSV and AnnData, and the unmatched objects."""

from pathlib import Path

import numpy as np

from codexseg.arrays import Columns
from codexseg.artifacts.cells import REASONS, Unmatched
from codexseg.artifacts.columns import COMPARTMENTS, UNMATCHED_COLUMNS, conform
from codexseg.exports.anndata import write_h5ad
from codexseg.exports.base import Exporter, file_metadata
from codexseg.exports.tables import write_csv, write_parquet
from codexseg.run.records import StageRecords
from codexseg.workflow.measurements import cell_table, measured_channels
from codexseg.workflow.worker import WorkerState


class CellsParquet(Exporter):
    """Writes ``cells.parquet``."""

    file = "cells.parquet"

    def write(self, state: WorkerState, pieces: StageRecords, path: Path) -> None:
        """Write the table of cells."""
        del pieces
        table = cell_table(state.inputs).pieces(state.cells.owners(), state.grid)
        write_parquet(path, table, file_metadata(state.inputs))


class CellsCsv(Exporter):
    """Writes ``cells.csv``."""

    file, format = "cells.csv", "csv"

    def write(self, state: WorkerState, pieces: StageRecords, path: Path) -> None:
        """Write the table of cells."""
        del pieces
        write_csv(path, cell_table(state.inputs).pieces(state.cells.owners(), state.grid))


class CellsH5ad(Exporter):
    """Writes ``cells.h5ad``."""

    file, format = "cells.h5ad", "h5ad"

    def write(self, state: WorkerState, pieces: StageRecords, path: Path) -> None:
        """Write the table of cells as AnnData."""
        del pieces
        inputs = state.inputs
        write_h5ad(
            path,
            cell_table(inputs).pieces(state.cells.owners(), state.grid),
            len(state.cells),
            list(measured_channels(inputs.config.profile, inputs.slide.channel_names)),
            inputs.slide.mpp,
            {"codexseg": file_metadata(inputs)},
            position=("y_px", "x_px"),
        )


class UnmatchedParquet(Exporter):
    """Writes ``unmatched.parquet``."""

    file = "unmatched.parquet"

    def write(self, state: WorkerState, pieces: StageRecords, path: Path) -> None:
        """Write the objects without a partner."""
        del pieces
        table = unmatched_table(state.cells.unmatched)
        write_parquet(path, [table], file_metadata(state.inputs))


def unmatched_table(unmatched: Unmatched) -> Columns:
    """Return the unmatched objects with the declared columns."""
    y0, x0, y1, x1 = np.asarray(unmatched.box).T
    table = {
        "compartment": np.array(COMPARTMENTS, object)[unmatched.compartment],
        "original_id": unmatched.original_id,
        "reason": np.array(REASONS, object)[unmatched.reason],
        "area_px": unmatched.area,
        "bbox_y0_px": y0,
        "bbox_x0_px": x0,
        "bbox_y1_px": y1,
        "bbox_x1_px": x1,
        "patch_id": unmatched.patch_id,
        "original_patch_id": unmatched.original_patch_id,
        "original_label": unmatched.original_label,
    }
    return conform(table, UNMATCHED_COLUMNS)
