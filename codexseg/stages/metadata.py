"""patches_metadata.csv: one row for each patch, as far as the run has come."""

import csv
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codexseg.core.labels.matching import matched_fraction
from codexseg.run.directory import Arrays, Row, Tables
from codexseg.run.files import replacing
from codexseg.stages.base import Job
from codexseg.stages.pixels import grid_of

METADATA = "patches_metadata.csv"

STATISTICS = tuple(
    f"{channel}_{name}"
    for channel in ("nucleus", "wholecell")
    for name in ("mean", "std", "non_zero_perc")
)
FLAGS = ("is_empty", "is_noisy", "is_bad_patch", "is_informative")
COUNTS = ("matched_fraction", "n_cells", "n_nuclei", "n_matched")

Counts = Callable[[int], tuple[int, int, int]]
"""Tells the pairs, cells and nuclei of a patch."""


@lru_cache(maxsize=1)
def cells_of(job: Job) -> Arrays:
    """Return the table of ids, opened once per worker."""
    return dict(job.tables("stitch", "cells"))


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


def write_metadata(job: Job, counts: Counts | None = None) -> None:
    """Write patches_metadata.csv; without `counts`, what flag knows."""
    rows = list(metadata_rows(job, counts))
    path = job.run.path / METADATA
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def metadata_rows(job: Job, counts: Counts | None) -> Iterator[Row]:
    """Yield a row for each patch, in the order of the columns."""
    flags = job.rows("flag")
    segmented = job.rows("segment") if "segment" in job.keys else {}
    to_do = "skipped" if "segment" in job.keys else "waiting"
    for patch in grid_of(job):
        flag, row = flags[patch.number], segmented.get(patch.number, {})
        yield {
            "patch_id": patch.number,
            "height": patch.outer.shape[0],
            "width": patch.outer.shape[1],
            **{name: flag[name] for name in (*STATISTICS, *FLAGS)},
            **_counted(counts(patch.number) if counts else None),
            **{f"core_{edge}": value for edge, value in vars(patch.core).items()},
            **{f"outer_{edge}": value for edge, value in vars(patch.outer).items()},
            "status": row.get("status", to_do if flag["is_informative"] else "skipped"),
            "note": row.get("note", ""),
        }


def _counted(counts: tuple[int, int, int] | None) -> Row:
    """Fill the columns of counts; what there is nothing of stays empty."""
    row: Row = dict.fromkeys(COUNTS, "")
    if counts:
        matched, cells, nuclei = counts
        row |= {"n_cells": cells, "n_nuclei": nuclei, "n_matched": matched}
        if cells + nuclei:
            row["matched_fraction"] = matched_fraction(*counts)
    return row
