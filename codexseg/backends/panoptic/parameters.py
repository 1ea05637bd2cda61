"""Constants of the flood that follows a network: they belong to its weights.

An ONNX file carries them in its metadata; without any they are Mesmer's.
"""

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from codexseg.backends.networks.contract import read_signature
from codexseg.backends.networks.weights import Weights
from codexseg.errors import InputError

CONSTANTS = "codexseg_constants"
"""Name in the metadata_props of an ONNX file: JSON, `cell` and `nucleus` apart."""


@dataclass(frozen=True)
class Constants:
    """How maps of one compartment become objects; see `core.deep_watershed`.

    Attributes
    ----------
    h : float
        How far a peak of the inner distance rises above its saddle.
    interior_threshold : float
        Objects consist of pixels whose smoothed interior is above.
    smoothing_px : float
        Sigma of that smoothing, px of the network's image.
    min_area : int
        Objects of fewer pixels of the network's image are dropped.
    growth_px : float
        How far objects then grow, px of the network's image, up to each other: the
        interior leaves out the boundary, which is theirs.
    least_peak, least_interior : float
        Objects in which the inner distance, or the interior, stays below are dropped.
    least_mean_interior : float
        So are those in which the interior is below on average.
    """

    h: float
    interior_threshold: float = 0.2
    smoothing_px: float = 2.0
    min_area: int = 15
    growth_px: float = 0.0
    least_peak: float = 0.0
    least_interior: float = 0.0
    least_mean_interior: float = 0.0

    @property
    def watershed_kwargs(self) -> dict[str, Any]:
        """Keyword arguments of `deep_watershed`."""
        return {
            "h": self.h,
            "interior_threshold": self.interior_threshold,
            "smoothing_px": self.smoothing_px,
            "min_area": self.min_area,
        }


_NEWER = "growth_px", "least_peak", "least_interior", "least_mean_interior"
"""Files of before lack them."""

MESMER = Constants(h=0.075), Constants(h=0.1)
"""Of cells, of nuclei."""


def constants_of(weights: Weights) -> tuple[Constants, Constants]:
    """Return the constants of cells and of nuclei that belong to weights.

    Raises
    ------
    InputError
        If the file names constants that make no sense.
    """
    if weights.kind != "onnx":
        return MESMER
    text = read_signature(weights.path).metadata.get(CONSTANTS)
    if text is None:
        return MESMER
    try:
        said = json.loads(text)
        cell, nucleus = (_checked(said[name]) for name in ("cell", "nucleus"))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise InputError(
            f"{weights.path} holds constants of post-processing that cannot be used "
            f"({type(error).__name__}: {error}), expected JSON as 'codexseg train' writes "
            f"it under {CONSTANTS!r}; export the network again."
        ) from error
    return cell, nucleus


def to_json(cell: Constants, nucleus: Constants) -> str:
    """Write what :func:`constants_of` reads."""
    return json.dumps({"cell": asdict(cell), "nucleus": asdict(nucleus)}, sort_keys=True)


def _checked(said: dict[str, float]) -> Constants:
    names = {field.name for field in fields(Constants)}
    if set(said) | set(_NEWER) != names:
        raise ValueError(f"got {sorted(said)}, expected {sorted(names)}")
    made = Constants(
        float(said["h"]),
        float(said["interior_threshold"]),
        float(said["smoothing_px"]),
        int(said["min_area"]),
        *(float(said.get(name, 0.0)) for name in _NEWER),
    )
    if not (
        0 < made.h < 1
        and 0 < made.interior_threshold < 1
        and 0 <= made.smoothing_px <= 8
        and made.min_area >= 1
        and 0 <= made.growth_px <= 8
        and 0 <= made.least_peak < 1
        and 0 <= made.least_interior < 1
        and 0 <= made.least_mean_interior < 1
    ):
        raise ValueError(f"out of range: {made}")
    return made
