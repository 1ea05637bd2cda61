"""``codexseg run`` and ``codexseg status``: a run of a configuration."""

import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from codexseg.cli.console import echo, user_errors
from codexseg.cli.interrupts import exit_when_stopped
from codexseg.cli.options import ConfigFile, Out, Workers
from codexseg.errors import CodexsegError, WorkerDied, describe_error

if TYPE_CHECKING:
    from codexseg.pipeline import Pipeline, Result

R = TypeVar("R", bound="Result")

run_app = typer.Typer()


@run_app.command("run")
def run_command(
    config: ConfigFile,
    out: Out = None,
    workers: Workers = None,
    from_: Annotated[
        str | None,
        typer.Option("--from", metavar="STAGE", help="Repeat this stage and later ones."),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="STAGE", help="Stop after this stage.")
    ] = None,
    force: Annotated[
        str | None, typer.Option(metavar="STAGE", help="Repeat this stage.")
    ] = None,
) -> None:
    """Run a configuration, resume it, or update it after a change.

    The run directory is --out, or <name>_codexseg beside the configuration. Finished
    stages that are up to date are not repeated. Stages: load, patch, flag, segment,
    repair, stitch, profile, export, report.

    Example: codexseg run my.yaml --workers 4
    """
    with user_errors():
        from codexseg.pipeline import Pipeline

        pipeline = Pipeline.from_yaml(config, out)
        result = execute_pipeline(
            pipeline,
            pipeline.execute,
            workers=workers,
            from_stage=from_,
            until=until,
            force=force,
        )
    echo_result(result)


@run_app.command("status")
def status_command(
    directory: Annotated[Path, typer.Argument(help="Run directory.")],
) -> None:
    """Show the status of each stage: done, stale (and why) or missing.

    Example: codexseg status my_codexseg
    """
    with user_errors():
        from codexseg.artifacts.warnings import read_warnings
        from codexseg.pipeline import Pipeline

        pipeline = Pipeline.from_run(directory)
        for stage in pipeline.status():
            echo(_status_line(stage))
        for warning in read_warnings(pipeline.out):
            echo(f"Warning: {warning.message}", error=True)


def execute_pipeline(pipeline: "Pipeline", function: Callable[..., R], **options: Any) -> R:
    """Call a function that executes a pipeline, and report faults at run time.

    Parameters
    ----------
    pipeline : Pipeline
        Names the run directory for the report.
    function : callable
        Called with `options`.

    Raises
    ------
    CodexsegError
        If the input is wrong.
    typer.Exit
        With code 1 after any other error, 130 or 143 after a stop.
    """
    from codexseg.execution.process import prepare_process

    prepare_process()
    message = "interrupted. Finished work is kept; run the same command to resume."
    with exit_when_stopped(message):
        try:
            return function(**options)
        except WorkerDied as error:
            _report_fault(pipeline, error)
        except CodexsegError:
            raise
        except Exception as error:  # noqa: BLE001 - any error is reported and exits with 1
            _report_fault(pipeline, error)
            with (
                suppress(OSError),  # a full disk may be the cause
                pipeline.run.log_path.open("a", encoding="utf-8") as log,
            ):
                traceback.print_exception(error, file=log)
    raise typer.Exit(1)


def echo_result(result: "Result", outputs: str = "") -> None:
    """Print the counts, warnings and outputs of a run; exit with 1 if patches failed.

    Parameters
    ----------
    result : Result
        Of the run.
    outputs : str
        Paths of the outputs; by default the run directory.
    """
    summaries = {status.stage: status.summary or {} for status in result.stages}
    load = summaries["load"]
    if result.cells is not None:
        flag = summaries["flag"]
        echo(
            f"{result.cells} cells on {load['width']} x {load['height']} px, "
            f"{flag['informative']} of {flag['patches']} patches informative."
        )
        if flag["informative"] == 0:
            echo("No patch has signal above the slide's background: all tables are empty.")
    for summary in summaries.values():
        for warning in summary.get("warnings", []):
            echo(f"Warning: {warning['message']}", error=True)
    echo(f"Results: {outputs or result.path}")
    if result.failed_patches:
        numbers = ", ".join(map(str, result.failed_patches))
        echo(
            f"codexseg: {len(result.failed_patches)} patches failed: {numbers}. Cells in "
            f"their cores are missing in every output; column note of "
            f"{result.path / 'patches_metadata.csv'} contains the reasons. Run the same "
            f"command to try them again.",
            error=True,
        )
        raise typer.Exit(1)


def _report_fault(pipeline: "Pipeline", error: Exception) -> None:
    echo(f"codexseg: {describe_error(error)}", error=True)
    if notes := "; ".join(getattr(error, "__notes__", [])):
        echo(f"  {notes}", error=True)
    echo(f"Kept in {pipeline.out}:", error=True)
    try:
        for status in pipeline.status():
            if status.state == "done" or status.finished:
                echo(f"  {_status_line(status)}", error=True)
    except Exception as unreadable:  # noqa: BLE001 - reported beside the first error
        echo(f"  (its status cannot be read: {unreadable})", error=True)
    echo(
        f"Work in progress was lost. Run the same command again to resume. Details: "
        f"{pipeline.run.log_path}",
        error=True,
    )


def _status_line(status: Any) -> str:
    total = f"{status.finished}/{status.total} done" if status.total else ""
    return f"{status.stage:8} {status.state:8} {total:16} {status.why}".rstrip()
