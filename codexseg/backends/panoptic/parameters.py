"""Parameters of the watershed that follows a network; they are stored with its weights.

An ONNX file has them in its metadata. The default are those of Mesmer.
"""

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from codexseg.backends.networks.signature import read_signature
from codexseg.backends.networks.weights import Weights
from codexseg.errors import InputError

CONSTANTS = "codexseg_constants"
"""Key in the metadata_props of an ONNX file: JSON with `cell` and `nucleus`."""


@dataclass(frozen=True)
class PostprocessingParams:
    """Parameters from the maps of one compartment to its objects.

    Attributes
    ----------
    h : float
        Height of a peak of the inner distance above its saddle.
    interior_threshold : float
        Pixels of objects have a smoothed interior above it.
    smoothing_px : float
        Sigma of that smoothing, px of the network's image.
    min_area : int
        Smaller objects are removed, in pixels of the network's image.
    expansion_px : float
        Expansion of the objects up to each other, px of the network's image: the interior
        excludes their boundary.
    min_peak, min_interior : float
        Objects are removed if the maximum of the inner distance, or of the interior, is
        below.
    min_mean_interior : float
        Objects are removed if the mean of the interior is below.
    """

    h: float
    interior_threshold: float = 0.2
    smoothing_px: float = 2.0
    min_area: int = 15
    expansion_px: float = 0.0
    min_peak: float = 0.0
    min_interior: float = 0.0
    min_mean_interior: float = 0.0

    @property
    def watershed_kwargs(self) -> dict[str, Any]:
        """Keyword arguments of `deep_watershed`."""
        return {
            "h": self.h,
            "interior_threshold": self.interior_threshold,
            "smoothing_px": self.smoothing_px,
            "min_area": self.min_area,
        }


_OPTIONAL_KEYS = {
    "expansion_px": "growth_px",
    "min_peak": "least_peak",
    "min_interior": "least_interior",
    "min_mean_interior": "least_mean_interior",
}
"""Attributes with other keys in a file, where they may be missing."""

MESMER = PostprocessingParams(h=0.075), PostprocessingParams(h=0.1)
"""Parameters of cells and of nuclei."""


def params_of(weights: Weights) -> tuple[PostprocessingParams, PostprocessingParams]:
    """Return the parameters of cells and of nuclei that are stored with weights.

    Raises
    ------
    InputError
        If the parameters in the file are invalid.
    """
    if weights.kind != "onnx":
        return MESMER
    text = read_signature(weights.path).metadata.get(CONSTANTS)
    if text is None:
        return MESMER
    try:
        stored = json.loads(text)
        cell, nucleus = (_checked(stored[name]) for name in ("cell", "nucleus"))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise InputError(
            f"{weights.path} contains invalid post-processing parameters "
            f"({type(error).__name__}: {error}). Expected JSON as 'codexseg train' writes "
            f"it under {CONSTANTS!r}. Export the network again."
        ) from error
    return cell, nucleus


def to_json(cell: PostprocessingParams, nucleus: PostprocessingParams) -> str:
    """Return the text that :func:`params_of` reads."""
    stored = {
        name: {_OPTIONAL_KEYS.get(key, key): value for key, value in asdict(params).items()}
        for name, params in (("cell", cell), ("nucleus", nucleus))
    }
    return json.dumps(stored, sort_keys=True)


def _checked(stored: dict[str, float]) -> PostprocessingParams:
    keys = {_OPTIONAL_KEYS.get(f.name, f.name) for f in fields(PostprocessingParams)}
    if set(stored) | set(_OPTIONAL_KEYS.values()) != keys:
        raise ValueError(f"got {sorted(stored)}, expected {sorted(keys)}")
    params = PostprocessingParams(
        float(stored["h"]),
        float(stored["interior_threshold"]),
        float(stored["smoothing_px"]),
        int(stored["min_area"]),
        **{name: float(stored.get(key, 0.0)) for name, key in _OPTIONAL_KEYS.items()},
    )
    if not (
        0 < params.h < 1
        and 0 < params.interior_threshold < 1
        and 0 <= params.smoothing_px <= 8
        and params.min_area >= 1
        and 0 <= params.expansion_px <= 8
        and 0 <= params.min_peak < 1
        and 0 <= params.min_interior < 1
        and 0 <= params.min_mean_interior < 1
    ):
        raise ValueError(f"out of range: {params}")
    return params
