"""patches_metadata.csv: one row for each patch, as far as the run has come."""

import csv
from collections.abc import Callable, Iterator

from codexseg.core.matching import matched_fraction
from codexseg.run import Row, replacing
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
    segmented = job.rows("segment") if counts else {}
    for patch in grid_of(job):
        flag, row = flags[patch.number], segmented.get(patch.number, {})
        waits = "waiting" if counts is None and flag["is_informative"] else "skipped"
        yield {
            "patch_id": patch.number,
            "height": patch.outer.shape[0],
            "width": patch.outer.shape[1],
            **{name: flag[name] for name in (*STATISTICS, *FLAGS)},
            **_counted(counts(patch.number) if counts else None),
            **{f"core_{edge}": value for edge, value in vars(patch.core).items()},
            **{f"outer_{edge}": value for edge, value in vars(patch.outer).items()},
            "status": row.get("status", waits),
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
