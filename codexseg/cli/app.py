"""The command line: ``codexseg COMMAND --help`` explains each.

Exit codes: 0 done; 1 a fault at run time, with a report of what is lost and what is
kept; 2 wrong input, with one message that says what, and how to mend it; 130 and 143
stopped by Ctrl-C or SIGTERM.
"""

import logging
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from codexseg.cli.compare import CompareCommand, compare
from codexseg.cli.console import clear_errors, say
from codexseg.cli.evaluate import EvaluateCommand, evaluate
from codexseg.cli.interrupts import Terminated, listen
from codexseg.cli.models import models_app
from codexseg.cli.options import Diameter, Mode, Mpp, Overwrite, Panel, Processes
from codexseg.cli.train import train
from codexseg.errors import CodexsegError, WorkerDied

if TYPE_CHECKING:
    from codexseg.pipeline import Pipeline, Result
    from codexseg.samples.write import SamplePaths

R = TypeVar("R", bound="Result")

app = typer.Typer(
    name="codexseg",
    help="From a multiplexed tissue slide (CODEX, PhenoCycler) to one trustworthy table of "
    "cells. Start with: codexseg demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
config_app = typer.Typer(help="Write and check configurations.", no_args_is_help=True)
app.add_typer(config_app, name="config")
app.add_typer(models_app, name="models")

Out = Annotated[
    Path | None, typer.Option("--out", help="Directory to write to.", show_default=False)
]
Workers = Annotated[
    int | None,
    typer.Option(min=1, help="Processes; default: execution.workers of the configuration."),
]


@app.callback(invoke_without_command=True)
def _version(
    *,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        import codexseg

        say(f"codexseg {codexseg.__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line."""
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # our errors say it
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    app()


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="The configuration, a YAML file.")],
    out: Out = None,
    workers: Workers = None,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="STAGE", help="Do this stage and all later ones again."
        ),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="STAGE", help="Stop after this stage.")
    ] = None,
    force: Annotated[
        str | None, typer.Option(metavar="STAGE", help="Do this stage again.")
    ] = None,
) -> None:
    """Do what a configuration says; run it again to resume or to do what has changed.

    The run lies beside the configuration, in <its name>_codexseg, or in --out. Stages:
    load, patch, flag, segment, repair, stitch, profile, export, report.
    """
    with clear_errors():
        from codexseg.pipeline import Pipeline

        pipeline = Pipeline.from_yaml(config, out)
        result = _execute(
            pipeline,
            pipeline.execute,
            workers=workers,
            from_stage=from_,
            until=until,
            force=force,
        )
    _conclude(result)


def _execute(pipeline: "Pipeline", function: Callable[..., R], **options: Any) -> R:
    """Execute; a fault at run time ends with what is lost and what is kept."""
    from codexseg.execution.process import prepare_process

    prepare_process()
    listen()
    try:
        return function(**options)
    except WorkerDied as error:
        _report_fault(pipeline, error)
    except CodexsegError:
        raise
    except (KeyboardInterrupt, Terminated) as stop:
        say(
            "\ncodexseg: stopped; what is finished is kept, the same command goes on.",
            error=True,
        )
        raise typer.Exit(143 if isinstance(stop, Terminated) else 130) from None
    except Exception as error:  # noqa: BLE001 - whatever it is, it is reported and exits 1
        _report_fault(pipeline, error)
        with (
            suppress(OSError),  # the disk may be what is at fault
            pipeline.run.log_path.open("a", encoding="utf-8") as log,
        ):
            traceback.print_exception(error, file=log)
    raise typer.Exit(1)


