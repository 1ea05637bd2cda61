"""Segment arrays in memory, and the valid patches of a run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypedDict

import numpy as np
from numpy.typing import ArrayLike

from codexseg.arrays import Columns, Labels, Pixels
from codexseg.artifacts.columns import cell_columns, conform, empty_table
from codexseg.artifacts.slide_statistics import SlideStatistics
from codexseg.backends.base import bytes_per_px
from codexseg.config.coerce import AnyConfig, as_config
from codexseg.config.schema import Config
from codexseg.core.grid import Window
from codexseg.core.labels.matching import interior, pair_table
from codexseg.core.labels.operations import as_labels, label_boundaries
from codexseg.errors import InputError
from codexseg.exports.cell_tables import unmatched_table
from codexseg.io.slides.array import ArraySlide
from codexseg.io.slides.channels import check_channels, with_channels_by_name
from codexseg.io.slides.record import Fingerprint, SlideRecord
from codexseg.stages.load import n_strips, summarize_slide, tally_strip
from codexseg.stages.profile import measure_cells
from codexseg.stages.repair import (
    choose_pairs,
    matched_labels,
    number_cells,
)
from codexseg.stages.segment.arrays import (
    Patches,
    pixel_size,
    scaled_backend,
    slide_of_patches,
)
from codexseg.stages.segment.in_memory import ImageSegmenter
from codexseg.stages.segment.prediction import predict_patches
from codexseg.workflow.measurements import measured_channels

if TYPE_CHECKING:
    from codexseg.codex_patches import CodexPatches


class Segmented(TypedDict):
    """Masks of a patch, (y, x) uint32 each; 0 is background."""

    cell: Labels
    nucleus: Labels
    cell_boundary: Labels
    nucleus_boundary: Labels


def run_cell_segmentation(
    codex_patches: "CodexPatches", config: AnyConfig | None = None
) -> None:
    """Segment the valid patches of a run, repair and store the masks, update the metadata.

    Stages that are up to date are skipped. Afterwards `codex_patches` shows the results,
    and the run directory contains both pickles and ``patches_metadata.csv``. If the
    backend raises on a patch, the error is logged and recorded there (status, note), and
    the masks of the patch are empty. The other patches finish, and the next call tries
    the patch again.

    Parameters
    ----------
    codex_patches : CodexPatches
        The run. Only its informative patches are segmented.
    config : Config, SegmentationConfig, mapping or path of a YAML, optional
        Replaces the configuration of the run, except for its data section. A
        SegmentationConfig replaces that section only, a mapping the keys that it contains.

    Raises
    ------
    ConfigError
        If the configuration is wrong.
    RunStateError
        If the slide has changed since the run was created.
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
    """Segment patches in memory, without a slide or a run.

    See :func:`segment_image` for the labels, pairs and measurements of a whole image.

    Parameters
    ----------
    valid_patches : (n, y, x, 2) array, or sequence of (y, x, 2) arrays of any sizes
        Channel 0 nucleus, channel 1 whole cell (zeros in all patches if there is none).
        Intensities of at least 0: integers up to 65535, or floats. A sequence is read
        patch by patch, twice, so it may be stored on disk.
    config : Config, SegmentationConfig, mapping or path of a YAML
        The section `segmentation` and `data.image_mpp` are used. With normalization
        "slide", all patches form the slide; with "patch", each is normalized alone.
        Backends with slide passes (mesmer, panoptic) and deepcell always take each alone.
    image_mpp : float, optional
        Micrometres per pixel; replaces `data.image_mpp`.
    diameter : float or "auto", optional
        Diameter of a typical cell, um; replaces `segmentation.diameter`. "auto" estimates
        it on some of the patches and assumes 0.5 um/px if no pixel size is given.

    Returns
    -------
    list of Segmented
        One dict for each patch: "cell", "nucleus", "cell_boundary", "nucleus_boundary",
        each (y, x) uint32.

    Raises
    ------
    ConfigError
        If the configuration is wrong or the pixel size is unknown.
    InputError
        If the patches have another shape, dtype or range.
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
        # Without a slide, the patches are placed one below the other.
        corners = range(y0, y0 + len(batch) * height, height)
        windows = [Window(y, 0, y + height, width) for y in corners]
        y0 += len(batch) * height
        compartment = settings.segmentation.compartment
        results = predict_patches(backend, batch, windows, compartment)
        found += (_described(result.labels) for result in results)
    return found


@dataclass(frozen=True, eq=False)
class SegmentedImage:
    """Labels, pairs and measurements of one image, as a run gives them.

    Attributes
    ----------
    cell, nucleus : (y, x) uint32
        Matched labels: a nucleus has the number of its cell, 1 to n in raster order.
    cell_original, nucleus_original : (y, x) uint32
        Labels of all detected objects.
    cells : mapping of str to (n,) array
        The table of cells: the columns of ``cells.csv``. ``cell_original_id`` and
        ``nucleus_original_id`` are the pairs; 0: no nucleus.
    unmatched : mapping of str to (m,) array
        Objects without a partner: the columns of ``unmatched.parquet``.
    """

    cell: Labels
    nucleus: Labels
    cell_original: Labels
    nucleus_original: Labels
    cells: Columns
    unmatched: Columns


def segment_image(
    pixels: ArrayLike,
    mpp: float,
    backend: str | None = None,
    *,
    channel_names: Sequence[str] = ("nucleus", "wholecell"),
    config: AnyConfig | None = None,
) -> SegmentedImage:
    """Segment, pair and measure one image in memory, without a run directory.

    The result equals that of a run of the same image and configuration.

    Parameters
    ----------
    pixels : (c, y, x) uint8, uint16 or float32
        The channels of the image.
    mpp : float
        Micrometres per pixel.
    backend : str, optional
        Name of the backend; by default that of the configuration.
    channel_names : sequence of str
        Names of the channels, at least c. By default the first channel shows nuclei, the
        second whole cells.
    config : Config, SegmentationConfig, mapping or path of a YAML, optional
        Its sections channels, segmentation, repair and profile are used. By default the
        first channel is the nuclear channel, and all others are whole-cell markers.

    Raises
    ------
    ConfigError
        If the configuration is wrong.
    InputError
        If the image, or the result of the backend, is invalid.
    """
    image = _as_slide(np.asarray(pixels), channel_names, mpp)
    settings = _image_config(image.channel_names, backend, config)
    record = SlideRecord(
        files=("array",),
        shape=image.shape,
        channel_names=image.channel_names,
        mpp=mpp,
        dtype=str(image.dtype),
        fingerprint=Fingerprint(int(np.asarray(pixels).nbytes), 0, image.fingerprint()),
    )
    strips = [tally_strip(image, record, settings, n) for n in range(n_strips(record))]
    tables, _ = summarize_slide(record, settings, strips)
    statistics = SlideStatistics.combine(tables, strips, settings, record)
    segmenter = ImageSegmenter(image, mpp, settings, statistics)
    return _pair_and_measure(image, mpp, settings, segmenter)


def _as_slide(pixels: Pixels, names: Sequence[str], mpp: float) -> ArraySlide:
    if pixels.ndim != 3:
        raise InputError(
            f"The image has shape {pixels.shape}. Expected (c, y, x): use pixels[None] for "
            f"one channel."
        )
    if len(names) < len(pixels):
        raise InputError(
            f"The image has {len(pixels)} channels, but {len(names)} names. Pass one name "
            f"per channel as channel_names."
        )
    return ArraySlide(pixels, names[: len(pixels)], mpp)


def _image_config(
    names: Sequence[str], backend: str | None, config: AnyConfig | None
) -> Config:
    nucleus, *markers = names
    channels = {"nuclear_channel": nucleus, "wholecell_channel": markers}
    settings = as_config({"channels": channels} if config is None else config)
    if backend is not None:
        settings = as_config({"segmentation": {"backend": backend}}, settings)
    check_channels(settings, names)
    return with_channels_by_name(settings, names)


def _pair_and_measure(
    image: ArraySlide, mpp: float, config: Config, segmenter: ImageSegmenter
) -> SegmentedImage:
    """Pair the objects of an image, and number and measure the cells."""
    objects, original, same_label = segmenter.objects()
    cells, nuclei = objects.values()
    pairable = interior(original["cell"]) if same_label is None else same_label
    choice = choose_pairs(
        cells,
        nuclei,
        pair_table(original["cell"], original["nucleus"], interior=pairable),
        config.repair,
        by_label=same_label is not None,
        keep_all_cells=config.segmentation.compartment == "whole-cell",
    )
    index = number_cells(cells, nuclei, choice, segmenter.grid)
    matched = matched_labels(original["cell"], original["nucleus"], pairable, index)
    channels = measured_channels(config.profile, image.channel_names)
    columns = cell_columns(
        [*channels],
        config.profile.statistics,
        solidity=config.profile.solidity,
        object_columns=segmenter.object_columns,
    )
    table = empty_table(columns)
    if len(index):
        measured = measure_cells(
            index,
            np.arange(len(index)),
            matched,
            image.read,
            segmenter.window,
            shape=segmenter.grid.shape,
            mpp=mpp,
            channels=channels,
            settings=config.profile,
        )
        table = conform(measured, columns)
    return SegmentedImage(
        cell=matched["cell"],
        nucleus=matched["nucleus"],
        cell_original=original["cell"],
        nucleus_original=original["nucleus"],
        cells=table,
        unmatched=unmatched_table(index.unmatched),
    )


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
        If a mask is not a label image; the message contains its number.
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


def _described(labels: Labels) -> Segmented:
    cell, nucleus = labels
    cell_boundary, nucleus_boundary = get_boundary([cell, nucleus])
    return Segmented(
        cell=cell,
        nucleus=nucleus,
        cell_boundary=cell_boundary,
        nucleus_boundary=nucleus_boundary,
    )
