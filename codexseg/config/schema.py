"""What a run can be told: the sections of the YAML file as frozen models.

One section for each part of the run, named as the stages read them. Reading a file,
with line numbers and the keys of the existing pipeline, is in
:mod:`codexseg.config.loader`; `config/default.yaml` explains every key to a user.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)
from pydantic_core import PydanticCustomError

SMALLEST_PATCH_PX = 64

Statistic = Literal[
    "mean", "median", "std", "max", "min", "total", "p5", "p25", "p75", "p95"
]


def _no_truth_value(value: Any) -> Any:
    # pydantic reads true as 1
    if isinstance(value, bool):
        raise PydanticCustomError("number_type", "expected a number")
    return value


def _name(value: Any) -> Any:
    if not isinstance(value, str) or not value.strip():
        raise PydanticCustomError("name_type", "expected a name, as text")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _diameter(value: Any) -> Any:
    if value is None or value == "auto" or (_is_number(value) and 1 <= value <= 200):
        return value
    raise PydanticCustomError("diameter", "expected 1 to 200 um, 'auto' or null")


def _percentiles(value: Any) -> Any:
    if value is None:
        return None
    are_two = isinstance(value, list | tuple) and len(value) == 2
    if are_two and all(map(_is_number, value)) and 0 <= value[0] < value[1] <= 100:
        return value
    expected = "expected two numbers from 0 to 100, the lower one first, like [1, 99]"
    raise PydanticCustomError("percentiles", "{expected}", {"expected": expected})


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _no_empty_path(value: Any) -> Any:
    # Path("") is the current folder
    return None if value == "" else value


def _patch_size(value: int) -> int:
    if value != -1 and value < SMALLEST_PATCH_PX:
        expected = f"expected at least {SMALLEST_PATCH_PX}, or -1 for the whole slide"
        raise PydanticCustomError("patch_size", "{expected}", {"expected": expected})
    return value


def _direction(value: Any) -> Any:
    # the template of the existing pipeline writes null
    return "vertical" if value is None else value


def _workers(value: Any) -> Any:
    if value == "auto" or (type(value) is int and value >= 1):
        return value
    raise PydanticCustomError("workers", "expected a whole number of at least 1, or 'auto'")


def _version(value: Any) -> Any:
    # YAML reads 0.4 without quotes as a number
    return str(value) if isinstance(value, float) else value


def _mapping(value: Any) -> Any:
    # all its keys are commented out
    return {} if value is None else value


def _ordered(value: tuple[Statistic, ...]) -> tuple[Statistic, ...]:
    # one order, so that the order in the file changes no column and no key
    return tuple(name for name in get_args(Statistic) if name == "mean" or name in value)


Real = Annotated[float, BeforeValidator(_no_truth_value), Field(allow_inf_nan=False)]
Whole = Annotated[int, BeforeValidator(_no_truth_value)]
PatchSize = Annotated[Whole, AfterValidator(_patch_size)]
Name = Annotated[str, BeforeValidator(_name)]
Names = Annotated[tuple[Name, ...], BeforeValidator(_listed)]
OptionalPath = Annotated[Path | None, BeforeValidator(_no_empty_path)]
Diameter = Annotated[float | Literal["auto"] | None, BeforeValidator(_diameter)]
Percentiles = Annotated[tuple[float, float] | None, BeforeValidator(_percentiles)]
Direction = Annotated[Literal["vertical", "horizontal"], BeforeValidator(_direction)]
Statistics = Annotated[
    tuple[Statistic, ...], BeforeValidator(_listed), AfterValidator(_ordered)
]


class Section(BaseModel):
    """Base of every section: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _empty(cls, value: Any) -> Any:
        # a section whose keys are all commented out is null in YAML
        return {} if value is None else value

    def dump(self) -> dict[str, Any]:
        """Return all keys and values, nested, as JSON can hold them (paths as text)."""
        return self.model_dump(mode="json")


