"""Labels and detections of patches, as the backend returned them (stage segment)."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from codexseg.arrays import Columns, Int64, Labels
from codexseg.artifacts.columns import COMPARTMENTS
from codexseg.core.grid import Patch, PatchGrid, Window
from codexseg.core.labels.stitching import Detections
from codexseg.run.patch_store import PatchStore
from codexseg.run.records import Record, StageRecords

ObjectColumns = Mapping[str, Columns]
"""Per-object columns by compartment; "label" is the label they belong to."""


@dataclass(frozen=True)
class PatchLabels:
    """Labels of the segmented patches.

    Attributes
    ----------
    store : PatchStore
        Labels of the outer and the extended windows.
    records : StageRecords
        Of the stage segment.
    grid : PatchGrid
        The patch grid.
    """

    store: PatchStore
    records: StageRecords
    grid: PatchGrid

    def read(self, patch: int, window: Window, seen: Window | None = None) -> Labels:
        """Read the labels (2, y, x) of a window inside the window that the patch saw.

        Parameters
        ----------
        patch : int
            Number of the patch.
        window : Window
            The part to read.
        seen : Window, optional
            The window that was segmented; by default the outer one.
        """
        outer = self.grid[patch].outer
        if seen is None or seen == outer:
            return self.store.read(patch, outer, window)
        return self.store.read_extended(patch, seen, window)

    def seen_windows(self) -> Int64:
        """Return the window that each patch saw: outer, or extended.

        Returns
        -------
        (n, 4) int64
            y0, x0, y1, x1; zeros for a patch without labels.
        """
        windows = np.zeros((len(self.grid), 4), np.int64)
        for number, record in self.records.read_all().items():
            if record["status"] == "done":
                outer = self.grid[number].outer
                edges = outer.y0, outer.x0, outer.y1, outer.x1
                windows[number] = record.get("window", edges)
        return windows

    def original(self, patch: int) -> Labels:
        """Return the labels (2, y, x) of an outer window; zeros if the patch failed."""
        outer = self.grid[patch].outer
        record = self.records.read(patch)
        if record is None or record["status"] != "done":
            return np.zeros((2, *outer.shape), np.uint32)
        return self.store.read(patch, outer)

    def write(self, patch: Patch, seen: Window, labels: Labels) -> int:
        """Write the labels (2, y, x) of the window that a patch saw; return their size."""
        self.store.write(patch.number, labels[:, *patch.outer.within(seen)])
        if seen != patch.outer:
            self.store.write_extended(patch.number, labels)
        return self.store.bytes_of(patch.number)

    def is_intact(self, patch: int, record: Record | None) -> bool:
        """Return whether a patch was segmented and its labels have the recorded size."""
        if record is None or record["status"] == "failed":
            return False
        return bool(self.store.bytes_of(patch) == record.get("bytes"))


def write_detections(
    records: StageRecords,
    patch: int,
    detections: Mapping[str, Detections],
    columns: ObjectColumns,
) -> None:
    """Write the objects that touch the core of a patch, by compartment.

    Parameters
    ----------
    records : StageRecords
        Of the stage segment.
    patch : int
        Number of the patch.
    detections : mapping of str to Detections
        By compartment.
    columns : mapping of str to mapping of str to (n,) array
        Per-object columns of the backend, in the order of the detections.
    """
    table: dict[str, np.ndarray] = {}
    for name, objects in detections.items():
        table |= objects.to_tables(name)
        table |= {_stored(name, key): values for key, values in columns[name].items()}
    records.write_columns(patch, table)


def read_detections(table: Columns, compartment: str) -> Detections:
    """Return the detections of a compartment from the columns of a patch."""
    return Detections.from_tables(table, compartment)


def read_object_column(table: Columns, compartment: str, name: str) -> np.ndarray:
    """Return a per-object column of the backend from the columns of a patch."""
    return table[_stored(compartment, name)]


def empty_columns(object_columns: Mapping[str, str]) -> dict[str, Columns]:
    """Return per-object columns without rows, by compartment."""
    return {
        compartment: {name: np.zeros(0, dtype) for name, dtype in object_columns.items()}
        for compartment in COMPARTMENTS
    }


def _stored(compartment: str, name: str) -> str:
    # A prefix of its own: a column of a backend may be called area or box.
    return f"{compartment}_column_{name}"
