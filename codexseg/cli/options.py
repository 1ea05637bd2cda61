"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[Path, typer.Argument(help="Configuration, a YAML file.")]
Image = Annotated[
    Path,
    typer.Argument(help="Slide (OME-TIFF, QPTIFF, OME-Zarr), TIFF or png, jpg, bmp."),
]
Out = Annotated[
    Path | None, typer.Option("--out", help="Output directory.", show_default=False)
]
Workers = Annotated[
    int | None,
    typer.Option(min=1, help="Processes; default: execution.workers of the file."),
]
Processes = Annotated[int | None, typer.Option(min=1, help="Processes; default: 1.")]
Mode = Annotated[
    str | None,
    typer.Option(help="names (default with --nucleus), auto (default), L or RGB."),
]
Mpp = Annotated[
    float | None, typer.Option(help="Micrometres per px; default: from the image.")
]
Panel = Annotated[
    Path | None, typer.Option(help="Table of channel names (TSV, CSV or a list).")
]
Diameter = Annotated[
    str | None,
    typer.Option(help="Typical cell diameter, um; auto: estimate it from the image."),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace existing output files.")
]
