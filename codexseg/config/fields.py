"""Types of configuration values, with their validators."""

import unicodedata
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

MIN_PATCH_PX = 64
MAX_SAMPLE_NAME = 120
"""Characters of a sample name: file names of 255 bytes also contain a suffix."""

IMAGE_SUFFIXES = (
    ".ome.tiff",
    ".ome.tif",
    ".ome.btf",
    ".ome.zarr",
    ".qptiff",
    ".tiff",
    ".tif",
)

Statistic = Literal[
    "mean", "median", "std", "max", "min", "total", "p5", "p25", "p75", "p95"
]
ExportFormat = Literal["csv", "h5ad", "ome_tiff", "pickle"]
EXPORT_FORMATS: tuple[ExportFormat, ...] = get_args(ExportFormat)
"""Names that `export.formats` accepts, in canonical order."""


def image_stem(path: Path) -> str:
    """Return the file name of an image without the suffix of its format."""
    for suffix in IMAGE_SUFFIXES:
        if path.name.lower().endswith(suffix) and len(path.name) > len(suffix):
            return path.name[: -len(suffix)]
    return path.stem


def _error(kind: str, expected: str) -> PydanticCustomError:
    # a template without fields would format braces and % in the text
    return PydanticCustomError(kind, "{expected}", {"expected": f"expected {expected}"})


def _not_bool(value: Any) -> Any:
    # pydantic converts true to 1
    if isinstance(value, bool):
        raise _error("number_type", "a number")
    return value


def _name(value: Any) -> Any:
    if not isinstance(value, str) or not value.strip():
        raise _error("name_type", "a name, as text")
    return value


def _sample_name(value: str) -> str:
    separators = set("/\\") & set(value)
    control = any(unicodedata.category(character) == "Cc" for character in value)
    if len(value) > MAX_SAMPLE_NAME or separators or control or value in (".", ".."):
        raise _error(
            "sample_name",
            f"1 to {MAX_SAMPLE_NAME} characters that a file name may contain, without "
            "/, \\ and control characters",
        )
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _diameter(value: Any) -> Any:
    if value is None or value == "auto" or (_is_number(value) and 1 <= value <= 200):
        return value
    raise _error("diameter", "1 to 200 um, 'auto' or null")


def _percentiles(value: Any) -> Any:
    if value is None:
        return None
    is_pair = isinstance(value, list | tuple) and len(value) == 2
    if is_pair and all(map(_is_number, value)) and 0 <= value[0] < value[1] <= 100:
        return value
    raise _error(
        "percentiles", "two numbers from 0 to 100, the lower one first, like [1, 99]"
    )


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _no_empty_path(value: Any) -> Any:
    # Path("") is the current folder
    return None if value == "" else value


def _patch_size(value: int) -> int:
    if value != -1 and value < MIN_PATCH_PX:
        raise _error("patch_size", f"at least {MIN_PATCH_PX}, or -1 for the whole slide")
    return value


def _direction(value: Any) -> Any:
    # the template of the existing pipeline contains null
    return "vertical" if value is None else value


def _workers(value: Any) -> Any:
    if value == "auto" or (type(value) is int and value >= 1):
        return value
    raise _error("workers", "a whole number of at least 1, or 'auto'")


def _version(value: Any) -> Any:
    # YAML reads 0.4 without quotes as a number
    return str(value) if isinstance(value, float) else value


def _mapping(value: Any) -> Any:
    # a section is null if all its keys are commented out
    return {} if value is None else value


def _statistics(value: tuple[Statistic, ...]) -> tuple[Statistic, ...]:
    # one order: the order in the file affects neither columns nor keys
    return tuple(name for name in get_args(Statistic) if name == "mean" or name in value)


def _formats(value: tuple[ExportFormat, ...]) -> tuple[ExportFormat, ...]:
    if len(set(value)) < len(value):
        raise _error("formats", "each format once")
    return tuple(name for name in EXPORT_FORMATS if name in value)


Real = Annotated[float, BeforeValidator(_not_bool), Field(allow_inf_nan=False)]
Whole = Annotated[int, BeforeValidator(_not_bool)]
PatchSize = Annotated[Whole, AfterValidator(_patch_size)]
Name = Annotated[str, BeforeValidator(_name)]
SampleName = Annotated[Name, AfterValidator(_sample_name)]
Names = Annotated[tuple[Name, ...], BeforeValidator(_as_tuple)]
OptionalPath = Annotated[Path | None, BeforeValidator(_no_empty_path)]
Diameter = Annotated[float | Literal["auto"] | None, BeforeValidator(_diameter)]
Percentiles = Annotated[tuple[float, float] | None, BeforeValidator(_percentiles)]
Direction = Annotated[Literal["vertical", "horizontal"], BeforeValidator(_direction)]
Workers = Annotated[int | Literal["auto"], BeforeValidator(_workers)]
ZarrVersion = Annotated[Literal["0.4", "0.5"], BeforeValidator(_version)]
Options = Annotated[dict[str, Any], BeforeValidator(_mapping)]
Statistics = Annotated[
    tuple[Statistic, ...], BeforeValidator(_as_tuple), AfterValidator(_statistics)
]
Formats = Annotated[
    tuple[ExportFormat, ...], BeforeValidator(_as_tuple), AfterValidator(_formats)
]
