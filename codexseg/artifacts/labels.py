"""Label images of the whole slide: ``segmentation.ome.zarr`` (stages stitch and repair)."""

from collections.abc import Sequence

import numpy as np

from codexseg.arrays import Labels, Mask
from codexseg.artifacts.columns import COMPARTMENTS
from codexseg.core.grid import Window
from codexseg.io.labels.store import LabelStore
from codexseg.run.directory import Run
from codexseg.run.records import StageRecords

ORIGINAL = {name: f"{name}_original" for name in COMPARTMENTS}
"""Label images of all detected objects, by compartment."""
LABEL_NAMES = (*COMPARTMENTS, *ORIGINAL.values())
"""All label images; the matched ones first, as viewers list them."""


def slide_labels(run: Run) -> LabelStore:
    """Return the label images of a run."""
    return LabelStore(run.segmentation_path)


def read_original(labels: LabelStore, window: Window) -> Labels:
    """Read cells and nuclei before matching, (2, y, x) uint32."""
    return np.stack([labels.read(name, window) for name in ORIGINAL.values()])


def label_folders(run: Run, names: Sequence[str]) -> list[str]:
    """Return the folders of label images, relative to the run directory."""
    return [f"{run.segmentation_path.name}/labels/{name}" for name in names]


def write_same_label(records: StageRecords, patch: int, same_label: Mask) -> None:
    """Write where cell and nucleus have one label in a core, (y, x) bool."""
    records.write_columns(patch, {"same_label": np.packbits(same_label)})


def read_same_label(records: StageRecords, patch: int, shape: tuple[int, int]) -> Mask:
    """Read where cell and nucleus have one label in a core, (y, x) bool."""
    bits = records.read_columns(patch)["same_label"]
    height, width = shape
    return np.unpackbits(bits, count=height * width).reshape(shape).astype(np.bool_)