def _report_fault(pipeline: "Pipeline", error: Exception) -> None:
    where = "; ".join(getattr(error, "__notes__", []))
    say(f"codexseg: {type(error).__name__}: {error}", error=True)
    if where:
        say(f"  {where}", error=True)
    say(f"Kept in {pipeline.out}:", error=True)
    try:
        for status in pipeline.status():
            if status.state == "done" or status.finished:
                say(f"  {_line(status)}", error=True)
    except Exception as unreadable:  # noqa: BLE001 - said beside the fault itself
        say(f"  (what is there cannot be read: {unreadable})", error=True)
    say(
        "Lost: what was being worked on. The same command goes on from here; details are "
        f"in {pipeline.run.log_path}.",
        error=True,
    )


def _conclude(result: "Result", where: str = "") -> None:
    """Say what was found and where it lies; holes make the exit code 1."""
    by_name = {status.stage: status.summary or {} for status in result.stages}
    if result.cells is not None:
        load, flag = by_name["load"], by_name["flag"]
        say(
            f"{result.cells} cells on {load['width']} x {load['height']} px, "
            f"{flag['informative']} of {flag['patches']} patches informative."
        )
        if flag["informative"] == 0:
            say("No patch holds signal above the slide's background: all tables are empty.")
    for name in by_name["load"].get("constant_channels", []):
        say(f"Warning: channel {name!r} has the same value everywhere.", error=True)
    if result.not_proven:
        say(
            f"Warning: objects of {len(result.not_proven)} patches are larger than the "
            f"halo could grow and may be cut (see note in patches_metadata.csv); use "
            f"larger patches.",
            error=True,
        )
    say(f"Results: {where or result.path}")
    if result.failed_patches:
        numbers = ", ".join(map(str, result.failed_patches))
        say(
            f"codexseg: {len(result.failed_patches)} patches failed: {numbers}. Cells "
            f"inside their cores are missing in every output; the reasons are in "
            f"{result.path / 'patches_metadata.csv'} (note). The same command does them "
            f"again.",
            error=True,
        )
        raise typer.Exit(1)


