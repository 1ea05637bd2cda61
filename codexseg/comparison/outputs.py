"""What a comparison has to show, and the files that show it."""

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from codexseg.comparison.figure import outlines_alone, side_by_side
from codexseg.comparison.window import Scene
from codexseg.core.grid import Window
from codexseg.core.labels.operations import Labels
from codexseg.errors import InputError
from codexseg.exports.deflate import deflate
from codexseg.io.csv_writer import write_csv_rows
from codexseg.io.tiff_writer import split_tiles, write_tiled_tiff
from codexseg.run.files import replacing

COUNTS = ("cells", "nuclei", "pairs", "cpu_s")
PICTURE, TABLE = "compare.png", "scores.csv"

Truths = Mapping[str, Labels]


@dataclass(frozen=True)
class Outcome:
    """What became of one backend.

    Attributes
    ----------
    name : str
        Of the backend.
    state : str
        done, failed or unavailable.
    reason : str
        Why it is not done.
    cells, nuclei : (y, x) uint32
        Everything that it found; empty arrays where it is not done.
    figures : dict
        :data:`COUNTS`, the figures of `codexseg.core.metrics.reference_free`, those
        against a truth
        as ``cells_precision`` or ``nuclei_f1``, those against the others as ``f1_with_X``.
    """

    name: str
    state: str = "done"
    reason: str = ""
    cells: Labels = field(default_factory=lambda: np.zeros((0, 0), np.uint32))
    nuclei: Labels = field(default_factory=lambda: np.zeros((0, 0), np.uint32))
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """What a comparison has to show.

    Attributes
    ----------
    window : Window
        What was segmented, px of the image.
    shape : (int, int)
        Height and width of the image, px.
    outcomes : tuple of Outcome
        In the order that was asked for.
    files : tuple of Path
        What was written.
    """

    window: Window
    shape: tuple[int, int]
    outcomes: tuple[Outcome, ...]
    files: tuple[Path, ...] = ()

    @property
    def done(self) -> tuple[Outcome, ...]:
        """The backends that segmented the image."""
        return tuple(one for one in self.outcomes if one.state == "done")


def slug(name: str) -> str:
    """Return what the files of a backend are called after."""
    return re.sub(r"[^\w.-]+", "_", name)


def check_targets(out: Path, names: Mapping[str, str], *, overwrite: bool) -> None:
    """Refuse a folder that holds files of the outputs' names.

    Raises
    ------
    InputError
        If it does, or is no folder.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file, expected a folder; choose another --out.")
    kinds = ("cells.tif", "nuclei.tif", "outlines.png")
    targets = [out / f"{name}_{kind}" for name in names.values() for kind in kinds]
    present = [p.name for p in (out / PICTURE, out / TABLE, *targets) if p.exists()]
    if present and not overwrite:
        raise InputError(
            f"{out} holds {', '.join(present)} already, expected no file of that name: "
            f"replace what is there with --overwrite, or choose another --out."
        )


def make_parent(out: Path) -> None:
    """Make the folder in which a folder is to be, and try whether it can be written.

    Raises
    ------
    InputError
        If not.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".compare-", dir=out.parent):
            pass
    except OSError as error:
        raise InputError(
            f"{out.parent} cannot be written ({error.strerror}), expected a writable "
            f"place; choose another --out."
        ) from error


def write_files(folder: Path, scene: Scene, result: Comparison, truths: Truths) -> None:
    """Write all outputs into a folder."""
    from PIL import Image

    folder.mkdir()
    _write_table(folder / TABLE, result.outcomes)
    shown = {one.name: (one.cells, one.nuclei) for one in result.done}
    for name, both in shown.items():
        for kind, labels in zip(("cells", "nuclei"), both, strict=True):
            _write_labels(folder / f"{slug(name)}_{kind}.tif", labels, scene.mpp)
        alone = Image.fromarray(outlines_alone(*both))
        alone.save(folder / f"{slug(name)}_outlines.png")
    if truths:
        nothing = np.zeros(result.window.shape, np.uint32)
        shown["truth"] = truths.get("cell", nothing), truths.get("nucleus", nothing)
    Image.fromarray(side_by_side(scene.read(), shown)).save(folder / PICTURE)


def _write_labels(path: Path, labels: Labels, mpp: float | None) -> None:
    tiles = map(deflate, split_tiles(labels))
    write_tiled_tiff(path, [labels.shape], tiles, np.uint32, mpp=mpp)


def _write_table(path: Path, outcomes: Sequence[Outcome]) -> None:
    names = dict.fromkeys(name for one in outcomes for name in one.figures)
    rows = (
        {"backend": outcome.name, "state": outcome.state, "reason": outcome.reason}
        | {name: _written(name, outcome.figures.get(name)) for name in names}
        for outcome in outcomes
    )
    write_csv_rows(path, ["backend", "state", "reason", *names], rows)


def _written(name: str, value: float | None) -> str:
    if value is None or np.isnan(value):
        return ""
    return f"{value:.0f}" if name in ("cells", "nuclei", "pairs") else f"{value:.6g}"


def move_files(folder: Path, out: Path) -> tuple[Path, ...]:
    """Put files in their place, each whole; the picture and the table come last."""
    order = sorted(folder.iterdir(), key=lambda p: (p.name in (PICTURE, TABLE), p.name))
    targets = []
    for path in order:
        targets.append(out / path.name)
        with replacing(targets[-1]) as part:
            shutil.copyfile(path, part)
    return tuple(targets)
