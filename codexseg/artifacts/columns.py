"""Every column of every table that a run writes: name, dtype, unit and description."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from codexseg.arrays import Columns
from codexseg.backends.base import COMPARTMENT_NAMES

COMPARTMENTS = COMPARTMENT_NAMES
MEASURED_COMPARTMENTS = ("cell", "nucleus", "cytoplasm")


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes
    ----------
    name : str
        Name in the file.
    dtype : str
        NumPy dtype; "str" for text.
    unit : str
        Unit, or "" for none.
    description : str
        Meaning, in one line.
    """

    name: str
    dtype: str
    unit: str
    description: str


def names_of(columns: Iterable[Column]) -> list[str]:
    """Return the names of columns, in order."""
    return [column.name for column in columns]


def conform(table: Columns, columns: Iterable[Column]) -> Columns:
    """Return a table with exactly the declared columns, in order, in their dtypes.

    Raises
    ------
    KeyError
        If a column is missing.
    """
    return {
        column.name: np.asarray(
            table[column.name], object if column.dtype == "str" else column.dtype
        )
        for column in columns
    }


def columns_of(table: Columns, prefix: str, target: type) -> dict[str, Any]:
    """Return the columns ``prefix.field`` of a table for each field of a dataclass."""
    return {field.name: table[".".join((prefix, field.name))] for field in fields(target)}


def empty_table(columns: Iterable[Column]) -> Columns:
    """Return a table without rows."""
    columns = list(columns)
    return conform(dict.fromkeys(names_of(columns), np.zeros(0)), columns)


# -- cells ------------------------------------------------------------------------------

CELL_ID = Column("cell_id", "uint32", "", "Number of the cell in every output, from 1")
PATCH_ID = Column("patch_id", "int32", "", "Patch that owns the cell")

POSITION = (
    Column("y_px", "float64", "px", "Centroid, from the top of the slide"),
    Column("x_px", "float64", "px", "Centroid, from the left of the slide"),
    Column("y_um", "float64", "um", "Centroid, from the top of the slide"),
    Column("x_um", "float64", "um", "Centroid, from the left of the slide"),
)
AREAS = {
    name: (
        Column(f"{name}_area_px", "int64", "px", f"Area of the {name}"),
        Column(f"{name}_area_um2", "float64", "um2", f"Area of the {name}"),
    )
    for name in MEASURED_COMPARTMENTS
}
SHAPE = (
    Column("eccentricity", "float64", "", "Eccentricity of the ellipse of equal moments"),
    Column("axis_major_um", "float64", "um", "Major axis of that ellipse"),
    Column("axis_minor_um", "float64", "um", "Minor axis of that ellipse"),
    Column("orientation_rad", "float64", "rad", "Angle of its major axis to the y axis"),
)
SOLIDITY = Column("solidity", "float64", "", "Area divided by the area of the convex hull")
BOX = (
    Column("bbox_y0_px", "int64", "px", "Bounding box: first row"),
    Column("bbox_x0_px", "int64", "px", "Bounding box: first column"),
    Column("bbox_y1_px", "int64", "px", "Bounding box: row after the last"),
    Column("bbox_x1_px", "int64", "px", "Bounding box: column after the last"),
)
TOUCHES_BORDER = Column("touches_border", "bool", "", "Whether the cell touches the edge")
TRIMMING = (
    Column("nucleus_was_trimmed", "bool", "", "Whether the nucleus lost pixels in repair"),
    Column("nucleus_retained_fraction", "float64", "", "Part of the nucleus that was kept"),
)
ORIGIN = (
    Column("cell_original_id", "uint32", "", "Label in cell_original"),
    Column("nucleus_original_id", "uint32", "", "Label in nucleus_original, 0 for none"),
    Column("original_patch_id", "int64", "", "Patch that segmented the cell"),
    Column("cell_original_label", "uint32", "", "Label of the backend in that patch"),
)
CELL_ENTROPY = Column("cell_entropy", "float32", "bit", "Entropy of the channel means")


def intensity_column(channel: str, compartment: str, statistic: str = "mean") -> str:
    """Return the name of the column of a channel's intensity in a compartment."""
    return f"{channel}_{compartment}_{statistic}"


def unique_names(names: Sequence[str]) -> list[str]:
    """Make names distinct: CD3, CD3 become CD3, CD3-1."""
    taken, unique = set(names), list[str]()
    for name in names:
        new, count = name, 0
        while new in unique or (count and new in taken):
            count += 1
            new = f"{name}-{count}"
        unique.append(new)
    return unique


def object_column(compartment: str, name: str) -> str:
    """Return the name of a per-object column of the backend, e.g. cell_confidence."""
    return f"{compartment}_{name}"


def cell_columns(
    channels: Sequence[str],
    statistics: Sequence[str],
    *,
    solidity: bool = False,
    object_columns: dict[str, str] | None = None,
) -> tuple[Column, ...]:
    """Return the columns of the table of cells, in order.

    Parameters
    ----------
    channels : sequence of str
        Distinct names of the measured channels.
    statistics : sequence of str
        Statistics of intensities.
    solidity : bool
        Whether solidity is measured.
    object_columns : dict of str to str, optional
        Per-object columns of the backend: name to dtype.
    """
    intensities = (
        Column(
            intensity_column(channel, compartment, statistic),
            "float32",
            "intensity",
            f"{statistic} of {channel} in the {compartment}",
        )
        for channel in channels
        for statistic in statistics
        for compartment in MEASURED_COMPARTMENTS
    )
    from_backend = (
        Column(object_column(compartment, name), dtype, "", f"{name} of the {compartment}")
        for compartment in COMPARTMENTS
        for name, dtype in (object_columns or {}).items()
    )
    return (
        CELL_ID,
        PATCH_ID,
        *POSITION,
        *(column for columns in AREAS.values() for column in columns),
        *SHAPE,
        *((SOLIDITY,) if solidity else ()),
        *BOX,
        TOUCHES_BORDER,
        *TRIMMING,
        *ORIGIN,
        *from_backend,
        *intensities,
        CELL_ENTROPY,
    )