class DataConfig(Section):
    """The slide image."""

    file_name: OptionalPath = Field(
        default=None, description="path of the slide image, relative to the YAML file"
    )
    antibodies_file: OptionalPath = Field(
        default=None, description="table of channel names, relative to the YAML file"
    )
    image_mpp: Real | None = Field(
        default=None, gt=0, description="micrometres per pixel; null: from the image"
    )
    generate_channel_stats: bool = Field(
        default=True,
        description="statistics of all channels, or of the segmentation channels only",
    )


class ChannelsConfig(Section):
    """Which channels are segmented."""

    mode: Literal["names", "auto", "L", "RGB"] = Field(
        default="names", description="by name, or as a grey or a colour picture"
    )
    cell: Literal["red", "green", "blue", "grey"] = Field(
        default="green", description="colour that shows cells, of a picture"
    )
    nucleus: Literal["red", "green", "blue", "grey"] = Field(
        default="blue", description="colour that shows nuclei, of a picture"
    )
    nuclear_channel: Name = Field(default="DAPI", description="name of the nuclear channel")
    wholecell_channel: Names = Field(
        default=(),
        description="name or list of names of the whole-cell markers; [] for none",
    )
    wholecell_merge: Literal["raw", "scaled"] = Field(
        default="raw",
        description="maximum of grey levels, or of markers scaled by their P99.9",
    )


class PatchingConfig(Section):
    """How the slide is cut."""

    split_mode: Literal["full_image", "halves", "quarters", "patches"] = Field(
        default="patches", description="grid of patches"
    )
    split_direction: Direction = Field(
        default="vertical", description="halves only: vertical is left and right"
    )
    patch_height: PatchSize = Field(default=2048, description="height of a core, px")
    patch_width: PatchSize = Field(default=2048, description="width of a core, px")
    overlap: Real = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="overlap of neighbours as a fraction of a patch",
    )


class PatchQcConfig(Section):
    """Which patches are left out beside the empty ones."""

    non_zero_perc_threshold: Real | None = Field(
        default=None, ge=0, le=1, description="least fraction of nuclear pixels above zero"
    )
    mean_intensity_threshold: Real | None = Field(
        default=None, ge=0, description="least mean of the nuclear channel, grey levels"
    )
    std_intensity_threshold: Real | None = Field(
        default=None,
        ge=0,
        description="least deviation of the nuclear channel, grey levels",
    )


class WatershedConfig(Section):
    """Settings of the `watershed` backend."""

    nucleus_diameter_um: Real = Field(
        default=8.0, ge=2, le=50, description="diameter of a typical nucleus, um"
    )
    expansion_um: Real = Field(
        default=1.5, ge=0, le=25, description="reach of a cell beyond its nucleus, um"
    )
    min_nucleus_area_um2: Real = Field(
        default=10.0, ge=0, description="least area of a nucleus, um2"
    )
    min_signal: Real = Field(
        default=0.05, ge=0, lt=1, description="least signal, from background 0 to P99.9 1"
    )
    membrane_weight: Real = Field(
        default=0.2, ge=0, description="weight of whole-cell markers as borders"
    )


class SegmentationConfig(Section):
    """What turns pixels into labels, and how."""

    backend: Name = Field(
        default="embedded", description="a registered backend, or 'module:Class'"
    )
    model_path: OptionalPath = Field(
        default=None,
        description="weights of a backend that needs some, relative to the YAML file",
    )
    compartment: Literal["both", "whole-cell", "nuclear"] = Field(
        default="both", description="what is segmented"
    )
    normalization: Literal["slide", "patch"] = Field(
        default="slide", description="whose grey level statistics scale a patch"
    )
    percentiles: Percentiles = Field(
        default=None, description="percentiles of grey levels that become 0 and 1"
    )
    diameter: Diameter = Field(
        default=None, description="diameter of a typical cell, um; auto: from the image"
    )
    batch_memory_gb: Real = Field(
        default=0.5, gt=0, description="memory for the patches of one batch, GB"
    )
    runtime: Literal["auto", "onnxruntime", "tensorflow"] = Field(
        default="auto", description="what runs a network"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="where a backend with a network computes"
    )
    python: OptionalPath = Field(
        default=None, description="Python 3.10 that has deepcell, for that backend"
    )
    save_segmentation_pickle: bool = Field(default=True, description="write both pickles")
    watershed: WatershedConfig = Field(
        default=WatershedConfig(), description="settings of the watershed backend"
    )
    options: Annotated[dict[str, Any], BeforeValidator(_mapping)] = Field(
        default_factory=dict,
        description="settings of cellpose, stardist or a third party's, as they are",
    )


