"""``codexseg sample`` and ``codexseg demo``: slides to try codexseg on."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codexseg.cli.console import echo, user_errors
from codexseg.cli.options import Out, Workers
from codexseg.cli.run import echo_result, execute_pipeline

if TYPE_CHECKING:
    from codexseg.samples.write import SamplePaths

samples_app = typer.Typer()


@samples_app.command("sample")
def sample_command(
    name: Annotated[str, typer.Argument(help="nsclc or synthetic.")],
    size: Annotated[
        int, typer.Option(min=256, help="Side of the synthetic slide, px.")
    ] = 2048,
    out: Out = None,
) -> None:
    """Write a demo slide and a configuration for it.

    nsclc: a multiplex image of lung cancer (89 MB, downloaded once). synthetic:
    simulated tissue with its true labels.

    Example: codexseg sample synthetic --size 1024
    """
    with user_errors():
        paths = _write_sample(name, size, out or Path())
    echo(f"Next: codexseg run {paths.config}")


@samples_app.command("demo")
def demo_command(out: Out = None, workers: Workers = None) -> None:
    """Download a real slide, segment it, and show the results.

    Example: codexseg demo --out demo
    """
    from codexseg.errors import SampleUnavailable

    folder = out or Path("codexseg_demo")
    with user_errors():
        from codexseg.pipeline import Pipeline

        try:
            paths = _write_sample("nsclc", 0, folder)
        except SampleUnavailable as error:
            echo(f"The real slide is unavailable: {error}", error=True)
            echo("Using synthetic tissue instead.", error=True)
            paths = _write_sample("synthetic", 2048, folder)
        pipeline = Pipeline.from_yaml(paths.config)
        result = execute_pipeline(pipeline, pipeline.execute, workers=workers)
    echo_result(result)
    echo(f"Open {result.path / 'report.html'} first, then cells.csv (one row per cell),")
    echo("and exports/cell.ome.tif on top of the slide in napari or QuPath.")


def _write_sample(name: str, size: int, out: Path) -> "SamplePaths":
    """Write a demo slide, and print the paths."""
    from codexseg.errors import ConfigError
    from codexseg.samples.write import write_nsclc, write_synthetic

    if name not in ("nsclc", "synthetic"):
        raise ConfigError(f"Sample {name!r} not found, expected nsclc or synthetic.")
    paths = write_nsclc(out) if name == "nsclc" else write_synthetic(out, size)
    echo(f"Slide: {paths.image}\nConfiguration: {paths.config}")
    return paths
