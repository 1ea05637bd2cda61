"""What a backend is: pixels of patches in, labels of cells and nuclei out.

Most backends look at patches alone. One that must know more of the slide first, or that
computes what patches share, is a :class:`WholeSlideBackend`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from codexseg.core.grid import Window
from codexseg.errors import ConfigError, InputError

Labels = NDArray[np.uint32]
Pixels = NDArray[Any]
Arrays = Mapping[str, NDArray[Any]]

BYTES_PER_PX = 64
"""What a backend may need for a pixel, images and labels included: a careful guess."""


ENLARGEMENTS = 1 / 64, 16.0
"""How much smaller or larger than it is a slide is shown to a model, at most."""
CELL_UM, NUCLEUS_UM = 10.0, 7.0
"""Diameter of typical cells and nuclei that these networks were trained on."""
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
    """One segmentation channel over the whole slide, in grey levels."""

    minimum: float
    maximum: float
    background: float
    noise: float
    p999: float


@dataclass(frozen=True)
class SlideContext:
    """What a backend may know of the slide beyond the patch in its hands.

    `mpp` is the pixel size at which the slide is shown: where `segmentation.diameter` is
    set, that at which its cells have the size that the backend was made for. `nucleus`
    and `wholecell` are the statistics of the two segmentation channels over the whole
    slide, in the grey levels of the patches: they are None before the slide was read, and
    where there is no such channel.
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
    columns: Sequence[Mapping[str, Arrays]] = ()


@runtime_checkable
class Backend(Protocol):
    """What turns patches into labels.

    A backend class is called with (segmentation config, :class:`SlideContext`); making
    one is cheap, weights are loaded by the first `predict`, once per worker.

    Attributes
    ----------
    name : str
        What `segmentation.backend` calls it.
    mpp : float or None
        Micrometres per pixel that it was made for; None: any.
    halo_px : int
        Margin around a core, in px of the slide, that a patch needs.
    context_px : int
        How far from a cut edge its labels may differ from those of the uncut slide.
        Optional: half the halo where a backend does not say.
    channels : tuple of str
        The channels that it reads: ("nucleus",) or ("nucleus", "wholecell").
    paired : bool
        Whether label i of the cells and label i of the nuclei are one cell. Optional:
        False where a backend does not say.
    bytes_per_px : int
        Memory that it needs for a pixel of a batch. Optional.
    about : mapping
        What the manifest of a run says of it: weights, licence. Optional.
    diameter_um : float
        Diameter of the circle that has the area of a typical cell (with compartment
        "nuclear", of a nucleus) that it was made for, um at the `mpp` of the slide.
        Optional: without it `segmentation.diameter` is refused.
    needs_nucleus : bool
        Whether it finds nothing without nuclei. Optional: True where it reads "nucleus".
    object_columns : mapping of str to str
        Names and data types of the values that it returns for each object, such as
        ``{"confidence": "float32", "class": "int32"}``. Optional: no values by default.
    warnings : class method
        ``warnings(config)`` yields
        :class:`codexseg.backends.registry.BackendWarning` for settings that are allowed
        and probably a mistake. Optional.
    size_model : codexseg.core.intensity.scaling.SizeModel
        What tells the diameter of cells, um at the slide's `mpp`, from style vectors.
        Optional, with ``style(patches) -> (n, d)``: the style vector of each patch
        (n, 2, y, x). Where both are there, they are the first pass of diameter `auto`.
    """

    name: str
    mpp: float | None
    halo_px: int
    channels: tuple[str, ...]

    def fingerprint(self) -> str:
        """Name what the labels depend on beyond the config: version, weights."""

    def predict(self, patches: Pixels, windows: Sequence[Window]) -> Labels | BackendResult:
        """Segment patches of one shape.

        Parameters
        ----------
        patches : (n, 2, y, x) uint8, uint16 or float32
            Channel 0 nucleus, channel 1 whole cell (zeros where there is none).
        windows : sequence of n windows
            Where on the slide the patches lie.

        Returns
        -------
        (n, 2, y, x) integer, or BackendResult
            Labels in a new array: compartment 0 cells, 1 nuclei; 0 is background. A
            :class:`BackendResult` adds columns per object.
        """


class SlideView(Protocol):
    """The slide, and what slide_passes have found so far, in a worker's hands.

    Attributes
    ----------
    shape : (int, int)
        Height and width, px.
    bounds : (float, float)
        Lowest and highest grey level of both segmentation channels.
    """

    shape: tuple[int, int]
    bounds: tuple[float, float]

    def read(self, window: Window) -> Pixels:
        """Read (2, y, x): nucleus, whole cell (zeros where there is none)."""

    def has_signal(self, window: Window) -> bool:
        """Whether any block under the window holds signal."""

    def block_result(self, slide_pass: str, piece: int) -> Arrays:
        """Return what a slide_pass found in a piece; empty: nothing.

        An array is read when it is asked for, and memory-mapped where it is large.
        """

    def summary(self, slide_pass: str) -> Arrays:
        """Return what a slide_pass concluded from all its pieces."""


