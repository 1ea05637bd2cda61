"""What the ONNX file of a semantic U-Net says of itself, and what follows from it.

Training and backend share it, so that a network sees on a slide what it has learnt from.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from codexseg.backends.base import ChannelStatistics
from codexseg.backends.networks.archive import file_hash
from codexseg.backends.networks.contract import TILE_PX, Signature, describe, read_signature
from codexseg.backends.networks.weights import LICENCE, UNET, Weights
from codexseg.errors import InputError

Floats = NDArray[np.float32]
Scaling = Literal["levels", "range"]

INPUTS = ("nucleus", "wholecell")
"""The channels that a slide has for a backend."""
OUTPUTS = ("cells", "nuclei")
THRESHOLD = 0.5
"""Foreground is what is likelier than this."""

_VERSION = 1


@dataclass(frozen=True)
class Objects:
    """How foreground becomes objects; see :mod:`codexseg.backends.unet.postprocessing`.

    Attributes
    ----------
    h_px : float
        How far a peak of the distance to the background rises above its saddle, px.
    smoothing_px : float
        Sigma of the Gaussian that smooths the distances before peaks are looked for.
    min_area : int
        Objects of fewer pixels are dropped.
    """

    h_px: float = 0.75
    smoothing_px: float = 1.0
    min_area: int = 15

    def __post_init__(self) -> None:
        if not (0 < self.h_px < 32 and 0 < self.smoothing_px <= 8 and self.min_area >= 1):
            raise ValueError(f"out of range: {self}")


@dataclass(frozen=True)
class UnetSpec:
    """What a U-Net reads and gives.

    Attributes
    ----------
    inputs : tuple of str
        Its input channels in their order: nucleus and wholecell, or of other names, with
        which it does not run on slides.
    outputs : tuple of str
        What its maps are the foreground of: cells, nuclei or both.
    scaling : "levels" or "range"
        Which grey levels become 0 and 1: background and 99.9th percentile, or the lowest
        and the highest. What lies outside is clipped.
    mpp : float or None
        Micrometres per pixel of the images that it learnt from, as it saw them.
    objects : dict of Objects
        For each output.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    scaling: Scaling = "levels"
    mpp: float | None = None
    objects: Mapping[str, Objects] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (
            self.inputs
            and self.outputs in (("cells",), ("nuclei",), OUTPUTS)
            and self.scaling in get_args(Scaling)
            and (self.mpp is None or 0 < self.mpp < 100)
            and set(self.objects) <= set(self.outputs)
        ):
            raise ValueError(f"out of range: {self}")

    def objects_of(self, output: str) -> Objects:
        """Return how the foreground of an output becomes objects."""
        return self.objects.get(output, Objects())

    def to_json(self) -> str:
        """Write what :func:`read_spec` reads."""
        return json.dumps({"version": _VERSION, **asdict(self)}, sort_keys=True)


def limits(statistics: ChannelStatistics, scaling: Scaling) -> tuple[float, float]:
    """Return the grey levels that become 0 and 1."""
    if scaling == "range":
        return statistics.minimum, statistics.maximum
    low, high = statistics.background, statistics.p999
    return low, high if high > low else statistics.maximum


def to_unit(pixels: NDArray[Any], low: float, high: float) -> Floats:
    """Scale grey levels to 0..1, float32; all 0 where there is nothing to scale."""
    if not high > low:
        return np.zeros(pixels.shape, np.float32)
    unit = pixels.astype(np.float32)
    unit -= np.float32(low)
    unit *= np.float32(1 / (high - low))
    return np.clip(unit, 0, 1, out=unit)


def read_spec(path: Path) -> tuple[Weights, UnetSpec]:
    """Read what a U-Net says of itself, without loading it.

    Raises
    ------
    InputError
        If the file is no ONNX file, no U-Net of ``codexseg train``, or contradicts itself.
    """
    path = path.expanduser()
    signature = read_signature(path)
    text = signature.metadata.get(UNET)
    if path.is_dir() or text is None:
        raise InputError(
            f"{path} is not a semantic U-Net of 'codexseg train' (it lacks the metadata "
            f"{UNET!r}), which segmentation.backend 'unet' needs: for a network with "
            f"Mesmer's contract set segmentation.backend to 'panoptic', else make one with "
            f"'codexseg train', preset unet."
        )
    try:
        spec = _parsed(json.loads(text))
        _check_signature(signature, spec)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} holds metadata {UNET!r} that cannot be used ({type(error).__name__}: "
            f"{error}), expected what 'codexseg train' writes: export the network again."
        ) from error
    digest = file_hash(path, "sha256")
    licence = signature.metadata.get(LICENCE) or None
    return Weights(path, "onnx", path.stem, digest, licence=licence), spec


def _parsed(said: dict[str, Any]) -> UnetSpec:
    if said.get("version") != _VERSION:
        raise ValueError(f"version {said.get('version')}, expected {_VERSION}")
    mpp = said["mpp"]
    return UnetSpec(
        tuple(said["inputs"]),
        tuple(said["outputs"]),
        cast("Scaling", said["scaling"]),
        None if mpp is None else float(mpp),
        {name: Objects(**values) for name, values in said["objects"].items()},
    )


def _check_signature(signature: Signature, spec: UnetSpec) -> None:
    """Check that the file reads and gives what its metadata says."""
    for tensors, channels in (
        (signature.inputs, len(spec.inputs)),
        (signature.outputs, len(spec.outputs)),
    ):
        fits = len(tensors) == 1 and all(
            dtype == "float32"
            and shape is not None
            and len(shape) == 4
            and shape[3] == channels
            and all(side in (-1, TILE_PX) for side in shape[1:3])
            for dtype, shape in tensors.values()
        )
        if not fits:
            raise ValueError(
                f"{'; '.join(describe(tensors))}, expected float32 (n, y, x, {channels})"
            )
