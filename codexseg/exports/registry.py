"""The table of exporters, in the order in which their files are written."""

from codexseg.exports.base import Exporter
from codexseg.exports.cell_tables import CellsCsv, CellsH5ad, CellsParquet, UnmatchedParquet
from codexseg.exports.label_images import LabelTiff
from codexseg.exports.patch_masks import PICKLES

EXPORTERS: tuple[Exporter, ...] = (  # the slowest first
    LabelTiff("cell"),
    LabelTiff("nucleus"),
    *PICKLES,
    CellsCsv(),
    CellsH5ad(),
    CellsParquet(),
    UnmatchedParquet(),
)
"""All exporters. A new format is a module with an `Exporter` (`CellsCsv` is a short one), a
line here, and its word in `config.fields.ExportFormat` and, as all formats are on by
default, in config/default.yaml."""