@dataclass(frozen=True)
class BlockResult:
    """What a slide_pass found in a piece.

    `counts` are added up, and `notes` are listed, in the summary of the stage.
    """

    arrays: Arrays
    counts: Mapping[str, int] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)


class SlidePass(Protocol):
    """A pass over the slide before its patches are segmented, piece by piece.

    Pieces may be visited in any order and by any worker.

    Attributes
    ----------
    name : str
        A word; the survey's files carry it.
    unit : str
        What a piece is called where progress is shown.
    """

    name: str
    unit: str

    def n_blocks(self, slide: SlideView) -> int:
        """Count the pieces, which are numbered from 0; 0: there is nothing to visit."""

    def map_block(self, piece: int, slide: SlideView) -> BlockResult:
        """Look at a piece."""

    def reduce(self, slide: SlideView) -> Arrays:
        """Bring the findings of all pieces together; small."""


@runtime_checkable
class WholeSlideBackend(Backend, Protocol):
    """A backend that slide_passes the slide, and segments windows from what it found.

    Attributes
    ----------
    slide_passes : sequence of SlidePass
        In their order. Where there are none, `predict` is used.
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
    """Return the slide_passes of a backend; most have none."""
    return backend.slide_passes if isinstance(backend, WholeSlideBackend) else ()


def bytes_per_px(backend: Backend) -> int:
    """Return the memory that a backend needs for a pixel of a batch."""
    return int(getattr(backend, "bytes_per_px", BYTES_PER_PX))


def context_px(backend: Backend) -> int:
    """Return how far from a cut edge the labels of a backend may be wrong."""
    return int(getattr(backend, "context_px", (backend.halo_px + 1) // 2))


def needs_nucleus(backend: Backend) -> bool:
    """Whether a backend finds nothing where no nuclei are shown."""
    return bool(getattr(backend, "needs_nucleus", "nucleus" in backend.channels))


def enlargement(slide: SlideContext, mpp: float) -> float:
    """Return how many px of a model's image a px of the slide makes.

    Parameters
    ----------
    slide : SlideContext
        `mpp` is that at which it is shown.
    mpp : float
        What the model was made for.

    Raises
    ------
    InputError
        If the image would become too large or too small to hold cells.
    """
    factor = slide.mpp / mpp
    low, high = ENLARGEMENTS
    if not low <= factor <= high:
        raise InputError(
            f"the slide is to be shown {factor:.3g} times as large ({slide.mpp:.3g} um per "
            f"px in place of {mpp:g}), expected {low:.2g} to {high:g}: correct the pixel "
            f"size (data.image_mpp), or segmentation.diameter."
        )
    return factor


def diameter_um(backend: Backend) -> float:
    """Return the diameter of the cells that a backend was made for, um.

    Raises
    ------
    ConfigError
        If it does not say.
    """
    found = getattr(backend, "diameter_um", None)
    if found is None:
        raise ConfigError(
            f"segmentation.diameter is set, and the backend {backend.name!r} does not say "
            f"for cells of what size it was made: set it to null, and correct "
            f"data.image_mpp where cells come out in pieces or as one."
        )
    return float(found)


def is_paired(backend: Backend) -> bool:
    """Whether equal labels in both compartments are one cell."""
    return bool(getattr(backend, "paired", False))


def check_labels(labels: Any, shape: tuple[int, ...], name: str) -> Labels:
    """Check once what a backend returned, and bring it to uint32.

    Raises
    ------
    InputError
        If shape or dtype are not what the contract says, or a label is negative or
        does not fit in 32 bits.
    """
    n, _, height, width = shape
    expected = (n, 2, height, width)
    if not isinstance(labels, np.ndarray) or labels.shape != expected:
        got = getattr(labels, "shape", type(labels).__name__)
        raise InputError(
            f"backend {name!r} returned {got}, expected labels of shape {expected}: "
            f"(patch, compartment, y, x), compartment 0 cells, 1 nuclei."
        )
    if labels.dtype.kind not in "iu":
        raise InputError(
            f"backend {name!r} returned labels of dtype {labels.dtype}, expected integers."
        )
    if labels.size and labels.dtype != np.uint32:
        lowest, highest = int(labels.min()), int(labels.max())
        if lowest < 0 or highest >= 2**32:
            raise InputError(
                f"backend {name!r} returned labels from {lowest} to {highest}, expected "
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
    labels: Any = result
    columns: tuple[Any, ...] = ()
    if isinstance(result, BackendResult):
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
