"""Pictures of a training: its curves, and what the network makes of some images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codexseg.run.files import replacing
from codexseg.training.history import HELD

_TITLES = {"iou": "IoU", "dice": "Dice", "loss": "loss"}
_SIDE = 2.6


@dataclass(frozen=True)
class Sample:
    """An image that was held back, and what the network makes of it.

    Attributes
    ----------
    title : str
        The name of the image, and of what.
    image : (y, x) or (y, x, 3) float
        From 0 to 1.
    truth, found : (y, x) float
        Foreground, and its probability.
    """

    title: str
    image: NDArray[np.floating]
    truth: NDArray[np.floating]
    found: NDArray[np.floating]


def draw_curves(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draw IoU, Dice and loss by epoch, of training and of held-back images, as PNG."""
    from matplotlib.figure import Figure

    if not rows:
        return
    names = [name for name in _TITLES if any(name in row for row in rows)]
    figure = Figure(figsize=(4.2 * len(names), 3.4), layout="constrained")
    axes = figure.subplots(1, len(names), squeeze=False)[0]
    for panel, name in zip(axes, names, strict=True):
        for key, label in ((name, "training"), (HELD + name, "held back")):
            drawn = [(row["epoch"] + 1, row[key]) for row in rows if key in row]
            if drawn:
                panel.plot(*zip(*drawn, strict=True), label=label, marker=".")
        panel.set(title=_TITLES[name], xlabel="epoch")
        if name != "loss":
            panel.set_ylim(0, 1)
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.grid(alpha=0.3)
    axes[0].legend()
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=110)


def draw_samples(samples: Sequence[Sample], path: Path) -> None:
    """Draw image, truth and prediction side by side, a row for each sample, as PNG."""
    from matplotlib.figure import Figure

    if not samples:
        return
    figure = Figure(figsize=(3 * _SIDE, _SIDE * len(samples)), layout="constrained")
    axes = figure.subplots(len(samples), 3, squeeze=False)
    for row, sample in zip(axes, samples, strict=True):
        shown = (sample.image, sample.truth, sample.found)
        for panel, picture, word in zip(
            row, shown, ("", "truth", "prediction"), strict=True
        ):
            panel.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            panel.set_title(word or sample.title, fontsize=8)
            panel.set_axis_off()
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=110)
