"""Scores of predicted labels against reference labels: arrays, files, folders and runs.

Images are read window by window and reduced to a table of overlapping objects, so memory
depends on the number of objects, not on the size of the image. The scores are defined in
`codexseg.core.metrics.objects`, `codexseg.core.metrics.error_types` and
`codexseg.core.metrics.pixels`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np

from codexseg.arrays import Int64, Labels, Pixels
from codexseg.core.drawing.error_overlay import draw_errors
from codexseg.core.grid import PatchGrid, Window
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
    MatchCounts,
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
from codexseg.io.csv_writer import write_csv_rows
from codexseg.io.labels.finder import pair_files
from codexseg.io.labels.reader import LabelImage, open_labels
from codexseg.run.files import replacing

WINDOW_PX = 2048
"""Height and width of the windows that are read."""
STRIP_PX = 512
"""Height of the windows of files stored in strips as wide as the image."""
FOREGROUND = 0.5
"""Minimum probability of foreground pixels in a probability map."""
OVERLAY_PX = 4000
"""Longest side of an error overlay; larger images are shown at every n-th pixel."""

PIXEL_QUANTITIES = ("precision", "recall", "f1", "iou", "dice")
_MATCH_COLUMNS = ("n_true", "n_pred", "tp", "fp", "fn", *QUOTIENTS)
_PIXEL_COLUMNS = ("tp", "fp", "fn", *PIXEL_QUANTITIES)


@dataclass(frozen=True)
class Scores:
    """Scores of a prediction in one image or several.

    Attributes
    ----------
    name : str
        Name of the image.
    matches : tuple of MatchCounts
        One per threshold; empty for a probability map.
    errors : ErrorCounts or None
        None for a probability map.
    pixels : PixelCounts
        Foreground pixels, border included; at least 0.5 in a probability map.
    auroc : float or None
        Area under the ROC curve, only for a probability map.
    """

    name: str
    matches: tuple[MatchCounts, ...]
    errors: ErrorCounts | None
    pixels: PixelCounts
    auroc: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """Scores of each image, and pooled scores from the summed counts of all images."""

    images: tuple[Scores, ...]
    pooled: Scores

    def means(self) -> list[dict[str, float]]:
        """Return the means of the `QUOTIENTS` over the images, per threshold."""
        return [
            mean_quotients(matches)
            for matches in zip(*(s.matches for s in self.images), strict=True)
        ]


class _Counts(NamedTuple):
    """Sums over the windows of an image; `objects` without those at the border."""

    objects: Overlaps
    pixels: PixelCounts
    levels: Int64 | None


def evaluate(
    truth: Pixels,
    pred: Pixels,
    *,
    iou: Sequence[float] = (0.5,),
    ignore_border: int = 0,
) -> Scores:
    """Score one prediction.

    Parameters
    ----------
    truth : (y, x) integer or bool
        True labels, 0 is background; up to 2**32 - 1, with any gaps and order.
    pred : (y, x) integer, bool or float
        Predicted labels of the same pixels. Floats are foreground probabilities, 0 to 1,
        which have pixel scores only.
    iou : sequence of float
        Minimum intersection over union of a match, one or more thresholds.
    ignore_border : int
        Width of an outer frame, px. Objects with a pixel in it are ignored, in truth and
        prediction.

    Returns
    -------
    Scores
        Use for example ``.matches[0].f1``, ``.errors.merge``, ``.pixels.iou``.

    Raises
    ------
    InputError
        If the shapes differ, the dtypes are wrong, or a probability, threshold or the
        border is out of range.

    Notes
    -----
    Objects are matched as in stardist.matching. `ignore_border` 2 and `iou` 0.5 give the
    F1 of the NeurIPS 2022 cell segmentation challenge for a whole image.
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
    """Score one prediction or a folder of them.

    Parameters
    ----------
    truth, pred : str or Path
        See `codexseg.io.labels.finder.find_labels`. Images of folders are paired by name.
    iou, ignore_border
        See `evaluate`.
    compartment : str
        Labels of a run: cell or nucleus (cell_original, nucleus_original).
    overlay : Path, optional
        PNG of the errors at the first threshold; for several images a folder.

    Returns
    -------
    Evaluation

    Raises
    ------
    InputError
        If files are missing, unreadable or without a partner, or shapes differ.
    """
    _check_options(iou, ignore_border)
    pairs = pair_files(Path(truth), Path(pred), compartment)
    images: list[Scores] = []
    levels: Int64 | None = None
    for true_file, pred_file in pairs:
        with open_labels(true_file) as true_image, open_labels(pred_file) as pred_image:
            counts = _count(true_image, pred_image, ignore_border)
            images.append(_scores(true_file.name, counts, iou))
            if counts.levels is not None:
                levels = counts.levels if levels is None else levels + counts.levels
            if overlay is not None:
                single = len(pairs) == 1
                path = overlay if single else overlay / f"{true_file.name}.png"
                _write_overlay(path, true_image, pred_image, counts.objects, iou[0])
    return Evaluation(tuple(images), _pool(images, levels))


def write_scores(
    path: Path, scores: Sequence[Scores], *, errors: bool = False, pixels: bool = False
) -> None:
    """Write a CSV with one row per image and threshold; an existing file is replaced.

    Parameters
    ----------
    path : Path
        Output file.
    scores : sequence of Scores
        Scores of all images, or the pooled scores.
    errors, pixels : bool
        Add columns for error types and pixels. They do not depend on the threshold and
        repeat in every row of an image.
    """
    rows = [row for image in scores for row in _rows(image, errors=errors, pixels=pixels)]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    write_csv_rows(path, columns, rows, line_end="\n")


