"""``codexseg compare``: several backends on one image, side by side."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from codexseg.cli.console import (
    echo,
    echo_table,
    is_value,
    repeat_option,
    split_names,
    user_errors,
)
from codexseg.cli.evaluate import SCORE_TITLES
from codexseg.cli.interrupts import exit_when_stopped
from codexseg.cli.options import Diameter, Image, Mode, Mpp, Overwrite, Panel, Processes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from codexseg.comparison.compare import BackendOutcome, Comparison

_METRICS = {
    "cells": ("cells", "{:.0f}"),
    "nuclei": ("nuclei", "{:.0f}"),
    "matched_fraction": ("matched", "{:.0%}"),
    "median_cell_diameter_um": ("diameter um", "{:.1f}"),
    "cpu_s": ("CPU s", "{:.1f}"),
    "foreground_covered": ("signal covered", "{:.0%}"),
    "nuclear_signal_in_cells": ("signal in cells", "{:.0%}"),
    "cells_on_foreground": ("cells on signal", "{:.0%}"),
    "size_cv": ("size spread", "{:.2f}"),
}

compare_app = typer.Typer()


class CompareCommand(TyperCommand):
    """Command with several values after --backends, --wholecell and --model."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse ``--backends a b`` as ``--backends a --backends b``."""
        for option in ("--backends", "--wholecell", "--model"):
            args = repeat_option(args, option, is_value)
        return super().parse_args(ctx, args)


@compare_app.command("compare", cls=CompareCommand)
def compare_command(
    image: Image,
    backends: Annotated[list[str], typer.Option(help="Names of one or more backends.")],
    out: Annotated[
        Path | None, typer.Option(help="Output directory; default: <image>_compare.")
    ] = None,
    nucleus: Annotated[
        str | None,
        typer.Option(
            "--nucleus",
            "--nuclear",
            help="Nuclear channel (default: DAPI); colour of a picture's nuclei.",
        ),
    ] = None,
    wholecell: Annotated[
        list[str] | None, typer.Option(help="Names of one or more whole-cell markers.")
    ] = None,
    mode: Mode = None,
    truth: Annotated[
        Path | None, typer.Option(help="True cell labels of the image or the window.")
    ] = None,
    truth_nuclei: Annotated[
        Path | None, typer.Option(help="True nucleus labels of the image or the window.")
    ] = None,
    window: Annotated[
        tuple[int, int, int, int] | None,
        typer.Option(
            metavar="Y0 X0 HEIGHT WIDTH",
            help="Window to segment, px; default: all, or the brightest 2048 x 2048.",
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PATH", help="Weights of one or more backends."),
    ] = None,
    mpp: Mpp = None,
    panel: Panel = None,
    diameter: Diameter = None,
    workers: Processes = None,
    *,
    overwrite: Overwrite = False,
) -> None:
    """Segment one image with several backends and compare the results.

    Writes compare.png (the image and the outlines of each backend), scores.csv (a row per
    backend), and <backend>_cells.tif, _nuclei.tif and _outlines.png. Exit code 1: some
    backends were unavailable or failed. Exit code 2: all were unavailable, or the input
    is wrong.

    Example: codexseg compare slide.qptiff --backends watershed mesmer
    """
    from codexseg.config.fields import image_stem
    from codexseg.predict import OPTIONS, ImageOptions

    truths = {"cell": truth, "nucleus": truth_nuclei}
    names = {"segmentation.backend": "--backends", "segmentation.model_path": "--model"}
    with (
        user_errors({**OPTIONS, **names}),
        exit_when_stopped("interrupted. No output was written."),
    ):
        from codexseg.comparison.compare import compare
        from codexseg.execution.process import prepare_process

        prepare_process()
        result = compare(
            image,
            _with_weights(backends, model or ()),
            out or Path(f"{image_stem(image)}_compare"),
            options=ImageOptions(
                nucleus=nucleus,
                wholecell=split_names(wholecell or ()),
                mode=mode,
                mpp=mpp,
                panel=panel,
                diameter=diameter,
            ),
            reference={name: path for name, path in truths.items() if path is not None},
            window=window,
            workers=workers,
            overwrite=overwrite,
            progress=lambda text: echo(text, error=True),
        )
    _echo_comparison(result)
    if len(result.done) < len(result.outcomes):
        raise typer.Exit(1)


def _with_weights(
    backends: "Sequence[str]", models: "Sequence[str]"
) -> "dict[str, Path | None]":
    """Return the weights of each backend, or None, from NAME=PATH words."""
    from codexseg.errors import ConfigError

    weights: dict[str, Path | None] = dict.fromkeys(backends)
    if len(weights) < len(backends):
        raise ConfigError(
            f"Duplicate backends: {', '.join(backends)}. Name each backend once."
        )
    for word in models:
        name, equals, path = word.partition("=")
        if not (name and equals and path):
            raise ConfigError(
                f"--model is {word!r}, expected NAME=PATH, such as panoptic=network.onnx."
            )
        if name not in weights:
            raise ConfigError(
                f"--model names {name}, expected one of {', '.join(weights)}."
            )
        weights[name] = Path(path).absolute()
    return weights


def _echo_comparison(result: "Comparison") -> None:
    window, (height, width) = result.window, result.shape
    if window.shape != result.shape:
        echo(
            f"Segmented: y {window.y0} to {window.y1}, x {window.x0} to {window.x1} px of "
            f"{height} x {width} px (height x width). Use --window for another window."
        )
    if result.done:
        echo_table([_metrics_row(outcome) for outcome in result.done])
        _echo_agreement(result.done)
        for objects in ("cells", "nuclei"):
            _echo_scores(result.done, objects)
        folder = result.files[-1].parent
        echo(f"\nResults: {folder / 'compare.png'}, {folder / 'scores.csv'} and labels")
    for outcome in result.outcomes:
        if outcome.state != "done":
            echo(f"codexseg: {outcome.name} {outcome.state}: {outcome.reason}", error=True)


def _metrics_row(outcome: "BackendOutcome") -> "Mapping[str, str]":
    row = {"backend": outcome.name}
    for name, (title, template) in _METRICS.items():
        value = outcome.metrics[name]
        row[title] = "-" if value != value else template.format(value)
    return row


def _echo_agreement(done: "Sequence[BackendOutcome]") -> None:
    if len(done) < 2:
        return
    echo("\nAgreement: F1 of the cells of two backends, matched at an IoU of 0.5:")
    rows = []
    for outcome in done:
        row = {"backend": outcome.name}
        for reference in done:
            f1 = outcome.metrics.get(f"f1_with_{reference.name}")
            row[reference.name] = "" if f1 is None else f"{f1:.3f}"
        rows.append(row)
    echo_table(rows)


def _echo_scores(done: "Sequence[BackendOutcome]", objects: str) -> None:
    from codexseg.comparison.compare import SCORES

    if f"{objects}_f1" not in done[0].metrics:
        return
    echo(f"\nScores against the true {objects}, matched at an IoU of 0.5:")
    echo_table(
        [
            {"backend": outcome.name}
            | {
                SCORE_TITLES[name]: f"{outcome.metrics[f'{objects}_{name}']:.3f}"
                for name in SCORES
            }
            for outcome in done
        ]
    )