@app.command()
def predict(
    image: Annotated[
        Path,
        typer.Argument(
            help="An image: OME-TIFF, qptiff, OME-Zarr, plain TIFF (with --mpp and, for "
            "the names of its channels, --panel), or a picture (png, jpg, bmp)."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    nucleus: Annotated[
        str | None,
        typer.Option(help="Name of the nuclear channel; of a picture, its colour."),
    ] = None,
    wholecell: Annotated[
        str, typer.Option(help="Names of whole-cell markers, with commas between.")
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

    Writes <image>_cells.tif and <image>_nuclei.tif (labels; a nucleus has the number of
    its cell) and <image>_cells.csv (one row per cell). Stop it, run the same command
    again, and it goes on.
    """
    from codexseg.predict import OPTIONS, prepare

    with clear_errors(OPTIONS):
        prediction = prepare(
            image,
            nucleus=nucleus,
            wholecell=[name.strip() for name in wholecell.split(",") if name.strip()],
            out=out,
            backend=backend,
            model_path=model,
            mpp=mpp,
            panel=panel,
            mode=mode,
            diameter=diameter,
        )
        result = _execute(
            prediction.pipeline, prediction.execute, workers=workers, overwrite=overwrite
        )
    say(f"Backend: {result.backend}")
    files = (prediction.cells, prediction.nuclei, prediction.table)
    _conclude(result, ", ".join(map(str, files)))


@app.command()
def status(
    directory: Annotated[Path, typer.Argument(help="A run directory.")],
) -> None:
    """Say of each stage of a run whether it is done, stale (and why) or missing."""
    with clear_errors():
        from codexseg.pipeline import Pipeline

        pipeline = Pipeline.from_run(directory)
        for stage in pipeline.status():
            say(_line(stage))


def _line(status: Any) -> str:
    total = f"{status.finished}/{status.total} done" if status.total else ""
    return f"{status.stage:8} {status.state:8} {total:16} {status.why}".rstrip()


@app.command()
def info(
    slide: Annotated[Path, typer.Argument(help="A slide image.")],
    panel: Annotated[
        Path | None, typer.Option(help="Table of channel names (TSV, csv or a list).")
    ] = None,
) -> None:
    """Say what a slide image is: size, channels, pixel size, pyramid."""
    with clear_errors():
        from codexseg.codex_image import CodexImage

        facts = CodexImage(slide, panel).info()
        size, mpp = facts["size"], facts["mpp"]
        say(f"file      {facts['path']}")
        say(f"format    {facts['format']}, {facts['dtype']}")
        say(f"size      {size['x']} x {size['y']} px, {size['channels']} channels")
        say(f"mpp       {mpp:g} um/px" if mpp else "mpp       unknown: set data.image_mpp")
        say(f"pyramid   {', '.join(f'{x} x {y}' for y, x in facts['pyramid'])}")
        say("channels  " + "\n          ".join(facts["channels"]))


@app.command()
def sample(
    name: Annotated[str, typer.Argument(help="nsclc or synthetic.")],
    size: Annotated[
        int, typer.Option(min=256, help="Side of the synthetic slide, px.")
    ] = 2048,
    out: Out = None,
) -> None:
    """Write a sample slide and a configuration for it.

    nsclc: a real multiplex image of lung cancer (fetched once, 89 MB). synthetic: made
    up tissue with the truth beside it.
    """
    with clear_errors():
        paths = _write_sample(name, size, out or Path())
    say(f"Slide: {paths.image}\nConfiguration: {paths.config}")
    say(f"Next: codexseg run {paths.config}")


def _write_sample(name: str, size: int, out: Path) -> "SamplePaths":
    from codexseg.errors import ConfigError
    from codexseg.samples.write import write_nsclc, write_synthetic

    if name == "nsclc":
        return write_nsclc(out)
    if name == "synthetic":
        return write_synthetic(out, size)
    raise ConfigError(f"there is no sample {name!r}, expected nsclc or synthetic.")


@app.command()
def demo(out: Out = None, workers: Workers = None) -> None:
    """Fetch a real sample, run everything on it, and say what was found and where."""
    from codexseg.errors import SampleUnavailable

    folder = out or Path("codexseg_demo")
    with clear_errors():
        from codexseg.pipeline import Pipeline

        try:
            paths = _write_sample("nsclc", 0, folder)
        except SampleUnavailable as error:
            say(f"The real sample cannot be had: {error}", error=True)
            say("Using synthetic tissue instead.", error=True)
            paths = _write_sample("synthetic", 2048, folder)
        say(f"Slide: {paths.image}\nConfiguration: {paths.config}")
        pipeline = Pipeline.from_yaml(paths.config)
        result = _execute(pipeline, pipeline.execute, workers=workers)
    _conclude(result)
    say(f"Open {result.path / 'report.html'} first, then cells.csv (one row per cell)")
    say("and, in napari or QuPath, exports/cell.ome.tif on top of the slide.")


@config_app.command("init")
def config_init() -> None:
    """Print a configuration with every key, its unit, default and advice."""
    with clear_errors():
        from codexseg.config.loader import template

        sys.stdout.write(template())


@config_app.command("check")
def config_check(
    config: Annotated[Path, typer.Argument(help="The configuration, a YAML file.")],
) -> None:
    """Check a configuration and the slide that it names, without running anything."""
    with clear_errors():
        from codexseg.pipeline import Pipeline

        pipeline = Pipeline.from_yaml(config)
        source = pipeline.source()
        for note in (*pipeline.notes, *pipeline.doubts(source)):
            say(f"Note: {note}", error=True)
        channels, height, width = source.shape
        say(
            f"{config} is valid: {width} x {height} px, {channels} channels, "
            f"{source.mpp:g} um/px; the run would lie in {pipeline.out}."
        )


app.command()(train)
app.command(cls=EvaluateCommand)(evaluate)
app.command(cls=CompareCommand)(compare)


if __name__ == "__main__":
    main()