# -- counting -----------------------------------------------------------------------------


def _check_options(iou: Sequence[float], ignore_border: int) -> None:
    if not iou:
        raise InputError("No IoU threshold. Pass one or more, such as 0.5.")
    for threshold in iou:
        check_threshold(threshold)
    if ignore_border < 0:
        raise InputError(
            f"ignore_border is {ignore_border}, expected the width of a frame, px. Use 0 "
            f"for no frame, 2 for that of the NeurIPS challenge."
        )


def _count(truth: LabelImage, pred: LabelImage, border: int) -> _Counts:
    """Sum the counts over the windows of an image."""
    if truth.is_probability:
        raise InputError(
            f"{truth.title} contains floats, expected integer labels with background 0."
        )
    if truth.shape != pred.shape:
        raise InputError(
            f"{truth.title} has height and width {truth.shape}, but {pred.title} has "
            f"{pred.shape}. Expected images of the same pixels."
        )
    if pred.is_probability:
        return _count_probabilities(truth, pred)
    tables: list[Overlaps] = []
    true_border: list[Labels] = []
    pred_border: list[Labels] = []
    for window in _windows(truth, pred):
        true_labels, pred_labels = truth.read(window), pred.read(window)
        tables.append(overlaps(true_labels, pred_labels))
        true_border.append(border_labels(true_labels, border, window, truth.shape))
        pred_border.append(border_labels(pred_labels, border, window, truth.shape))
    table = add_overlaps(tables)
    inner = drop_objects(table, np.concatenate(true_border), np.concatenate(pred_border))
    return _Counts(inner, count_pixels(table), None)


def _count_probabilities(truth: LabelImage, pred: LabelImage) -> _Counts:
    pixels, levels = PixelCounts(), None
    for window in _windows(truth, pred):
        foreground, values = truth.read(window) > 0, pred.read(window)
        try:
            counts = probability_levels(foreground, values)
        except InputError as error:
            raise InputError(f"{pred.title}: {error}") from error
        levels = counts if levels is None else levels + counts
        predicted = values >= FOREGROUND
        table = overlaps(foreground.astype(np.uint32), predicted.astype(np.uint32))
        pixels += count_pixels(table)
    return _Counts(add_overlaps([]), pixels, levels)


def _windows(truth: LabelImage, pred: LabelImage, step: int = 1) -> Iterator[Window]:
    """Yield windows that cover an image and start at multiples of `step`."""
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


def _pool(images: Sequence[Scores], levels: Int64 | None) -> Scores:
    kinds = {image.errors is None for image in images}
    if len(kinds) > 1:
        raise InputError(
            "Some predictions are labels, others are probability maps (floats). Evaluate "
            "them separately."
        )
    pixels = sum((image.pixels for image in images), PixelCounts())
    if levels is not None:
        return Scores("pooled", (), None, pixels, auroc(levels))
    matches = zip(*(image.matches for image in images), strict=True)
    return Scores(
        "pooled",
        tuple(pool_matches(threshold) for threshold in matches),
        sum((image.errors for image in images if image.errors), ErrorCounts()),
        pixels,
    )


def _rows(scores: Scores, *, errors: bool, pixels: bool) -> list[dict[str, object]]:
    """Return the CSV rows of one image."""
    more: dict[str, object] = {}
    if errors and scores.errors is not None:
        counts = [field.name for field in fields(ErrorCounts)]
        more |= _columns(scores.errors, [*counts, "precision", "recall", "f1"], "errors_")
    if pixels:
        more |= _columns(scores.pixels, _PIXEL_COLUMNS, "pixels_")
        if scores.auroc is not None:
            more |= _columns(scores, ["auroc"], "pixels_")
    if not scores.matches:
        return [{"image": scores.name} | more]
    return [
        {"image": scores.name, "iou": match.threshold}
        | _columns(match, _MATCH_COLUMNS)
        | more
        for match in scores.matches
    ]


def _columns(scores: object, names: Sequence[str], prefix: str = "") -> dict[str, object]:
    """Return attributes by column: counts, and quotients with six decimals."""
    values = {prefix + name: getattr(scores, name) for name in names}
    return {n: v if isinstance(v, int) else f"{v:.6f}" for n, v in values.items()}


# -- overlay of the errors ----------------------------------------------------------------


def _write_overlay(
    path: Path, truth: LabelImage, pred: LabelImage, table: Overlaps, threshold: float
) -> None:
    from PIL import Image

    if pred.is_probability:
        raise InputError(
            f"{pred.title} is a probability map. Omit the overlay, which needs labels."
        )
    step = -(-max(truth.shape) // OVERLAY_PX)
    windows = list(_windows(truth, pred, step))
    true, predicted = (_downsample(image, windows, step) for image in (truth, pred))
    picture = draw_errors(true, predicted, table, threshold)
    with replacing(path) as part:
        Image.fromarray(picture).save(part, format="PNG")


def _downsample(image: LabelImage, windows: Sequence[Window], step: int) -> Labels:
    """Read every `step`-th pixel of a whole image."""
    height, width = image.shape
    labels = np.zeros((-(-height // step), -(-width // step)), np.uint32)
    for window in windows:
        block = image.read(window, step)
        y, x = window.y0 // step, window.x0 // step
        labels[y : y + block.shape[0], x : x + block.shape[1]] = block
    return labels
