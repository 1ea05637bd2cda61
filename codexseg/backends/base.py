"""What a backend is: pixels of patches in, labels of cells and nuclei out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from codexseg.core.grid import Window
from codexseg.errors import InputError

Labels = NDArray[np.uint32]
Pixels = NDArray[Any]


@dataclass(frozen=True)
class ChannelStatistics:
    """One segmentation channel over the whole slide, in grey levels."""

    minimum: float
    maximum: float
    background: float
    noise: float
    p999: float


@dataclass(frozen=True)
class Slide:
    """What a backend may know of the slide beyond the patch in its hands.

    `nucleus` and `wholecell` are the statistics of the two segmentation channels over
    the whole slide: they are None before the slide was read, `wholecell` also where no
    whole-cell channel is configured.
    """

    shape: tuple[int, int]
    mpp: float
    nucleus: ChannelStatistics | None = None
    wholecell: ChannelStatistics | None = None
    has_wholecell: bool = True


@runtime_checkable
class Backend(Protocol):
    """What turns patches into labels.

    A backend class is called with (segmentation config, :class:`Slide`); making one is
    cheap, weights are loaded by the first `predict`, once per worker.

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
    """

    name: str
    mpp: float | None
    halo_px: int
    channels: tuple[str, ...]

    def fingerprint(self) -> str:
        """Name what the labels depend on beyond the config: version, weights."""

    def predict(self, patches: Pixels, windows: Sequence[Window]) -> Labels:
        """Segment patches of one shape.

        Parameters
        ----------
        patches : (n, 2, y, x) uint8, uint16 or float32
            Channel 0 nucleus, channel 1 whole cell (zeros where there is none).
        windows : sequence of n windows
            Where on the slide the patches lie.

        Returns
        -------
        labels : (n, 2, y, x) integer
            A new array. Compartment 0 cells, 1 nuclei; 0 is background.
        """


def context_px(backend: Backend) -> int:
    """Return how far from a cut edge the labels of a backend may be wrong."""
    return int(getattr(backend, "context_px", (backend.halo_px + 1) // 2))


def is_paired(backend: Backend) -> bool:
    """Whether equal labels in both compartments are one cell."""
    return bool(getattr(backend, "paired", False))


def check_labels(labels: Any, patches: Pixels, name: str) -> Labels:
    """Check once what a backend returned, and bring it to uint32.

    Raises
    ------
    InputError
        If shape or dtype are not what the contract says, or a label is negative or
        does not fit in 32 bits.
    """
    n, _, height, width = patches.shape
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
