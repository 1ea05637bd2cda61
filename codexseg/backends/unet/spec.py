"""Metadata of a semantic U-Net, and the scaling of its input.

Training and backend share them, so that a network is applied to the same intensities as
it is trained on.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np

from codexseg.arrays import Float32, Pixels
from codexseg.backends.base import ChannelStatistics
from codexseg.backends.networks.contract import TILE_PX
from codexseg.backends.networks.signature import Signature, describe_tensors, read_signature
from codexseg.backends.networks.weights import LICENCE, UNET, Weights
from codexseg.backends.process_cache import file_hash
from codexseg.errors import InputError

InputScaling = Literal["levels", "range"]

INPUTS = ("nucleus", "wholecell")
"""Segmentation channels of a slide."""
OUTPUTS = ("cells", "nuclei")
THRESHOLD = 0.5
"""Probability above which a pixel is foreground."""

_VERSION = 1


@dataclass(frozen=True)
class ObjectParams:
    """Parameters of :mod:`codexseg.backends.unet.postprocessing`.

    Attributes
    ----------
    h_px : float
        Height of a peak of the distance to the background above its saddle, px.
    smoothing_px : float
        Sigma of the Gaussian that smooths the distances before peaks are detected.
    min_area : int
        Smaller objects are removed, in pixels.
    """

    h_px: float = 0.75
    smoothing_px: float = 1.0
    min_area: int = 15

    def __post_init__(self) -> None:
        if not (0 < self.h_px < 32 and 0 < self.smoothing_px <= 8 and self.min_area >= 1):
            raise ValueError(f"out of range: {self}")


@dataclass(frozen=True)
class UnetSpec:
    """Inputs and outputs of a U-Net.

    Attributes
    ----------
    inputs : tuple of str
        Input channels in order: nucleus and wholecell. A network with inputs of other
        names does not run on slides.
    outputs : tuple of str
        Objects of its foreground maps: cells, nuclei or both.
    scaling : {"levels", "range"}
        Intensities that become 0 and 1: background and 99.9th percentile, or the lowest
        and the highest. Others are clipped.
    mpp : float or None
        Pixel size of the training images as shown to the network, um.
    objects : dict of ObjectParams
        Post-processing of each output.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    scaling: InputScaling = "levels"
    mpp: float | None = None
    objects: Mapping[str, ObjectParams] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (
            self.inputs
            and self.outputs in (("cells",), ("nuclei",), OUTPUTS)
            and self.scaling in get_args(InputScaling)
            and (self.mpp is None or 0 < self.mpp < 100)
            and set(self.objects) <= set(self.outputs)
        ):
            raise ValueError(f"out of range: {self}")

    def objects_of(self, output: str) -> ObjectParams:
        """Return the post-processing of an output."""
        return self.objects.get(output, ObjectParams())

    def to_json(self) -> str:
        """Return the text that :func:`read_spec` reads."""
        return json.dumps({"version": _VERSION, **asdict(self)}, sort_keys=True)


def limits(statistics: ChannelStatistics, scaling: InputScaling) -> tuple[float, float]:
    """Return the intensities that become 0 and 1."""
    if scaling == "range":
        return statistics.minimum, statistics.maximum
    low, high = statistics.background, statistics.p999
    return low, high if high > low else statistics.maximum


def scale_to_unit(pixels: Pixels, low: float, high: float) -> Float32:
    """Scale intensities to 0..1, clipped; all 0 if `high` is not above `low`."""
    if not high > low:
        return np.zeros(pixels.shape, np.float32)
    unit = pixels.astype(np.float32)
    unit -= np.float32(low)
    unit *= np.float32(1 / (high - low))
    return np.clip(unit, 0, 1, out=unit)


def read_spec(path: Path) -> tuple[Weights, UnetSpec]:
    """Read the metadata of a U-Net without loading it.

    Raises
    ------
    InputError
        If the file is no ONNX file or no U-Net of ``codexseg train``, or its metadata
        contradict its tensors.
    """
    path = path.expanduser()
    signature = read_signature(path)
    text = signature.metadata.get(UNET)
    if path.is_dir() or text is None:
        raise InputError(
            f"{path} is not a semantic U-Net of 'codexseg train' (it lacks the metadata "
            f"{UNET!r}), which segmentation.backend 'unet' needs. For a network with "
            f"Mesmer's contract set segmentation.backend to 'panoptic', else train a U-Net "
            f"with 'codexseg train', preset unet."
        )
    try:
        spec = _parsed(json.loads(text))
        _check_signature(signature, spec)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} contains invalid metadata {UNET!r} ({type(error).__name__}: {error}). "
            f"Expected metadata of 'codexseg train'. Export the network again."
        ) from error
    digest = file_hash(path, "sha256")
    licence = signature.metadata.get(LICENCE) or None
    return Weights(path, "onnx", path.stem, digest, licence=licence), spec


def _parsed(stored: dict[str, Any]) -> UnetSpec:
    if stored.get("version") != _VERSION:
        raise ValueError(f"version {stored.get('version')}, expected {_VERSION}")
    mpp = stored["mpp"]
    return UnetSpec(
        tuple(stored["inputs"]),
        tuple(stored["outputs"]),
        cast("InputScaling", stored["scaling"]),
        None if mpp is None else float(mpp),
        {name: ObjectParams(**values) for name, values in stored["objects"].items()},
    )


def _check_signature(signature: Signature, spec: UnetSpec) -> None:
    """Check that the tensors of the file fit its metadata."""
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
            actual = "; ".join(describe_tensors(tensors))
            raise ValueError(f"{actual}, expected float32 (n, y, x, {channels})")