UNMATCHED_COLUMNS = (
    Column("compartment", "str", "", "cell or nucleus"),
    Column("original_id", "uint32", "", "Label in cell_original or nucleus_original"),
    Column("reason", "str", "", "Why the object has no partner"),
    Column("area_px", "int64", "px", "Area"),
    *BOX,
    Column("patch_id", "int32", "", "Patch that owns the object"),
    Column("original_patch_id", "int32", "", "Patch that segmented the object"),
    Column("original_label", "uint32", "", "Label that the backend gave in that patch"),
)

# -- patches ----------------------------------------------------------------------------

STATISTICS_COLUMNS = tuple(
    Column(f"{channel}_{name}", "float64", unit, f"{text} of the {channel} channel")
    for channel in ("nucleus", "wholecell")
    for name, unit, text in (
        ("mean", "intensity", "Mean"),
        ("std", "intensity", "Standard deviation"),
        ("non_zero_perc", "", "Fraction of non-zero pixels, 0 to 1,"),
    )
)
FLAG_COLUMNS = (
    Column("is_empty", "bool", "", "No signal, or too few non-zero pixels"),
    Column("is_noisy", "bool", "", "Mean or standard deviation below its threshold"),
    Column("is_bad_patch", "bool", "", "Empty or noisy"),
    Column("is_informative", "bool", "", "Neither empty nor noisy: the patch is segmented"),
)
COUNT_COLUMNS = (
    Column("matched_fraction", "float64", "", "Pairs / (cells + nuclei - pairs)"),
    Column("n_cells", "int64", "", "Cells that the patch owns"),
    Column("n_nuclei", "int64", "", "Nuclei that the patch owns"),
    Column("n_matched", "int64", "", "Pairs that the patch owns"),
)
PATCH_COLUMNS = (
    Column("patch_id", "int64", "", "Number of the patch, row by row"),
    Column("height", "int64", "px", "Height of the outer window"),
    Column("width", "int64", "px", "Width of the outer window"),
    *STATISTICS_COLUMNS,
    *FLAG_COLUMNS,
    *COUNT_COLUMNS,
    *(
        Column(f"{window}_{edge}", "int64", "px", f"Edge of the {window} window")
        for window in ("core", "outer")
        for edge in ("y0", "x0", "y1", "x1")
    ),
    Column("status", "str", "", "waiting, skipped, done or failed"),
    Column("note", "str", "", "Error of a failed patch, or remark"),
)

# -- other tables -----------------------------------------------------------------------

CHANNEL_COLUMNS = (
    Column("channel", "str", "", "Name of the channel"),
    Column("min", "float64", "intensity", "Minimum"),
    Column("median", "float64", "intensity", "Median"),
    Column("p95", "float64", "intensity", "95th percentile"),
    Column("p999", "float64", "intensity", "99.9th percentile"),
    Column("max", "float64", "intensity", "Maximum"),
    Column("mean", "float64", "intensity", "Mean"),
    Column("std", "float64", "intensity", "Standard deviation"),
)
QUALITY_COLUMNS = (
    Column("patch_id", "str", "", "Number of the patch; slide for the whole slide"),
    Column("cells", "int64", "", "Detected cells that the patch owns"),
    Column("nuclei", "int64", "", "Detected nuclei that the patch owns"),
    Column("pairs", "int64", "", "Cells with a nucleus"),
    Column("cells_matched", "float64", "", "Fraction of the cells with a partner"),
    Column("nuclei_matched", "float64", "", "Fraction of the nuclei with a partner"),
    Column("matched_fraction", "float64", "", "Pairs / (cells + nuclei - pairs)"),
    Column("foreground_fraction", "float64", "", "Fraction of the pixels with signal"),
    Column("foreground_covered", "float64", "", "Fraction of the foreground in cells"),
    Column("background_covered", "float64", "", "Fraction of the other pixels in cells"),
    Column("cells_on_foreground", "float64", "", "Fraction of the cells' pixels on signal"),
    Column(
        "nuclear_signal_in_cells", "float64", "", "Fraction of the nuclear signal in cells"
    ),
    Column("cells_per_100_um2", "float64", "1/(100 um2)", "Cells by area of foreground"),
    Column("median_cell_diameter_um", "float64", "um", "Of a disc with the median area"),
    Column("size_cv", "float64", "", "Coefficient of variation of the areas"),
    Column(
        "size_cv_robust",
        "float64",
        "",
        "The same by median absolute deviation",
    ),
    Column("size_score", "float64", "", "1 / (ln(standard deviation of areas, px) + 1)"),
    Column("inside_cv", "float64", "", "Coefficient of variation of signal in cells"),
    Column("outside_cv", "float64", "", "The same for signal outside cells"),
    Column("light_in_cells", "float64", "", "nuclear_signal_in_cells, as in 0.1.0"),
)
TIMING_COLUMNS = (
    Column("stage", "str", "", "Stage, or stage.pass"),
    Column("patch", "str", "", "Number of the patch; driver for the whole stage"),
    Column("wall_s", "float64", "s", "Elapsed time"),
    Column("cpu_s", "float64", "s", "CPU time"),
)
