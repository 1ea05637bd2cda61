"""``codexseg compare``: several backends on one image, side by side."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from codexseg.cli.console import clear_errors, is_no_option, say, spread, table
from codexseg.cli.options import Diameter, Mode, Mpp, Overwrite, Panel, Processes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from codexseg.comparison.compare import Comparison, Outcome

_FIGURES = {
    "cells": ("cells", "{:.0f}"),
    "nuclei": ("nuclei", "{:.0f}"),
    "matched_fraction": ("matched", "{:.0%}"),
    "median_cell_diameter_um": ("diameter um", "{:.1f}"),
    "cpu_s": ("CPU s", "{:.1f}"),
    "foreground_covered": ("signal covered", "{:.0%}"),
    "light_in_cells": ("light in cells", "{:.0%}"),
    "cells_on_foreground": ("cells on signal", "{:.0%}"),
    "size_cv": ("size spread", "{:.2f}"),
}
_SCORES = {
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "panoptic_quality": "PQ",
    "mean_matched_score": "matched IoU",
}


class CompareCommand(TyperCommand):
    """A command whose ``--backends`` and ``--wholecell`` take all names that follow."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read ``--backends a b`` as ``--backends a --backends b``."""
        for option in ("--backends", "--wholecell", "--model"):
            args = spread(args, option, is_no_option)
        return super().parse_args(ctx, args)


def compare(
    image: Annotated[
        Path,
        typer.Argument(help="An image: OME-TIFF, qptiff, OME-Zarr, or TIFF (see --panel)."),
    ],
    backends: Annotated[
        list[str],
        typer.Option(
            help="Names of backends, one or several: --backends watershed mesmer."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write to; default: <image>_compare, here."),
    ] = None,
    nucleus: Annotated[
        str | None,
        typer.Option(
            "--nucleus",
            "--nuclear",
            help="Name of the nuclear channel (default: DAPI); of a picture, its colour.",
        ),
    ] = None,
    wholecell: Annotated[
        list[str] | None,
        typer.Option(help="Names of whole-cell markers, one or several."),
    ] = None,
    mode: Mode = None,
    truth: Annotated[
        Path | None,
        typer.Option(
            help="True labels of cells, as evaluate takes them, of image or window."
        ),
    ] = None,
    truth_nuclei: Annotated[
        Path | None, typer.Option(help="True labels of nuclei, the same.")
    ] = None,
    window: Annotated[
        tuple[int, int, int, int] | None,
        typer.Option(
            metavar="Y0 X0 HEIGHT WIDTH",
            help="The part to segment, px. Default: all; of an image larger than 2048 px, "
            "its brightest 2048 x 2048 px.",
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PATH", help="Weights of a backend, one or several."),
    ] = None,
    mpp: Mpp = None,
    panel: Panel = None,
    diameter: Diameter = None,
    workers: Processes = None,
    *,
    overwrite: Overwrite = False,
) -> None:
    """Segment one image with several backends, side by side, with their scores.

    Writes compare.png (the image and what each backend found), scores.csv (a row per
    backend), and of each its labels (_cells.tif, _nuclei.tif) and outlines (_outlines.png).
    Exit code 1: some could not be had or failed; 2: none can be had, or the input is wrong.
    """
    from codexseg.predict import OPTIONS, stem

    names = {"segmentation.backend": "--backends", "segmentation.model_path": "--model"}
    with clear_errors({**OPTIONS, **names}):
        folder = out or Path(f"{stem(image)}_compare")
        result = _run(
            image,
            backends,
            nucleus=nucleus,
            wholecell=[
                n.strip() for w in wholecell or () for n in w.split(",") if n.strip()
            ],
            out=folder,
            mode=mode,
            diameter=diameter,
            models=_models(model or ()),
            truth=truth,
            truth_nuclei=truth_nuclei,
            window=window,
            mpp=mpp,
            panel=panel,
            workers=workers,
            overwrite=overwrite,
        )
    _report(result)
    if len(result.done) < len(result.outcomes):
        raise typer.Exit(1)


def _run(image: Path, backends: "Sequence[str]", **options: Any) -> "Comparison":
    """Compare; a stop from outside leaves nothing behind."""
    from codexseg.cli.interrupts import Terminated, listen
    from codexseg.comparison.compare import compare
    from codexseg.execution.process import prepare_process

    prepare_process()
    listen()
    try:
        return compare(
            image, backends, progress=lambda words: say(words, error=True), **options
        )
    except (KeyboardInterrupt, Terminated) as stop:
        say("\ncodexseg: stopped; nothing was written.", error=True)
        raise typer.Exit(143 if isinstance(stop, Terminated) else 130) from None


def _models(words: "Sequence[str]") -> dict[str, Path]:
    from codexseg.errors import ConfigError

    models: dict[str, Path] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not (name and equals and path):
            raise ConfigError(
                f"--model is {word!r}, expected NAME=PATH, such as panoptic=network.onnx."
            )
        models[name] = Path(path).absolute()
    return models


def _report(result: "Comparison") -> None:
    at, (height, width) = result.window, result.shape
    if at.shape != result.shape:
        say(
            f"Segmented: y {at.y0} to {at.y1}, x {at.x0} to {at.x1} px of {height} x "
            f"{width} px (height x width); another part with --window."
        )
    if result.done:
        table([_row(one) for one in result.done])
        _say_agreement(result.done)
        for kind, title in (("cells", "cells"), ("nuclei", "nuclei")):
            _say_scores(result.done, kind, title)
        folder = result.files[-1].parent
        say(f"\nResults: {folder / 'compare.png'}, {folder / 'scores.csv'}, labels beside")
    for one in result.outcomes:
        if one.state != "done":
            say(f"codexseg: {one.name} {one.state}: {one.reason}", error=True)


def _row(one: "Outcome") -> "Mapping[str, str]":
    row = {"backend": one.name}
    for name, (title, form) in _FIGURES.items():
        value = one.figures[name]
        row[title] = "-" if value != value else form.format(value)
    return row


def _say_agreement(done: "Sequence[Outcome]") -> None:
    if len(done) < 2:
        return
    say("\nAgreement: F1 of the cells of two backends, one to one, at an IoU of 0.5:")
    rows = []
    for one in done:
        values = (one.figures.get(f"f1_with_{other.name}") for other in done)
        words = ["" if v is None else f"{v:.3f}" for v in values]
        titles = (other.name for other in done)
        rows.append({"backend": one.name} | dict(zip(titles, words, strict=True)))
    table(rows)


def _say_scores(done: "Sequence[Outcome]", kind: str, title: str) -> None:
    if f"{kind}_f1" not in done[0].figures:
        return
    say(f"\nAgainst the true {title}, one to one, at an IoU of 0.5:")
    table(
        [
            {"backend": one.name}
            | {words: f"{one.figures[f'{kind}_{n}']:.3f}" for n, words in _SCORES.items()}
            for one in done
        ]
    )
