"""Figures of a training: its curves, and predictions on validation images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codexseg.run.files import replacing
from codexseg.training.history import VALIDATION

_TITLES = {"iou": "IoU", "dice": "Dice", "loss": "loss"}
_SIDE = 2.6


@dataclass(frozen=True)
class PredictedImage:
    """Prediction on a validation image.

    Attributes
    ----------
    title : str
        Name of the image and of the compartment.
    image : (y, x) or (y, x, 3) float
        From 0 to 1.
    truth, probability : (y, x) float
        True foreground, and its predicted probability.
    """

    title: str
    image: NDArray[np.floating]
    truth: NDArray[np.floating]
    probability: NDArray[np.floating]


def evenly_spaced(count: int, max_count: int) -> list[int]:
    """Return at most `max_count` indices of `count` images, evenly spaced."""
    return [int(i) for i in np.linspace(0, count - 1, min(count, max_count), dtype=int)]


def draw_curves(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Plot IoU, Dice and loss of training and validation by epoch, as PNG."""
    from matplotlib.figure import Figure

    if not rows:
        return
    names = [name for name in _TITLES if any(name in row for row in rows)]
    figure = Figure(figsize=(4.2 * len(names), 3.4), layout="constrained")
    axes = figure.subplots(1, len(names), squeeze=False)[0]
    for panel, name in zip(axes, names, strict=True):
        for key, label in ((name, "training"), (VALIDATION + name, "validation")):
            points = [(row["epoch"] + 1, row[key]) for row in rows if key in row]
            if points:
                panel.plot(*zip(*points, strict=True), label=label, marker=".")
        panel.set(title=_TITLES[name], xlabel="epoch")
        if name != "loss":
            panel.set_ylim(0, 1)
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.grid(alpha=0.3)
    axes[0].legend()
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=110)


def draw_predictions(predictions: Sequence[PredictedImage], path: Path) -> None:
    """Draw image, truth and prediction side by side, one row each, as PNG."""
    from matplotlib.figure import Figure

    if not predictions:
        return
    rows = len(predictions)
    figure = Figure(figsize=(3 * _SIDE, _SIDE * rows), layout="constrained")
    axes = figure.subplots(rows, 3, squeeze=False)
    for row, prediction in zip(axes, predictions, strict=True):
        columns = (
            (prediction.title, prediction.image),
            ("truth", prediction.truth),
            ("prediction", prediction.probability),
        )
        for panel, (title, image) in zip(row, columns, strict=True):
            panel.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            panel.set_title(title, fontsize=8)
            panel.set_axis_off()
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=110)
