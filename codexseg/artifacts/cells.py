"""Cells of the slide: ids and matching (stage repair), measurements (stage profile)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from itertools import groupby

import numpy as np

from codexseg.arrays import Columns, Int64, Labels
from codexseg.artifacts.columns import COMPARTMENTS, Column, conform, empty_table
from codexseg.artifacts.objects import restored_columns, stored_columns
from codexseg.core.grid import PatchGrid
from codexseg.run.records import StageRecords

REASONS = ("", "no partner", "overlap below min_overlap", "partner has a better match")
"""Why an object has no partner; the first: it has one."""
MATCHED, ALONE, OVERLAP_TOO_SMALL, PARTNER_TAKEN = range(4)

_TABLE = "cells"
_UNMATCHED = "unmatched_"


@dataclass(frozen=True, eq=False)
class Unmatched:
    """Objects without a partner: cells first, each in raster order.

    Attributes
    ----------
    compartment : (n,) int8
        Index into COMPARTMENTS.
    reason : (n,) int8
        Index into REASONS.
    original_id : (n,) uint32
        Label in ``cell_original`` or ``nucleus_original``.
    area : (n,) int64
        Pixels.
    box : (n, 4) int64
        y0, x0, y1, x1 on the slide, half-open.
    patch_id, original_patch_id : (n,) int64
        Patch that owns the object, and patch that segmented it.
    original_label : (n,) uint32
        Label that the backend gave in that patch.
    """

    compartment: np.ndarray
    reason: np.ndarray
    original_id: Labels
    area: Int64
    box: Int64
    patch_id: Int64
    original_patch_id: Int64
    original_label: Labels

    def __len__(self) -> int:
        return len(self.reason)

    def count(self, compartment: str) -> dict[str, int]:
        """Count the objects of a compartment by reason."""
        is_here = self.compartment == COMPARTMENTS.index(compartment)
        counts = np.bincount(self.reason[is_here], minlength=len(REASONS)).tolist()
        return dict(zip(REASONS[1:], counts[1:], strict=True))


@dataclass(frozen=True, eq=False)
class CellIndex:
    """Ids of the cells: row i is cell i + 1, in raster order of first pixels.

    Attributes
    ----------
    cell_id : (n,) uint32
        1 to n.
    patch_id : (n,) int64
        Patch that owns the cell.
    box : (n, 4) int64
        y0, x0, y1, x1 on the slide, half-open.
    cell_original_id, nucleus_original_id : (n,) uint32
        Labels in ``cell_original`` and ``nucleus_original``; 0: no nucleus.
    original_patch_id : (n,) int64
        Patch that segmented the cell.
    cell_original_label : (n,) uint32
        Label that the backend gave in that patch.
    nucleus_original_area : (n,) int64
        Pixels of the nucleus before repair; 0: no nucleus.
    cell_area, nucleus_area : (n,) int64
        Pixels of the cell, and of the nucleus after repair.
    cell_lut, nucleus_lut : (labels + 1,) uint32
        Cell id of each label in ``cell_original`` and ``nucleus_original``; 0: unmatched.
    unmatched : Unmatched
        The other objects.
    columns : mapping of str to (n,) array
        Per-object columns of the backend, e.g. "cell_confidence".
    """

    cell_id: Labels
    patch_id: Int64
    box: Int64
    cell_original_id: Labels
    nucleus_original_id: Labels
    original_patch_id: Int64
    cell_original_label: Labels
    nucleus_original_area: Int64
    cell_area: Int64
    nucleus_area: Int64
    cell_lut: Labels
    nucleus_lut: Labels
    unmatched: Unmatched
    columns: Columns = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.cell_id)

    def owners(self) -> list[int]:
        """Return the patches that own cells, in order."""
        return [int(patch) for patch in np.unique(self.patch_id)]

    @cached_property
    def _counts(self) -> dict[str, Int64]:
        def count(patches: Int64) -> Int64:
            return np.bincount(patches)

        cells, nuclei = (
            self.unmatched.patch_id[self.unmatched.compartment == c] for c in (0, 1)
        )
        return {
            "cells": count(self.patch_id),
            "pairs": count(self.patch_id[self.nucleus_original_id > 0]),
            "unmatched_cells": count(cells),
            "unmatched_nuclei": count(nuclei),
        }

    def counts(self, patch: int) -> tuple[int, int, int]:
        """Return the numbers of pairs, cells and nuclei that a patch owns.

        A nucleus belongs to the patch that owns its cell; one without a cell to the patch
        whose core contains its first pixel.
        """
        number = {
            name: int(counts[patch]) if patch < len(counts) else 0
            for name, counts in self._counts.items()
        }
        pairs = number["pairs"]
        return (
            pairs,
            number["cells"] + number["unmatched_cells"],
            pairs + number["unmatched_nuclei"],
        )

    def write(self, records: StageRecords) -> None:
        """Write the index."""
        table = {
            name: values
            for name, values in vars(self).items()
            if isinstance(values, np.ndarray)
        }
        table |= {_UNMATCHED + name: v for name, v in vars(self.unmatched).items()}
        table |= stored_columns(self.columns)
        records.write_table(_TABLE, table)

    @classmethod
    def read(cls, records: StageRecords, keys: Mapping[str, str]) -> "CellIndex":
        """Open the index.

        Parameters
        ----------
        records : StageRecords
            Of the stage repair.
        keys : mapping of str to str
            Keys of the stages. In runs of version 0.1.0 the stage stitch holds the index.
        """
        if not records.has_table(_TABLE) and "stitch" in keys:
            earlier = StageRecords(records.run, "stitch", keys["stitch"])
            records = earlier if earlier.has_table(_TABLE) else records
        table = dict(records.read_table(_TABLE))
        n = len(table["cell_id"])
        for name in ("cell_area", "nucleus_area"):  # missing in version 0.1.0
            table.setdefault(name, np.zeros(n, np.int64))
        unmatched = {f.name: table[_UNMATCHED + f.name] for f in fields(Unmatched)}
        own = {f.name for f in fields(cls)} - {"unmatched", "columns"}
        return cls(
            **{name: table[name] for name in own},
            unmatched=Unmatched(**unmatched),
            columns=restored_columns(table),
        )


@dataclass(frozen=True)
class CellTable:
    """The measurements of all cells, stored by patch.

    Attributes
    ----------
    records : StageRecords
        Of the stage profile.
    columns : tuple of Column
        The columns, as :func:`codexseg.artifacts.columns.cell_columns` declares them.
    """

    records: StageRecords
    columns: tuple[Column, ...]

    def write(self, patch: int, table: Columns) -> None:
        """Write the cells that a patch owns."""
        self.records.write_columns(patch, conform(table, self.columns))

    def pieces(self, owners: list[int], grid: PatchGrid) -> Iterator[Columns]:
        """Yield the table in pieces, in the order of the ids; at least one piece.

        Ids follow the raster order of first pixels, and the core that contains this pixel
        owns the cell. The cells of one row of patches therefore precede those of the
        next, and at most one such row is in memory.
        """
        for _, row in groupby(owners, lambda patch: patch // grid.counts[1]):
            parts = [self.records.read_columns(patch) for patch in row]
            order = np.argsort(np.concatenate([part["cell_id"] for part in parts]))
            yield {
                name: np.concatenate([part[name] for part in parts])[order]
                for name in parts[0]
            }
        if not owners:
            yield empty_table(self.columns)
