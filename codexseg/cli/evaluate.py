"""``codexseg evaluate``: how well a prediction fits a truth."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from codexseg.cli.console import clear_errors, say, spread, table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from codexseg.evaluation.evaluate import Evaluation, Scores

_COLUMNS = {
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "accuracy": "AP",
    "panoptic_quality": "PQ",
    "mean_matched_score": "matched IoU",
    "mean_true_score": "true IoU",
}
_COUNTS = {"tp": "TP", "fp": "FP", "fn": "FN"}


class EvaluateCommand(TyperCommand):
    """A command whose ``--iou`` takes all the numbers that follow it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read ``--iou 0.5 0.75`` as ``--iou 0.5 --iou 0.75``."""
        return super().parse_args(ctx, spread(args, "--iou"))


def evaluate(
    truth: Annotated[
        str,
        typer.Argument(
            help="True labels: a TIFF, PNG or npy, file.npz:key, the Zarr folder of a "
            "label image, a run directory, or a folder of files."
        ),
    ],
    pred: Annotated[
        str,
        typer.Argument(
            help="Predicted labels, the same; or floating-point probabilities of the "
            "foreground (with --pixel)."
        ),
    ],
    iou: Annotated[
        list[float] | None,
        typer.Option(help="Least IoU of a match, one or several.  [default: 0.5]"),
    ] = None,
    ignore_border: Annotated[
        int,
        typer.Option(
            min=0,
            help="Leave out objects with a pixel in the outer frame of this width, px "
            "(the NeurIPS challenge: 2).",
        ),
    ] = 0,
    compartment: Annotated[
        str, typer.Option(help="Which labels of a run directory: cell or nucleus.")
    ] = "cell",
    *,
    errors: Annotated[
        bool, typer.Option("--errors", help="Missed, gained, split, merged objects.")
    ] = False,
    pixel: Annotated[
        bool, typer.Option("--pixel", help="Scores of the foreground, pixel by pixel.")
    ] = False,
    by_image: Annotated[
        bool,
        typer.Option("--by-image", help="Average over images instead of pooling them."),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="A csv: a row per threshold (and image, with --by-image)."),
    ] = None,
    overlay: Annotated[
        Path | None,
        typer.Option(
            help="A PNG of the errors at the first threshold (of several images: a "
            "folder): matched green, missed blue, gained red."
        ),
    ] = None,
) -> None:
    """Judge a prediction by a truth: objects, their errors, pixels.

    Images of folders are paired by name; _masks, _labels, _mask and _label at its end do
    not count.
    """
    with clear_errors():
        from codexseg.errors import InputError
        from codexseg.evaluation.evaluate import evaluate_files, write_csv

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
                f"{pred} holds probabilities (floating-point numbers), which have scores "
                f"of pixels only: add --pixel, or give labels as integers."
            )
        _report(evaluation, errors=errors, pixel=pixel, by_image=by_image)
        if out is not None:
            scores = evaluation.images if by_image else (evaluation.pooled,)
            write_csv(out, scores, errors=errors, pixels=pixel)
            say(f"Scores: {out}")
        if overlay is not None:
            say(f"Errors: {overlay} (matched green, missed blue, gained red)")


def _report(evaluation: "Evaluation", *, errors: bool, pixel: bool, by_image: bool) -> None:
    pooled, count = evaluation.pooled, len(evaluation.images)
    many = f"{count} images" if count > 1 else "1 image"
    if pooled.matches:
        first = pooled.matches[0]
        how = "quotients are means of the images" if by_image else "images are pooled"
        say(f"{many}, {first.n_true} true objects, {first.n_pred} predicted.")
        say(
            f"Counted are pairs of objects, one to one, that share at least the given part "
            f"of their pixels (IoU){f'; {how}' if count > 1 else ''}."
        )
        table(_match_rows(evaluation, by_image=by_image))
    else:
        say(f"{many} of probabilities; foreground from 0.5 on.")
    if errors and pooled.errors is not None:
        _errors(pooled)
    if pixel:
        _pixels(pooled)


def _match_rows(evaluation: "Evaluation", *, by_image: bool) -> "list[Mapping[str, str]]":
    rows: list[Mapping[str, str]] = []
    means = evaluation.means()
    for match, mean in zip(evaluation.pooled.matches, means, strict=True):
        counts = {title: str(getattr(match, name)) for name, title in _COUNTS.items()}
        values = mean if by_image else {name: getattr(match, name) for name in _COLUMNS}
        rows.append(
            {"IoU": f"{match.threshold:g}"}
            | counts
            | {title: f"{values[name]:.4f}" for name, title in _COLUMNS.items()}
        )
    return rows


def _errors(pooled: "Scores") -> None:
    found = pooled.errors
    if found is None:
        return
    say("\nTypes of errors (objects match above an IoU of 0.6; sums of all images):")
    names = ("correct", "missed", "gained", "split", "merge", "catastrophe")
    row = {name: str(getattr(found, name)) for name in names}
    for name, title in list(_COLUMNS.items())[:3]:
        row[title] = f"{getattr(found, name):.4f}"
    table([row])
    say(
        f"Splits made {found.gained_from_split} objects too many, merges "
        f"{found.missed_from_merge} too few; {found.true_in_catastrophe} true and "
        f"{found.pred_in_catastrophe} predicted ones are in catastrophes."
    )


def _pixels(pooled: "Scores") -> None:
    say("\nPixels of the foreground, all images and borders together:")
    titles = {"precision": "precision", "recall": "recall", "f1": "F1"}
    titles |= {"iou": "IoU", "dice": "Dice"}
    row = {title: f"{getattr(pooled.pixels, n):.4f}" for n, title in titles.items()}
    if pooled.auroc is not None:
        row["AuROC"] = f"{pooled.auroc:.4f}"
    table([row])
