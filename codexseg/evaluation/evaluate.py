"""Judging a prediction by a truth: arrays, files, folders of them, whole slides.

Images are read window by window and what is kept is a table of the objects that share
pixels, so memory follows the objects. The quantities are those of
`codexseg.core.metrics.objects`
(objects), `codexseg.core.metrics.error_types` and `codexseg.core.metrics.pixels`.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from codexseg.core.drawing.error_overlay import draw_errors
from codexseg.core.grid import PatchGrid, Window
from codexseg.core.labels.operations import Integers, Labels
from codexseg.core.labels.overlaps import (
    Overlaps,
    add_overlaps,
    border_labels,
    drop_objects,
    overlaps,
)
from codexseg.core.metrics.error_types import ErrorCounts, count_errors
from codexseg.core.metrics.objects import (
    QUOTIENTS,
    Matches,
    check_threshold,
    count_matches,
    mean_quotients,
    object_pairs,
    pool_matches,
)
from codexseg.core.metrics.pixels import (
    PixelCounts,
    auroc,
    count_pixels,
    probability_levels,
)
from codexseg.errors import InputError
from codexseg.io.labels.finder import pair_files
from codexseg.io.labels.reader import LabelImage, open_labels
from codexseg.run.files import replacing

WINDOW_PX = 2048
"""Height and width of what is read at once."""
STRIP_PX = 512
"""Height of it where a file is stored in strips as wide as the image."""
FOREGROUND = 0.5
"""Least probability of the foreground, for probability maps."""
OVERLAY_PX = 4000
"""Longest side of a picture of errors; of larger images every n-th pixel is shown."""

PIXEL_QUANTITIES = ("precision", "recall", "f1", "iou", "dice")
_COUNTS = ("n_true", "n_pred", "tp", "fp", "fn")


@dataclass(frozen=True)
class Scores:
    """How well a prediction fits, in one image or in several.

    Attributes
    ----------
    name : str
        Of the image.
    matches : tuple of Matches
        One per threshold; empty for a probability map.
    errors : ErrorCounts or None
        None for a probability map.
    pixels : PixelCounts
        Of the foreground, border included; a probability map is cut at 0.5.
    auroc : float or None
        Only for a probability map.
    """

    name: str
    matches: tuple[Matches, ...]
    errors: ErrorCounts | None
    pixels: PixelCounts
    auroc: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """The scores of each image, and of all: counts added up before they are divided."""

    images: tuple[Scores, ...]
    pooled: Scores

    def means(self) -> list[dict[str, float]]:
        """Average the quotients of each threshold over the images; see `QUOTIENTS`."""
        return [
            mean_quotients(one)
            for one in zip(*(s.matches for s in self.images), strict=True)
        ]


class _Counts(NamedTuple):
    """What the windows of an image add up to; `objects` lacks those at the border."""

    objects: Overlaps
    pixels: PixelCounts
    levels: Integers | None


def evaluate(
    truth: NDArray[Any],
    pred: NDArray[Any],
    *,
    iou: Sequence[float] = (0.5,),
    ignore_border: int = 0,
) -> Scores:
    """Judge one prediction.

    Parameters
    ----------
    truth : (y, x) integer or bool
        True labels, 0 is background; any gaps, any order, up to 2**32 - 1.
    pred : (y, x) integer, bool or float
        Predicted labels of the same pixels. Floats are probabilities of the foreground,
        0 to 1: they have scores of pixels only.
    iou : sequence of float
        Least intersection over union of a match, one or several thresholds.
    ignore_border : int
        Objects with a pixel in the outer frame of this width, px, are left out, in truth
        and prediction each.

    Returns
    -------
    Scores
        For example ``.matches[0].f1``, ``.errors.merge``, ``.pixels.iou``.

    Raises
    ------
    InputError
        If the shapes differ, labels or probabilities are no such, or a threshold or the
        border is out of range.

    Notes
    -----
    Matching as in stardist.matching; `ignore_border` 2 and `iou` 0.5 give the F1 of the
    NeurIPS 2022 cell segmentation challenge, of an image as a whole.
    """
    _check_options(iou, ignore_border)
    images = LabelImage("truth", np.asarray(truth)), LabelImage("pred", np.asarray(pred))
    return _scores("array", _count(*images, ignore_border), iou)


def evaluate_files(
    truth: str | Path,
    pred: str | Path,
    *,
    iou: Sequence[float] = (0.5,),
    ignore_border: int = 0,
    compartment: str = "cell",
    overlay: Path | None = None,
) -> Evaluation:
    """Judge one prediction or a folder of them.

    Parameters
    ----------
    truth, pred : str or Path
        See `codexseg.io.labels.finder.find_labels`; images of folders are paired by name.
    iou, ignore_border
        See `evaluate`.
    compartment : str
        Which labels of a run: cell or nucleus (cell_original, nucleus_original).
    overlay : Path, optional
        PNG of the errors at the first threshold; of several images, a folder of them.

    Returns
    -------
    Evaluation

    Raises
    ------
    InputError
        If files are missing, unreadable, without a partner, or not of one shape.
    """
    _check_options(iou, ignore_border)
    pairs = pair_files(Path(truth), Path(pred), compartment)
    images: list[Scores] = []
    levels: Integers | None = None
    for one, other in pairs:
        with open_labels(one) as true_image, open_labels(other) as pred_image:
            counts = _count(true_image, pred_image, ignore_border)
            images.append(_scores(one.name, counts, iou))
            if counts.levels is not None:
                levels = counts.levels if levels is None else levels + counts.levels
            if overlay is not None:
                path = overlay if len(pairs) == 1 else overlay / f"{one.name}.png"
                _write_overlay(path, true_image, pred_image, counts.objects, iou[0])
    return Evaluation(tuple(images), _pool(images, levels))


def write_csv(
    path: Path, scores: Sequence[Scores], *, errors: bool = False, pixels: bool = False
) -> None:
    """Write one row per image and threshold; it takes the place of what is there.

    Parameters
    ----------
    path : Path
    scores : sequence of Scores
        All images, or what they were pooled to.
    errors, pixels : bool
        Add the columns of the error types and of the pixels: they do not depend on the
        threshold, and stand in every row.
    """
    rows = [row for image in scores for row in _rows(image, errors=errors, pixels=pixels)]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


# -- counting -----------------------------------------------------------------------------


def _check_options(iou: Sequence[float], ignore_border: int) -> None:
    if not iou:
        raise InputError("no IoU threshold was given, expected one or more, such as 0.5.")
    for threshold in iou:
        check_threshold(threshold)
    if ignore_border < 0:
        raise InputError(
            f"ignore_border is {ignore_border}, expected the width of a frame, px: 0 for "
            f"none, 2 as in the NeurIPS challenge."
        )


def _count(truth: LabelImage, pred: LabelImage, border: int) -> _Counts:
    """Add up the windows of an image."""
    if truth.is_probability:
        raise InputError(
            f"{truth.title} holds floating-point numbers, expected labels: integers, 0 "
            f"for the background."
        )
    if truth.shape != pred.shape:
        raise InputError(
            f"{truth.title} and {pred.title} must cover the same pixels, got heights and "
            f"widths of {truth.shape} and {pred.shape}."
        )
    if pred.is_probability:
        return _count_probabilities(truth, pred)
    tables, at_border = [], ([], [])  # type: ignore[var-annotated]
    for window in _windows(truth, pred):
        labels = truth.read(window), pred.read(window)
        tables.append(overlaps(*labels))
        for found, one in zip(at_border, labels, strict=True):
            found.append(border_labels(one, border, window, truth.shape))
    table = add_overlaps(tables)
    dropped = (np.concatenate(found) for found in at_border)
    return _Counts(drop_objects(table, *dropped), count_pixels(table), None)


def _count_probabilities(truth: LabelImage, pred: LabelImage) -> _Counts:
    pixels, levels = PixelCounts(), None
    for window in _windows(truth, pred):
        foreground, values = truth.read(window) > 0, pred.read(window)
        try:
            found = probability_levels(foreground, values)
        except InputError as error:
            raise InputError(f"{pred.title}: {error}") from error
        levels = found if levels is None else levels + found
        predicted = values >= FOREGROUND
        table = overlaps(foreground.astype(np.uint32), predicted.astype(np.uint32))
        pixels += count_pixels(table)
    return _Counts(add_overlaps([]), pixels, levels)


def _windows(truth: LabelImage, pred: LabelImage, step: int = 1) -> Iterator[Window]:
    """Cut an image into windows that start at multiples of `step`."""
    height, width = truth.shape
    size = (WINDOW_PX, WINDOW_PX)
    if truth.in_strips or pred.in_strips:
        size = (STRIP_PX, max(width, step))
    cores = size[0] // step * step or step, size[1] // step * step or step
    return (patch.core for patch in PatchGrid((height, width), cores, (0, 0)))


def _scores(name: str, counts: _Counts, iou: Sequence[float]) -> Scores:
    if counts.levels is not None:
        return Scores(name, (), None, counts.pixels, auroc(counts.levels))
    pairs = object_pairs(counts.objects)
    matches = tuple(count_matches(pairs, threshold) for threshold in iou)
    return Scores(name, matches, count_errors(pairs), counts.pixels)


def _pool(images: Sequence[Scores], levels: Integers | None) -> Scores:
    kinds = {image.errors is None for image in images}
    if len(kinds) > 1:
        raise InputError(
            "some predictions are labels and some probability maps (floating-point "
            "numbers): judge them apart."
        )
    pixels = sum((image.pixels for image in images), PixelCounts())
    if levels is not None:
        return Scores("pooled", (), None, pixels, auroc(levels))
    matches = zip(*(image.matches for image in images), strict=True)
    return Scores(
        "pooled",
        tuple(pool_matches(one) for one in matches),
        sum((image.errors for image in images if image.errors), ErrorCounts()),
        pixels,
    )


def _rows(scores: Scores, *, errors: bool, pixels: bool) -> list[dict[str, object]]:
    """Return the rows of the csv for one image."""
    more: dict[str, object] = {}
    if errors and scores.errors is not None:
        names = [field.name for field in fields(scores.errors)]
        names += ["precision", "recall", "f1"]
        more |= {f"errors_{n}": _written(getattr(scores.errors, n)) for n in names}
    if pixels:
        names = [field.name for field in fields(scores.pixels)]
        names += PIXEL_QUANTITIES
        more |= {f"pixels_{n}": _written(getattr(scores.pixels, n)) for n in names}
        if scores.auroc is not None:
            more["pixels_auroc"] = _written(scores.auroc)
    if not scores.matches:
        return [{"image": scores.name} | more]
    return [
        {"image": scores.name, "iou": match.threshold}
        | {n: _written(getattr(match, n)) for n in (*_COUNTS, *QUOTIENTS)}
        | more
        for match in scores.matches
    ]


def _written(value: float) -> object:
    return value if isinstance(value, int) else f"{value:.6f}"


# -- the picture of the errors ------------------------------------------------------------


def _write_overlay(
    path: Path, truth: LabelImage, pred: LabelImage, table: Overlaps, threshold: float
) -> None:
    from PIL import Image

    if pred.is_probability:
        raise InputError(
            f"{pred.title} is a probability map: errors are drawn of labels only."
        )
    step = -(-max(truth.shape) // OVERLAY_PX)
    picture = draw_errors(
        _coarse(truth, truth, pred, step),
        _coarse(pred, truth, pred, step),
        table,
        threshold,
    )
    with replacing(path) as part:
        Image.fromarray(picture).save(part, format="PNG")


def _coarse(image: LabelImage, truth: LabelImage, pred: LabelImage, step: int) -> Labels:
    """Read every `step`-th pixel of a whole image."""
    height, width = image.shape
    coarse = np.zeros((-(-height // step), -(-width // step)), np.uint32)
    for window in _windows(truth, pred, step):
        part = image.read(window, step)
        y, x = window.y0 // step, window.x0 // step
        coarse[y : y + part.shape[0], x : x + part.shape[1]] = part
    return coarse
