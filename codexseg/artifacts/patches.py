"""The patch grid, and ``patches_metadata.csv`` with one row per patch."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from codexseg.artifacts.columns import (
    COUNT_COLUMNS,
    FLAG_COLUMNS,
    PATCH_COLUMNS,
    STATISTICS_COLUMNS,
    names_of,
)
from codexseg.core.grid import PatchGrid
from codexseg.core.labels.matching import matched_fraction
from codexseg.io.csv_writer import write_csv_rows
from codexseg.run.records import Record, StageRecords

PATCHES_METADATA = "patches_metadata.csv"
_GRID = "grid"

Counts = Callable[[int], tuple[int, int, int]]
"""Return the numbers of pairs, cells and nuclei that a patch owns."""


def write_grid(records: StageRecords, grid: PatchGrid) -> None:
    """Write the grid of the stage patch."""
    records.write_table(_GRID, {"grid": np.array([grid.shape, grid.step, grid.halo])})


def read_grid(records: StageRecords) -> PatchGrid:
    """Read the grid of the stage patch."""
    rows = records.read_table(_GRID)["grid"]
    shape, step, halo = ((int(y), int(x)) for y, x in rows)
    return PatchGrid(shape, step, halo)


def informative_patches(flags: StageRecords) -> list[int]:
    """Return the numbers of the informative patches, in order.

    Parameters
    ----------
    flags : StageRecords
        Of the stage flag.
    """
    return [patch for patch, record in flags.read_all().items() if record["is_informative"]]


def segmented_patches(segmented: StageRecords) -> list[int]:
    """Return the numbers of the patches that have labels.

    Parameters
    ----------
    segmented : StageRecords
        Of the stage segment.
    """
    records = segmented.read_all()
    return [patch for patch, record in records.items() if record["status"] == "done"]


def patch_rows(
    grid: PatchGrid,
    flags: StageRecords,
    segmented: StageRecords | None = None,
    counts: Counts | None = None,
) -> Iterator[Record]:
    """Yield one row of ``patches_metadata.csv`` per patch.

    Parameters
    ----------
    grid : PatchGrid
        The patch grid.
    flags : StageRecords
        Of the stage flag.
    segmented : StageRecords, optional
        Of the stage segment, once it has begun.
    counts : callable, optional
        Counts of a patch, once cells are numbered. Without it their columns are empty.
    """
    flagged = flags.read_all()
    done = {} if segmented is None else segmented.read_all()
    waiting = "waiting" if segmented is None else "skipped"
    for patch in grid:
        flag, record = flagged[patch.number], done.get(patch.number, {})
        status = waiting if flag["is_informative"] else "skipped"
        yield {
            "patch_id": patch.number,
            "height": patch.outer.shape[0],
            "width": patch.outer.shape[1],
            **{name: flag[name] for name in names_of((*STATISTICS_COLUMNS, *FLAG_COLUMNS))},
            **_count_columns(counts(patch.number) if counts else None),
            **{f"core_{edge}": value for edge, value in vars(patch.core).items()},
            **{f"outer_{edge}": value for edge, value in vars(patch.outer).items()},
            "status": record.get("status", status),
            "note": record.get("note", ""),
        }


def write_patches_metadata(run: Path, rows: Iterator[Mapping[str, object]]) -> None:
    """Write ``patches_metadata.csv`` into a run directory."""
    write_csv_rows(run / PATCHES_METADATA, names_of(PATCH_COLUMNS), rows)


def _count_columns(counts: tuple[int, int, int] | None) -> Record:
    columns: Record = dict.fromkeys(names_of(COUNT_COLUMNS), "")
    if counts:
        matched, cells, nuclei = counts
        columns |= {"n_cells": cells, "n_nuclei": nuclei, "n_matched": matched}
        if cells + nuclei:
            columns["matched_fraction"] = matched_fraction(*counts)
    return columns
