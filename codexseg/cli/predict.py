"""``codexseg predict``: segment one image without a configuration."""

from pathlib import Path
from typing import Annotated

import typer

from codexseg.cli.console import echo, split_names, user_errors
from codexseg.cli.options import Diameter, Image, Mode, Mpp, Overwrite, Panel, Processes
from codexseg.cli.run import echo_result, execute_pipeline

predict_app = typer.Typer()


@predict_app.command("predict")
def predict_command(
    image: Image,
    out: Annotated[Path, typer.Option(help="Output directory.")],
    nucleus: Annotated[
        str | None, typer.Option(help="Nuclear channel; colour of a picture's nuclei.")
    ] = None,
    wholecell: Annotated[
        str, typer.Option(help="Whole-cell markers, separated by commas.")
    ] = "",
    mode: Mode = None,
    backend: Annotated[
        str | None,
        typer.Option(help="embedded (default), watershed, mesmer, cellpose or another."),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="Weights for --backend mesmer, panoptic or deepcell."),
    ] = None,
    mpp: Mpp = None,
    panel: Panel = None,
    diameter: Diameter = None,
    workers: Processes = None,
    *,
    overwrite: Overwrite = False,
) -> None:
    """Segment one image without a configuration.

    Writes <image>_cells.tif and <image>_nuclei.tif (labels, a nucleus has the number of
    its cell) and <image>_cells.csv (one row per cell). A plain TIFF needs --mpp, and
    --panel if it has no channel names. Run the same command again to resume.

    Example: codexseg predict slide.qptiff --nucleus DAPI --out results
    """
    from codexseg.predict import OPTIONS, ImageOptions, prepare

    with user_errors(OPTIONS):
        options = ImageOptions(
            nucleus=nucleus,
            wholecell=split_names([wholecell]),
            mode=mode,
            backend=backend,
            model=model,
            mpp=mpp,
            panel=panel,
            diameter=diameter,
        )
        prediction = prepare(image, out, options)
        result = execute_pipeline(
            prediction.pipeline, prediction.execute, workers=workers, overwrite=overwrite
        )
    echo(f"Backend: {result.backend}")
    files = (prediction.cells, prediction.nuclei, prediction.table)
    echo_result(result, ", ".join(map(str, files)))
