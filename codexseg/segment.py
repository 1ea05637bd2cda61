"""Cells and nuclei of patches: on arrays, in a notebook, and of the patches of a run."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from codexseg.arrays import Labels
from codexseg.backends.base import bytes_per_px, check_result
from codexseg.config.coerce import AnyConfig, as_config
from codexseg.core.grid import Window
from codexseg.core.labels.operations import as_labels, label_boundaries
from codexseg.errors import InputError
from codexseg.stages.segment.arrays import (
    Patches,
    pixel_size,
    scaled_backend,
    slide_of_patches,
)
from codexseg.stages.segment.stage import choose_compartment

if TYPE_CHECKING:
    from codexseg.codex_patches import CodexPatches

Pixels = NDArray[Any]


class Segmented(TypedDict):
    """What `segment` returns for a patch: (y, x) uint32 each, 0 is background."""

    cell: Labels
    nucleus: Labels
    cell_boundary: Labels
    nucleus_boundary: Labels


def run_cell_segmentation(
    codex_patches: "CodexPatches", config: AnyConfig | None = None
) -> None:
    """Segment the valid patches of a run, repair and store the masks, update the metadata.

    What is done already is not done again. Afterwards `codex_patches` shows the results,
    and the run directory holds both pickles and ``patches_metadata.csv``. A patch whose
    backend raises is logged and recorded there (status, note), and its masks are empty;
    the others finish, and the next call does it again.

    Parameters
    ----------
    codex_patches : CodexPatches
        The run. Only its informative patches are segmented.
    config : Config, SegmentationConfig, mapping or path of a YAML, optional
        Replaces the run's configuration, except for its data section: the slide stays.
        A SegmentationConfig replaces this section, a mapping the keys that it names.

    Raises
    ------
    ConfigError
        If the configuration is wrong.
    RunStateError
        If the slide is not the one that the run has read.
    """
    wanted = None if config is None else as_config(config, codex_patches.config)
    codex_patches.execute(wanted, until="repair")
    codex_patches.save_seg_res()
    codex_patches.save_metadata()


def segment(
    valid_patches: ArrayLike | Sequence[ArrayLike],
    config: AnyConfig,
    *,
    image_mpp: float | None = None,
    diameter: float | Literal["auto"] | None = None,
) -> list[Segmented]:
    """Segment patches: arrays in, label images out; no slide and no run is needed.

    Parameters
    ----------
    valid_patches : (n, y, x, 2) array, or sequence of (y, x, 2) arrays of any sizes
        Channel 0 nucleus, channel 1 whole cell (zeros in all patches: there is none).
        Grey levels of at least 0; integers up to 65535, or floats. A sequence is read
        patch by patch, twice, so it may lie on disk.
    config : Config, SegmentationConfig, mapping or path of a YAML
        The section `segmentation` and `data.image_mpp` are used. With normalization
        "slide" the patches are taken together for the slide, with "patch" each alone.
        Backends that survey a slide (mesmer, panoptic) and deepcell take each alone.
    image_mpp : float, optional
        Micrometres per pixel; instead of `data.image_mpp`.
    diameter : float or "auto", optional
        Diameter of a typical cell, um; instead of `segmentation.diameter`. "auto" finds
        it on some of the patches; a pixel size that is not given is then taken for 0.5.

    Returns
    -------
    list of Segmented
        One dict for each patch: "cell", "nucleus", "cell_boundary", "nucleus_boundary",
        each (y, x) uint32.

    Raises
    ------
    ConfigError
        If the configuration is wrong or the pixel size is not given.
    InputError
        If the patches are not what is described here.
    """
    settings = as_config(config)
    if image_mpp is not None:
        settings = as_config({"data": {"image_mpp": image_mpp}}, settings)
    if diameter is not None:
        settings = as_config({"segmentation": {"diameter": diameter}}, settings)
    mpp = pixel_size(settings)
    patches = Patches(valid_patches, settings.segmentation)
    if len(patches) == 0:
        return []
    backend = scaled_backend(settings.segmentation, slide_of_patches(patches, mpp), patches)
    found: list[Segmented] = []
    y0 = 0
    budget_px = settings.segmentation.batch_memory_gb * 2**30 / bytes_per_px(backend)
    for batch in _batches(patches, budget_px):
        height, width = batch.shape[2:]
        # There is no slide to say where patches lie: one below the other.
        corners = range(y0, y0 + len(batch) * height, height)
        windows = [Window(y, 0, y + height, width) for y in corners]
        y0 += len(batch) * height
        predicted = backend.predict(batch, windows)
        labels = check_result(predicted, batch.shape, backend).labels
        for i in range(len(labels)):
            labels[i] = choose_compartment(labels[i], settings.segmentation.compartment)
        found += _described(np.moveaxis(labels, 1, -1))
    return found


def separate_masks(predictions: ArrayLike) -> tuple[list[Pixels], list[Pixels]]:
    """Separate labels of compartment "both" into cell masks and nucleus masks.

    Parameters
    ----------
    predictions : (n, y, x, 2) integer
        Channel 0 cells, channel 1 nuclei.

    Returns
    -------
    cells, nuclei : lists of n (y, x) arrays
        Views: no pixel is copied.

    Raises
    ------
    InputError
        If `predictions` has another shape or is not integer.
    """
    predictions = np.asarray(predictions)
    if predictions.ndim != 4 or predictions.shape[3] != 2:
        raise InputError(
            f"predictions have shape {predictions.shape}, expected (n, y, x, 2): channel 0 "
            f"cells, channel 1 nuclei. Use predictions[None] for a single patch."
        )
    if predictions.dtype.kind not in "iu":
        raise InputError(
            f"predictions have dtype {predictions.dtype}, expected integer labels."
        )
    return [p[..., 0] for p in predictions], [p[..., 1] for p in predictions]


def get_boundary(masks: Sequence[ArrayLike]) -> list[Labels]:
    """Return the inner boundaries of label images, with their labels.

    Parameters
    ----------
    masks : sequence of (y, x) integer arrays
        Label images, 0 is background.

    Returns
    -------
    list of (y, x) uint32
        The label on every pixel of an object that shares an edge with another label or
        with background, 0 elsewhere: skimage's find_boundaries, mode "inner".

    Raises
    ------
    InputError
        If a mask is not a label image; the message says which.
    """
    return [
        label_boundaries(as_labels(mask, f"masks[{number}]"))
        for number, mask in enumerate(masks)
    ]


# -- batches ------------------------------------------------------------------------------


def _batches(patches: Patches, budget_px: float) -> Iterator[Pixels]:
    """Yield (n, 2, y, x): patches of one shape that fit the memory budget, in order."""
    batch: list[Pixels] = []
    for patch in patches:
        pixels = np.moveaxis(patch, -1, 0)
        full = (len(batch) + 1) * pixels[0].size > budget_px
        if batch and (full or pixels.shape != batch[0].shape):
            yield _stacked(batch)
            batch = []
        batch.append(pixels)
    yield _stacked(batch)


def _stacked(batch: list[Pixels]) -> Pixels:
    # np.stack alone would keep the order of the axes in memory
    return np.stack(batch, out=np.empty((len(batch), *batch[0].shape), batch[0].dtype))


def _described(predictions: Labels) -> Iterator[Segmented]:
    cells, nuclei = separate_masks(predictions)
    for cell, nucleus, cell_boundary, nucleus_boundary in zip(
        cells, nuclei, get_boundary(cells), get_boundary(nuclei), strict=True
    ):
        yield Segmented(
            cell=cell,
            nucleus=nucleus,
            cell_boundary=cell_boundary,
            nucleus_boundary=nucleus_boundary,
        )
