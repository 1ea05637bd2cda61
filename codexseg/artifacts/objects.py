"""Objects of the slide before matching (stage stitch)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from codexseg.arrays import Columns, Int64, Labels
from codexseg.core.grid import PatchGrid
from codexseg.run.records import StageRecords

_FIELDS = ("first", "area", "box", "source_patch", "source_label", "detected_first")
_PREFIX = "column_"
_PATCHES = "patches_with_objects"


@dataclass(frozen=True, eq=False)
class SlideObjects:
    """Cells or nuclei of the slide; row i has the label i + 1 in ``*_original``.

    Attributes
    ----------
    first : (n,) int64
        First pixel in raster order, y * width of the slide + x; ascending.
    area : (n,) int64
        Pixels.
    box : (n, 4) int64
        y0, x0, y1, x1 on the slide, half-open.
    source_patch : (n,) int64
        Patch that segmented the object.
    source_label : (n,) uint32
        Label that the backend gave in that patch.
    detected_first : (n,) int64
        First pixel before conflicts at seams took pixels.
    columns : mapping of str to (n,) array
        Per-object columns of the backend.
    """

    first: Int64
    area: Int64
    box: Int64
    source_patch: Int64
    source_label: Labels
    detected_first: Int64
    columns: Columns = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.first)

    def owners(self, grid: PatchGrid) -> Int64:
        """Return the patches whose cores contain the first pixels, (n,) int64."""
        y, x = np.divmod(np.asarray(self.first), grid.shape[1])
        return np.asarray(grid.owner(y, x))

    def write(self, records: StageRecords, compartment: str) -> None:
        """Write the objects of a compartment."""
        table = {name: getattr(self, name) for name in _FIELDS}
        table |= stored_columns(self.columns)
        records.write_table(_table(compartment), table)

    @classmethod
    def read(cls, records: StageRecords, compartment: str) -> "SlideObjects":
        """Open the objects of a compartment.

        Parameters
        ----------
        records : StageRecords
            Of the stage stitch.
        compartment : str
            "cell" or "nucleus".
        """
        table = records.read_table(_table(compartment))
        own = {name: table[name] for name in _FIELDS}
        return cls(**own, columns=restored_columns(table))


def stored_columns(columns: Columns) -> dict[str, np.ndarray]:
    """Return per-object columns under the names that they have in a stored table."""
    return {_PREFIX + name: values for name, values in columns.items()}


def restored_columns(table: Columns) -> dict[str, np.ndarray]:
    """Return the per-object columns of a stored table under their own names."""
    return {
        name.removeprefix(_PREFIX): table[name]
        for name in table
        if name.startswith(_PREFIX)
    }


def missing_value(dtype: str) -> float | int:
    """Return the value of a per-object column where the backend gave none."""
    return float("nan") if np.dtype(dtype).kind == "f" else 0


def fill_columns(
    labels: Labels, columns: Columns, object_columns: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """Order per-object columns by label.

    Parameters
    ----------
    labels : (n,) uint32
        Labels of the objects, ascending.
    columns : mapping of str to (k,) array
        Columns of the backend, with "label"; may be empty.
    object_columns : mapping of str to str
        Declared names and dtypes.

    Returns
    -------
    dict of str to (n,) array
        The missing value where the backend gave no row.
    """
    filled = {
        name: np.full(len(labels), missing_value(dtype), dtype)
        for name, dtype in object_columns.items()
    }
    if "label" not in columns or len(columns["label"]) == 0 or len(labels) == 0:
        return filled
    rows = np.searchsorted(labels, columns["label"]).clip(max=len(labels) - 1)
    known = labels[rows] == columns["label"]
    for name, values in filled.items():
        values[rows[known]] = columns[name][known]
    return filled


def write_patches_with_objects(records: StageRecords, patches: Sequence[int]) -> None:
    """Write the patches whose cores contain pixels of objects."""
    records.write_table(_PATCHES, {"patch": np.array(patches, np.int64)})


def read_patches_with_objects(records: StageRecords) -> list[int]:
    """Return the patches whose cores contain pixels of objects, in order."""
    return [int(patch) for patch in records.read_table(_PATCHES)["patch"]]


def _table(compartment: str) -> str:
    return f"{compartment}_objects"
