"""Results of a comparison and its output files."""

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from codexseg.arrays import Labels
from codexseg.comparison.figure import outline_image, side_by_side
from codexseg.comparison.window import ComparisonWindow
from codexseg.core.grid import Window
from codexseg.errors import InputError
from codexseg.exports.deflate import deflate
from codexseg.io.csv_writer import write_csv_rows
from codexseg.io.tiff_writer import split_tiles, write_tiled_tiff
from codexseg.run.files import replacing

COUNTS = ("cells", "nuclei", "pairs", "cpu_s")
FIGURE, TABLE = "compare.png", "scores.csv"

References = Mapping[str, Labels]
"""Reference labels (y, x) uint32 by compartment: cell, nucleus."""


@dataclass(frozen=True)
class BackendOutcome:
    """Result of one backend.

    Attributes
    ----------
    name : str
        Name of the backend.
    state : str
        done, failed or unavailable.
    reason : str
        Error message, empty if done.
    cells, nuclei : (y, x) uint32
        Labels of all detected objects; empty arrays if not done.
    metrics : dict
        :data:`COUNTS`, the metrics of `codexseg.core.metrics.reference_free`, scores
        against reference labels such as ``cells_precision`` and ``nuclei_f1``, and
        agreement with other backends such as ``f1_with_mesmer``.
    """

    name: str
    state: str = "done"
    reason: str = ""
    cells: Labels = field(default_factory=lambda: np.zeros((0, 0), np.uint32))
    nuclei: Labels = field(default_factory=lambda: np.zeros((0, 0), np.uint32))
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """Results of all backends on one window.

    Attributes
    ----------
    window : Window
        Segmented window, in px of the image.
    shape : (int, int)
        Height and width of the image, px.
    outcomes : tuple of BackendOutcome
        One per backend, in the order of the request.
    files : tuple of Path
        Output files.
    """

    window: Window
    shape: tuple[int, int]
    outcomes: tuple[BackendOutcome, ...]
    files: tuple[Path, ...] = ()

    @property
    def done(self) -> tuple[BackendOutcome, ...]:
        """Outcomes of the backends that segmented the window."""
        return tuple(outcome for outcome in self.outcomes if outcome.state == "done")


def slug(name: str) -> str:
    """Return the prefix of a backend's file names."""
    return re.sub(r"[^\w.-]+", "_", name)


def check_targets(out: Path, backends: Sequence[str], *, overwrite: bool) -> None:
    """Check that the outputs do not replace existing files.

    Raises
    ------
    InputError
        If a file exists and `overwrite` is False, or `out` is a file.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file, expected a folder. Choose another --out.")
    kinds = ("cells.tif", "nuclei.tif", "outlines.png")
    targets = [out / f"{slug(name)}_{kind}" for name in backends for kind in kinds]
    present = [p.name for p in (out / FIGURE, out / TABLE, *targets) if p.exists()]
    if present and not overwrite:
        raise InputError(
            f"{out} already contains {', '.join(present)}. Use --overwrite to replace "
            f"them, or choose another --out."
        )


def scratch_folder(out: Path) -> TemporaryDirectory[str]:
    """Create a temporary folder beside the output folder.

    Raises
    ------
    InputError
        If the parent of the output folder cannot be created or written.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        return TemporaryDirectory(prefix=".compare-", dir=out.parent)
    except OSError as error:
        raise InputError(
            f"{out.parent} cannot be written ({error.strerror}). Choose a writable "
            f"folder, with another --out."
        ) from error


def write_outputs(
    folder: Path, window: ComparisonWindow, result: Comparison, references: References
) -> None:
    """Write all outputs into a folder, which is created."""
    from PIL import Image

    folder.mkdir()
    _write_table(folder / TABLE, result.outcomes)
    panels = {outcome.name: (outcome.cells, outcome.nuclei) for outcome in result.done}
    for name, (cells, nuclei) in panels.items():
        for kind, labels in (("cells", cells), ("nuclei", nuclei)):
            _write_labels(folder / f"{slug(name)}_{kind}.tif", labels, window.mpp)
        outlines = Image.fromarray(outline_image(cells, nuclei))
        outlines.save(folder / f"{slug(name)}_outlines.png")
    if references:
        empty = np.zeros(result.window.shape, np.uint32)
        panels["truth"] = references.get("cell", empty), references.get("nucleus", empty)
    Image.fromarray(side_by_side(window.read(), panels)).save(folder / FIGURE)


def _write_labels(path: Path, labels: Labels, mpp: float | None) -> None:
    tiles = map(deflate, split_tiles(labels))
    write_tiled_tiff(path, [labels.shape], tiles, np.uint32, mpp=mpp)


def _write_table(path: Path, outcomes: Sequence[BackendOutcome]) -> None:
    names = dict.fromkeys(name for outcome in outcomes for name in outcome.metrics)
    rows = (
        {"backend": outcome.name, "state": outcome.state, "reason": outcome.reason}
        | {name: _format(name, outcome.metrics.get(name)) for name in names}
        for outcome in outcomes
    )
    write_csv_rows(path, ["backend", "state", "reason", *names], rows)


def _format(name: str, value: float | None) -> str:
    if value is None or np.isnan(value):
        return ""
    return f"{value:.0f}" if name in ("cells", "nuclei", "pairs") else f"{value:.6g}"


def move_files(folder: Path, out: Path) -> tuple[Path, ...]:
    """Copy files atomically to the output folder, figure and table last."""
    order = sorted(folder.iterdir(), key=lambda p: (p.name in (FIGURE, TABLE), p.name))
    targets = []
    for path in order:
        targets.append(out / path.name)
        with replacing(targets[-1]) as part:
            shutil.copyfile(path, part)
    return tuple(targets)
