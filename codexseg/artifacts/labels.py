"""Label images of the whole slide: ``segmentation.ome.zarr`` (stages stitch and repair)."""

from collections.abc import Sequence

from codexseg.arrays import Labels
from codexseg.artifacts.columns import COMPARTMENTS
from codexseg.core.grid import Window
from codexseg.io.labels.store import LabelStore
from codexseg.run.directory import Run

ORIGINAL = {name: f"{name}_original" for name in COMPARTMENTS}
"""Label images of all detected objects, by compartment."""
LABEL_NAMES = (*COMPARTMENTS, *ORIGINAL.values())
"""All label images; the matched ones first, as viewers list them."""


def slide_labels(run: Run) -> LabelStore:
    """Return the label images of a run."""
    return LabelStore(run.segmentation_path)


def read_original(labels: LabelStore, window: Window) -> tuple[Labels, Labels]:
    """Read cells and nuclei before matching, (y, x) uint32 each."""
    cells, nuclei = (labels.read(name, window) for name in ORIGINAL.values())
    return cells, nuclei


def label_folders(run: Run, names: Sequence[str]) -> list[str]:
    """Return the folders of label images, relative to the run directory."""
    return [f"{run.segmentation_path.name}/labels/{name}" for name in names]
