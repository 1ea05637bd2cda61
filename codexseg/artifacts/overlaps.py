"""Pixels that nuclei share with cells, by core (stage stitch)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from codexseg.arrays import Int64, Labels, Mask
from codexseg.core.grid import Window
from codexseg.core.labels.matching import PairTable, interior, pair_table
from codexseg.run.records import StageRecords

SIDES: dict[str, tuple[Any, Any]] = {
    "top": np.s_[0, :],
    "bottom": np.s_[-1, :],
    "left": np.s_[:, 0],
    "right": np.s_[:, -1],
}
"""Index of the pixels along each side of a core."""


@dataclass(frozen=True, eq=False)
class CoreOverlaps:
    """Shared pixels of cells and nuclei in the core of one patch.

    Attributes
    ----------
    pairs : PairTable
        Pixels by cell and nucleus, in the ids of the slide.
    pairable : (y, x) bool
        Pixels that count. Cells outside the core are not considered.
    edges : mapping of str to (2, n) uint32
        By side: the cells along it, and the nuclei on its pairable pixels. Empty if the
        cells of other cores do not matter.
    """

    pairs: PairTable
    pairable: Mask = field(repr=False)
    edges: Mapping[str, Labels] = field(repr=False)

    @classmethod
    def count(
        cls, cells: Labels, nuclei: Labels, same_label: Mask | None = None
    ) -> "CoreOverlaps":
        """Count the shared pixels of a core.

        Parameters
        ----------
        cells, nuclei : (y, x) uint32
            Ids on the slide.
        same_label : (y, x) bool, optional
            Pixels that count; by default the interiors of the cells.
        """
        pairable = interior(cells) if same_label is None else same_label
        edges = {
            side: np.stack([cells[at], nuclei[at] * pairable[at]])
            for side, at in SIDES.items()
            if same_label is None
        }
        return cls(pair_table(cells, nuclei, interior=pairable), pairable, edges)

    def write(self, records: StageRecords, patch: int) -> None:
        """Write the counts of a patch."""
        mask = {"mask": np.packbits(self.pairable)}
        records.write_columns(patch, {**self.pairs._asdict(), **mask, **self.edges})

    @classmethod
    def read(
        cls, records: StageRecords, patch: int, shape: tuple[int, int]
    ) -> "CoreOverlaps":
        """Read the counts of a patch with a core of a shape."""
        columns = records.read_columns(patch)
        bits = np.unpackbits(columns["mask"], count=shape[0] * shape[1])
        return cls(
            PairTable(*(columns[name] for name in PairTable._fields)),
            bits.reshape(shape).view(np.bool_),
            {side: columns[side] for side in SIDES if side in columns},
        )


def side_pixels(core: Window, side: str, width: int) -> Int64:
    """Return the pixels along a side of a core: y * width + x on a slide of a width."""
    y, x = np.ogrid[core.slices]
    pixels: Int64 = (y * width + x)[SIDES[side]]
    return pixels
