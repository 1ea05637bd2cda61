"""Options of several commands that segment one image without a configuration."""

from pathlib import Path
from typing import Annotated

import typer

Mode = Annotated[
    str | None,
    typer.Option(
        help="names (default with --nucleus), auto (default), L (a grey picture) or RGB "
        "(cells green, nuclei blue)."
    ),
]
Mpp = Annotated[
    float | None, typer.Option(help="Micrometres per px; default: the image's.")
]
Panel = Annotated[
    Path | None, typer.Option(help="Table of channel names (TSV, csv or a list).")
]
Diameter = Annotated[
    str | None,
    typer.Option(help="Diameter of a typical cell, um; auto: found from the image."),
]
Processes = Annotated[int | None, typer.Option(min=1, help="Processes; default: 1.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace files of the outputs' names.")
]