class RepairConfig(Section):
    """When a nucleus belongs to a cell."""

    matching: Literal["best", "sequential"] = Field(
        default="best", description="by overlap, or cell by cell in reading order"
    )
    min_overlap: Real = Field(
        default=0.0, ge=0, le=1, description="least fraction of a nucleus inside its cell"
    )


class StitchConfig(Section):
    """Which objects survive where patches disagree."""

    min_remaining: Real = Field(
        default=0.5,
        gt=0,
        le=1,
        description="least fraction of an object left by its rivals",
    )


class ProfileConfig(Section):
    """What is measured of every cell."""

    statistics: Statistics = Field(
        default=("mean",), description="statistics of every channel in every compartment"
    )
    solidity: bool = Field(default=False, description="area over convex area")
    channels: Annotated[Names, Field(min_length=1)] | None = Field(
        default=None, description="names of the channels that are measured; null: all"
    )


class ExportConfig(Section):
    """Which files are written beside cells.parquet."""

    ome_tiff: bool = Field(default=True, description="label images as OME-TIFF")
    ome_zarr_version: Annotated[Literal["0.4", "0.5"], BeforeValidator(_version)] = Field(
        default="0.4", description="version of NGFF of segmentation.ome.zarr"
    )
    csv: bool = Field(default=True, description="cells.csv")
    h5ad: bool = Field(default=True, description="cells.h5ad")


class ReportConfig(Section):
    """What report.html shows."""

    overlays: Whole = Field(default=6, ge=0, description="number of overlay pictures")
    overlay_px: Whole = Field(
        default=512, ge=64, description="side of an overlay picture, px"
    )


class ExecutionConfig(Section):
    """How the work is spread; never part of a stage's key."""

    workers: Annotated[int | Literal["auto"], BeforeValidator(_workers)] = Field(
        default=1, description="processes; auto: one for each core"
    )


class Config(Section):
    """All settings of a run."""

    data: DataConfig = Field(default=DataConfig(), description="the slide image")
    channels: ChannelsConfig = Field(default=ChannelsConfig(), description="its channels")
    patching: PatchingConfig = Field(default=PatchingConfig(), description="how it is cut")
    patch_qc: PatchQcConfig = Field(default=PatchQcConfig(), description="patches left out")
    segmentation: SegmentationConfig = Field(
        default=SegmentationConfig(), description="what turns pixels into labels"
    )
    repair: RepairConfig = Field(
        default=RepairConfig(), description="cells and their nuclei"
    )
    stitch: StitchConfig = Field(default=StitchConfig(), description="seams")
    profile: ProfileConfig = Field(default=ProfileConfig(), description="measurements")
    export: ExportConfig = Field(default=ExportConfig(), description="files")
    report: ReportConfig = Field(default=ReportConfig(), description="report.html")
    execution: ExecutionConfig = Field(default=ExecutionConfig(), description="resources")

    def section(self, name: str) -> Section:
        """Return a section by its name.

        Raises
        ------
        KeyError
            If there is no such section; the message lists all.
        """
        if name not in Config.model_fields:
            raise KeyError(
                f"no section {name!r}; there are {', '.join(Config.model_fields)}"
            )
        return cast("Section", getattr(self, name))


def dotted_keys(model: type[Section] = Config, prefix: str = "") -> Iterator[str]:
    """Yield every key as 'section.key', sections before what they hold."""
    for name, field in model.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from dotted_keys(field.annotation, f"{prefix}{name}.")


def field_of(key: str) -> Any:
    """Return pydantic's description of a dotted key (default, description), or None."""
    model: Any = Config
    *parents, last = key.split(".")
    for name in parents:
        fields = getattr(model, "model_fields", {})
        if name not in fields:
            return None
        model = fields[name].annotation
    return getattr(model, "model_fields", {}).get(last)
