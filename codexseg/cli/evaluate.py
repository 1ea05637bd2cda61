"""``codexseg evaluate``: scores of predicted labels against a reference."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from codexseg.cli.console import echo, echo_table, repeat_option, user_errors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from codexseg.core.metrics.error_types import ErrorCounts
    from codexseg.evaluation.evaluate import Evaluation, Scores

SCORE_TITLES = {
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "accuracy": "AP",
    "panoptic_quality": "PQ",
    "mean_matched_score": "matched IoU",
    "mean_true_score": "true IoU",
}


evaluate_app = typer.Typer()


class EvaluateCommand(TyperCommand):
    """Command with several numbers after --iou."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse ``--iou 0.5 0.75`` as ``--iou 0.5 --iou 0.75``."""
        return super().parse_args(ctx, repeat_option(args, "--iou"))


@evaluate_app.command("evaluate", cls=EvaluateCommand)
def evaluate_command(
    truth: Annotated[
        str, typer.Argument(help="True labels: label image, run directory or folder.")
    ],
    pred: Annotated[
        str, typer.Argument(help="Predicted labels, or probabilities (with --pixel).")
    ],
    iou: Annotated[
        list[float] | None,
        typer.Option(help="Minimum IoU of a match, one or more.  [default: 0.5]"),
    ] = None,
    ignore_border: Annotated[
        int,
        typer.Option(
            min=0, help="Ignore objects in an outer frame of this width, px (NeurIPS: 2)."
        ),
    ] = 0,
    compartment: Annotated[
        str, typer.Option(help="Labels of a run directory: cell or nucleus.")
    ] = "cell",
    *,
    errors: Annotated[
        bool,
        typer.Option("--errors", help="Count missed, gained, split and merged objects."),
    ] = False,
    pixel: Annotated[
        bool, typer.Option("--pixel", help="Score the foreground pixels.")
    ] = False,
    by_image: Annotated[
        bool,
        typer.Option("--by-image", help="Average over images instead of pooling them."),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="CSV with a row per threshold (and image, with --by-image)."),
    ] = None,
    overlay: Annotated[
        Path | None,
        typer.Option(help="PNG of the errors at the first threshold (or a folder)."),
    ] = None,
) -> None:
    """Score predicted labels against true labels.

    Label images are TIFF, PNG, npy, file.npz:key or a Zarr label group. Images of folders
    are paired by name, without _mask, _masks, _label or _labels at the end. In the overlay,
    matched objects are green, missed ones blue and gained ones red.

    Example: codexseg evaluate truth.tif prediction.tif --iou 0.5 0.75
    """
    with user_errors():
        from codexseg.errors import InputError
        from codexseg.evaluation.evaluate import evaluate_files, write_scores

        evaluation = evaluate_files(
            truth,
            pred,
            iou=iou or (0.5,),
            ignore_border=ignore_border,
            compartment=compartment,
            overlay=overlay,
        )
        if evaluation.pooled.errors is None and not pixel:
            raise InputError(
                f"{pred} contains floating-point probabilities, which have pixel scores "
                f"only. Add --pixel, or pass integer labels."
            )
        _echo_evaluation(evaluation, errors=errors, pixel=pixel, by_image=by_image)
        if out is not None:
            scores = evaluation.images if by_image else (evaluation.pooled,)
            write_scores(out, scores, errors=errors, pixels=pixel)
            echo(f"Scores: {out}")
        if overlay is not None:
            echo(f"Errors: {overlay} (matched green, missed blue, gained red)")


def _echo_evaluation(
    evaluation: "Evaluation", *, errors: bool, pixel: bool, by_image: bool
) -> None:
    pooled, count = evaluation.pooled, len(evaluation.images)
    images = f"{count} images" if count > 1 else "1 image"
    if pooled.matches:
        first = pooled.matches[0]
        scope = "averaged per image" if by_image else "pooled over all images"
        echo(f"{images}, {first.n_true} true objects, {first.n_pred} predicted.")
        echo(
            f"Objects are matched one to one with at least the given IoU"
            f"{f', scores are {scope}' if count > 1 else ''}."
        )
        echo_table(_match_rows(evaluation, by_image=by_image))
    else:
        echo(f"{images} of probabilities. Foreground: at least 0.5.")
    if errors and pooled.errors is not None:
        _echo_errors(pooled.errors)
    if pixel:
        _echo_pixels(pooled)


def _match_rows(evaluation: "Evaluation", *, by_image: bool) -> "list[Mapping[str, str]]":
    rows: list[Mapping[str, str]] = []
    means = evaluation.means()
    for match, mean in zip(evaluation.pooled.matches, means, strict=True):
        counts = {name.upper(): str(getattr(match, name)) for name in ("tp", "fp", "fn")}
        values = mean if by_image else {name: getattr(match, name) for name in SCORE_TITLES}
        rows.append(
            {"IoU": f"{match.threshold:g}"}
            | counts
            | {title: f"{values[name]:.4f}" for name, title in SCORE_TITLES.items()}
        )
    return rows


def _echo_errors(errors: "ErrorCounts") -> None:
    echo("\nTypes of errors (objects match above an IoU of 0.6, sums over all images):")
    names = ("correct", "missed", "gained", "split", "merge", "catastrophe")
    row = {name: str(getattr(errors, name)) for name in names}
    for name, title in list(SCORE_TITLES.items())[:3]:
        row[title] = f"{getattr(errors, name):.4f}"
    echo_table([row])
    echo(
        f"Splits added {errors.gained_from_split} objects, merges removed "
        f"{errors.missed_from_merge}. Catastrophes contain {errors.true_in_catastrophe} "
        f"true and {errors.pred_in_catastrophe} predicted objects."
    )


def _echo_pixels(pooled: "Scores") -> None:
    echo("\nForeground pixels of all images, borders included:")
    titles = {"precision": "precision", "recall": "recall", "f1": "F1"}
    titles |= {"iou": "IoU", "dice": "Dice"}
    row = {title: f"{getattr(pooled.pixels, n):.4f}" for n, title in titles.items()}
    if pooled.auroc is not None:
        row["AuROC"] = f"{pooled.auroc:.4f}"
    echo_table([row])
