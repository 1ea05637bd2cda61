"""Conversion of pixel sizes to micrometres."""

import math
from pathlib import Path
from typing import Final

from codexseg.errors import InputError

_MICROMETRES: Final = {
    "µm": 1.0,  # U+00B5 MICRO SIGN
    "\N{GREEK SMALL LETTER MU}m": 1.0,
    "um": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "micrometer": 1.0,
    "micrometre": 1.0,
    "pm": 1e-6,
    "picometer": 1e-6,
    "Å": 1e-4,
    "angstrom": 1e-4,
    "nm": 1e-3,
    "nanometer": 1e-3,
    "mm": 1e3,
    "millimeter": 1e3,
    "cm": 1e4,
    "centimeter": 1e4,
    "dm": 1e5,
    "decimeter": 1e5,
    "m": 1e6,
    "meter": 1e6,
    "in": 25400.0,
    "inch": 25400.0,
}


def to_micrometres(value: float, unit: str) -> float | None:
    """Convert a length; None if the unit is not a length or the value is not positive."""
    factor = _MICROMETRES.get(unit.strip()) or _MICROMETRES.get(unit.strip().lower())
    if factor is None or not math.isfinite(value) or value <= 0:
        return None
    return value * factor


def square_pixels(y: float | None, x: float | None, path: Path) -> float | None:
    """Return the pixel size in um; raise InputError if y and x differ by more than 1 %."""
    if y is None or x is None:
        return x if y is None else y
    if abs(y - x) > 0.01 * max(y, x):
        raise InputError(
            f"{path} has pixels of {y:.6g} um in y and {x:.6g} um in x, expected square "
            f"pixels. Resample it, or correct its metadata."
        )
    return x
