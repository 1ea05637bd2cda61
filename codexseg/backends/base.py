"""Segmentation backend interface: pixels of patches in, labels of cells and nuclei out.

A backend that needs statistics of the whole slide, or shares work between patches, is a
:class:`WholeSlideBackend`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from codexseg.arrays import Columns, Labels, Pixels
from codexseg.backends.slide_pass import SlidePass, SlideView
from codexseg.core.grid import Window
from codexseg.errors import ConfigError, InputError

BYTES_PER_PX = 64
"""Memory of a backend per pixel, images and labels included: a cautious estimate."""
MIN_ENLARGEMENT, MAX_ENLARGEMENT = 1 / 64, 16.0
"""Range of the scaling factors from the slide to the image of a model."""
CELL_UM, NUCLEUS_UM = 10.0, 7.0
"""Diameter of typical cells and nuclei in the training data of the networks, um."""
COMPARTMENT_NAMES = ("cell", "nucleus")
"""Compartments in the order of the label planes of a patch."""
COLUMN_DTYPES = (
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    "float32",
    "float64",
)
"""Data types that a backend can declare for a column per object."""


@dataclass(frozen=True)
class ChannelStatistics:
    """Statistics of a segmentation channel over the whole slide, in intensities."""

    minimum: float
    maximum: float
    background: float
    noise: float
    p999: float


@dataclass(frozen=True)
class SlideContext:
    """Properties of the slide that a backend is made for.

    Attributes
    ----------
    shape : (int, int)
        Height and width, px.
    mpp : float
        Pixel size as shown to the backend, um. With `segmentation.diameter`, the pixel
        size at which cells have the diameter that the backend expects.
    nucleus, wholecell : ChannelStatistics or None
        Statistics of the segmentation channels, in the intensities of the patches. None:
        the slide has not been read yet, or there is no such channel.
    has_wholecell, has_nucleus : bool
        Whether the slide has the channel.
    """

    shape: tuple[int, int]
    mpp: float
    nucleus: ChannelStatistics | None = None
    wholecell: ChannelStatistics | None = None
    has_wholecell: bool = True
    has_nucleus: bool = True


@dataclass(frozen=True)
class BackendResult:
    """Labels of patches, with columns per object.

    Attributes
    ----------
    labels : (n, 2, y, x) uint32
        Compartment 0 cells, 1 nuclei; 0 is background. One window: (2, y, x).
    columns : sequence of n mappings
        One per patch: compartment ("cell", "nucleus") to table. A table maps "label" to
        the labels of k objects, (k,) uint32, and every name that the backend declares in
        `object_columns` to k values. Compartments may be missing. Empty: no values.
    """

    labels: Labels
    columns: Sequence[Mapping[str, Columns]] = ()


@runtime_checkable
class Backend(Protocol):
    """Segmentation of patches.

    The class is called with (segmentation config, :class:`SlideContext`). This is cheap:
    weights are loaded by the first `predict`, once per worker.

    Attributes
    ----------
    name : str
        Value of `segmentation.backend`.
    mpp : float or None
        Pixel size that it is made for, um; None: any.
    halo_px : int
        Margin around the core of a patch that it needs, px of the slide.
    context_px : int
        Distance from a cut edge within which labels may differ from those of the uncut
        slide, px. Optional: half the halo by default.
    channels : tuple of str
        Channels that it reads: ("nucleus",) or ("nucleus", "wholecell").
    paired : bool
        Whether label i of the cells and label i of the nuclei are one cell. Optional:
        False by default.
    bytes_per_px : int
        Memory per pixel of a batch. Optional.
    about : mapping
        Weights and licence, for the manifest of a run. Optional.
    diameter_um : float
        Diameter of the circle with the area of a typical cell in the training data (with
        compartment "nuclear", of a nucleus), um at the `mpp` of the slide. Optional:
        without it `segmentation.diameter` is refused.
    needs_nucleus : bool
        Whether it finds no objects without nuclei. Optional: True by default if it reads
        "nucleus".
    object_columns : mapping of str to str
        Names and data types of the values that it returns for each object, such as
        ``{"confidence": "float32", "class": "int32"}``. Optional: no values by default.
    warnings : class method
        ``warnings(config)`` yields
        :class:`codexseg.backends.registry.BackendWarning` for settings that are allowed
        and probably a mistake. Optional.
    """

    name: str
    mpp: float | None
    halo_px: int
    channels: tuple[str, ...]

    def fingerprint(self) -> str:
        """Return a name of the version and the weights.

        Labels depend on it and on the configuration only.
        """

    def predict(self, patches: Pixels, windows: Sequence[Window]) -> Labels | BackendResult:
        """Segment patches of one shape.

        Parameters
        ----------
        patches : (n, 2, y, x) uint8, uint16 or float32
            Channel 0 nucleus, channel 1 whole cell (zeros if there is none).
        windows : sequence of n windows
            Positions of the patches on the slide.

        Returns
        -------
        (n, 2, y, x) integer, or BackendResult
            Labels in a new array: compartment 0 cells, 1 nuclei; 0 is background. A
            :class:`BackendResult` adds columns per object.
        """


@runtime_checkable
class WholeSlideBackend(Backend, Protocol):
    """Backend that passes over the slide before it segments windows.

    Attributes
    ----------
    slide_passes : sequence of SlidePass
        In order of execution. Empty: `predict` is used.
    """

    slide_passes: Sequence[SlidePass]

    def segment_window(self, window: Window, slide: SlideView) -> Labels | BackendResult:
        """Segment a window of the slide.

        Returns
        -------
        (2, y, x) integer, or BackendResult
            Labels of cells and nuclei. The `columns` of a result have one item.
        """


def slide_passes_of(backend: Backend) -> Sequence[SlidePass]:
    """Return the slide passes of a backend; most have none."""
    return backend.slide_passes if isinstance(backend, WholeSlideBackend) else ()


def bytes_per_px(backend: Backend) -> int:
    """Return the memory that a backend needs per pixel of a batch."""
    return int(getattr(backend, "bytes_per_px", BYTES_PER_PX))


def context_px(backend: Backend) -> int:
    """Return the distance from a cut edge within which labels may be wrong, px."""
    return int(getattr(backend, "context_px", (backend.halo_px + 1) // 2))


def needs_nucleus(backend: Backend) -> bool:
    """Return whether a backend finds no objects without nuclei."""
    return bool(getattr(backend, "needs_nucleus", "nucleus" in backend.channels))


def is_paired(backend: Backend) -> bool:
    """Return whether equal labels in both compartments are one cell."""
    return bool(getattr(backend, "paired", False))


def enlargement(slide: SlideContext, mpp: float) -> float:
    """Return the scaling factor from the slide to the image of a model.

    Parameters
    ----------
    slide : SlideContext
        Its `mpp` is used.
    mpp : float
        Pixel size of the model, um.

    Raises
    ------
    InputError
        If the image would be too large, or too small for cells.
    """
    factor = slide.mpp / mpp
    if not MIN_ENLARGEMENT <= factor <= MAX_ENLARGEMENT:
        raise InputError(
            f"The slide would be enlarged by a factor of {factor:.3g}, from "
            f"{slide.mpp:.3g} to {mpp:g} um per px. Expected a factor from "
            f"{MIN_ENLARGEMENT:.2g} to {MAX_ENLARGEMENT:g}. Correct the pixel size "
            f"(data.image_mpp) or segmentation.diameter."
        )
    return factor


def diameter_um(backend: Backend) -> float:
    """Return the diameter of the cells that a backend is made for, um.

    Raises
    ------
    ConfigError
        If it has no `diameter_um`.
    """
    diameter = getattr(backend, "diameter_um", None)
    if diameter is None:
        raise ConfigError(
            f"segmentation.diameter is set, and the backend {backend.name!r} has no known "
            f"cell size. Set it to null, and correct data.image_mpp if cells are split or "
            f"merged."
        )
    return float(diameter)


def check_labels(labels: Any, shape: tuple[int, ...], name: str) -> Labels:
    """Check the labels that a backend returned and convert them to uint32.

    Raises
    ------
    InputError
        If shape or dtype break the contract, or a label is negative or exceeds 32 bits.
    """
    n, _, height, width = shape
    expected = (n, 2, height, width)
    if not isinstance(labels, np.ndarray) or labels.shape != expected:
        got = getattr(labels, "shape", type(labels).__name__)
        raise InputError(
            f"Backend {name!r} returned {got}, expected labels of shape {expected}: "
            f"(patch, compartment, y, x), compartment 0 cells, 1 nuclei."
        )
    if labels.dtype.kind not in "iu":
        raise InputError(
            f"Backend {name!r} returned labels of dtype {labels.dtype}. Expected integers."
        )
    if labels.size and labels.dtype != np.uint32:
        lowest, highest = int(labels.min()), int(labels.max())
        if lowest < 0 or highest >= 2**32:
            raise InputError(
                f"Backend {name!r} returned labels from {lowest} to {highest}. Expected "
                f"0 (background) to {2**32 - 1}."
            )
    return np.require(labels, np.uint32, "W")


def object_columns_of(backend: Any) -> dict[str, str]:
    """Return the columns per object that a backend declares, name to data type.

    Parameters
    ----------
    backend : Backend or its class

    Raises
    ------
    ConfigError
        If `object_columns` is no mapping, a name is not a lower-case identifier, or a data
        type is not one of :data:`COLUMN_DTYPES`.
    """
    declared = getattr(backend, "object_columns", {})
    owner = f"Backend {backend.name!r}"
    if not isinstance(declared, Mapping):
        raise ConfigError(
            f"{owner} declares object_columns as {declared!r}. Expected a mapping of names "
            f"to data types."
        )
    for name, dtype in declared.items():
        if not isinstance(name, str) or not re.fullmatch("[a-z][a-z0-9_]*", name):
            raise ConfigError(
                f"{owner} declares the column {name!r}. Expected lower-case letters, "
                f"digits and underscores, the first one a letter."
            )
        if name == "label":
            raise ConfigError(
                f"{owner} declares the column 'label', which is reserved for the labels of "
                f"the objects. Choose another name."
            )
        if not isinstance(dtype, str) or dtype not in COLUMN_DTYPES:
            raise ConfigError(
                f"{owner} declares the column {name!r} with dtype {dtype!r}. Expected one "
                f"of {', '.join(COLUMN_DTYPES)}."
            )
    return dict(declared)


def check_result(result: Any, shape: tuple[int, ...], backend: Backend) -> BackendResult:
    """Check the result of `predict` or `segment_window` and complete its columns.

    Parameters
    ----------
    result : array or BackendResult
    shape : (n, 2, y, x) of patches, or (2, y, x) of one window
    backend : Backend
        Its `name` appears in errors; its `object_columns` are expected.

    Returns
    -------
    BackendResult
        Labels of `shape`, writable uint32. `columns` has an item per patch, each with a
        table for both compartments: "label" and all declared columns, in the declared data
        types, sorted by label. Rows of labels that do not occur in the image are dropped.

    Raises
    ------
    InputError
        If labels or columns break the contract of :class:`BackendResult`.
    ConfigError
        If the declaration of the columns is invalid.
    """
    is_window = len(shape) == 3
    if not isinstance(result, BackendResult):
        result = BackendResult(result)
    labels, columns = result.labels, tuple(result.columns)
    if is_window:
        shape = (1, *shape)
        labels = labels[None] if isinstance(labels, np.ndarray) else labels
    labels = check_labels(labels, shape, backend.name)
    declared = object_columns_of(backend)
    if columns and len(columns) != len(labels):
        raise InputError(
            f"Backend {backend.name!r} returned columns for {len(columns)} patches. "
            f"Expected {len(labels)}, one mapping per patch."
        )
    tables = []
    for planes, patch in zip(labels, columns or ({},) * len(labels), strict=True):
        if not isinstance(patch, Mapping) or not set(patch) <= set(COMPARTMENT_NAMES):
            raise InputError(
                f"Backend {backend.name!r} returned the columns {patch!r} for a patch. "
                f"Expected a mapping of {' and '.join(map(repr, COMPARTMENT_NAMES))} to "
                f"tables."
            )
        tables.append(
            {
                name: _checked_table(patch.get(name), plane, declared, backend.name)
                for name, plane in zip(COMPARTMENT_NAMES, planes, strict=True)
            }
        )
    return BackendResult(labels[0] if is_window else labels, tuple(tables))


def _checked_table(
    table: Any, plane: Labels, declared: Mapping[str, str], backend: str
) -> dict[str, NDArray[Any]]:
    """Return the declared columns of the objects in a label plane, sorted by label."""
    from codexseg.core.labels.operations import object_table  # compiles kernels

    expected = {"label": "uint32", **declared}
    if table is None:
        return {name: np.zeros(0, dtype) for name, dtype in expected.items()}
    if not isinstance(table, Mapping) or set(table) != set(expected):
        names = ", ".join(map(repr, table)) if isinstance(table, Mapping) else repr(table)
        raise InputError(
            f"Backend {backend!r} returned the columns {names or 'none'}. Expected 'label' "
            f"and all columns that it declares in object_columns: {', '.join(expected)}."
        )
    columns = {
        name: _checked_column(np.asarray(table[name]), np.dtype(dtype), name, backend)
        for name, dtype in expected.items()
    }
    lengths = {name: len(column) for name, column in columns.items()}
    if len({*lengths.values()}) > 1:
        raise InputError(
            f"Backend {backend!r} returned columns of different lengths: {lengths}. "
            f"Expected one value per object in each."
        )
    label = columns["label"]
    if not label.all() or np.unique(label).size < label.size:
        raise InputError(
            f"Backend {backend!r} returned a column 'label' with 0 or a repeated label. "
            f"Expected every object once; 0 is background."
        )
    order = np.argsort(label)
    order = order[np.isin(label[order], object_table(plane).label)] if label.size else order
    return {name: column[order] for name, column in columns.items()}


def _checked_column(
    values: NDArray[Any], dtype: np.dtype[Any], name: str, backend: str
) -> NDArray[Any]:
    """Cast (k,) values; refuse those that the data type cannot hold."""
    owner = f"Backend {backend!r} returned the column {name!r}"
    if values.ndim != 1:
        raise InputError(f"{owner} of shape {values.shape}. Expected (k,) for k objects.")
    if not values.size:
        return np.zeros(0, dtype)
    if values.dtype.kind not in ("iuf" if dtype.kind == "f" else "iu"):
        raise InputError(f"{owner} of dtype {values.dtype}. Expected {dtype}.")
    with np.errstate(over="ignore"):
        cast = values.astype(dtype)
    lost = np.isinf(cast) & ~np.isinf(values) if dtype.kind == "f" else cast != values
    if lost.any():
        raise InputError(f"{owner} with {values[lost][0]}. Expected values of {dtype}.")
    return cast
