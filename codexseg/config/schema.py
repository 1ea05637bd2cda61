"""Configuration schema: one frozen model per YAML section.

The stages read the sections by name. :mod:`codexseg.config.loader` reads a YAML file into
these models. `config/default.yaml` documents every key for users.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from codexseg.config.deprecated import take_format_switches
from codexseg.config.fields import (
    EXPORT_FORMATS,
    Diameter,
    Direction,
    Formats,
    Name,
    Names,
    OptionalPath,
    Options,
    PatchSize,
    Percentiles,
    Real,
    SampleName,
    Statistics,
    Whole,
    Workers,
    ZarrVersion,
    image_stem,
)
from codexseg.errors import ConfigError


class Section(BaseModel):
    """Base class of the sections: frozen, unknown keys are errors."""

    # messages about a key quote the docstring below it
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _empty(cls, value: Any) -> Any:
        # a section is null in YAML if all its keys are commented out
        return {} if value is None else value

    def dump(self) -> dict[str, Any]:
        """Return keys and values as nested dicts of JSON types, paths as text."""
        return self.model_dump(mode="json")


class DataConfig(Section):
    """The slide image."""

    file_name: OptionalPath = None
    """path of the slide image, relative to the YAML file"""
    sample: SampleName | None = None
    """name of the sample; null: from the file name"""
    antibodies_file: OptionalPath = None
    """table of channel names, relative to the YAML file"""
    image_mpp: Real | None = Field(default=None, gt=0)
    """micrometres per pixel; null: from the image"""
    generate_channel_stats: bool = True
    """statistics of all channels, or of the segmentation channels only"""


class ChannelsConfig(Section):
    """Channels that are segmented."""

    mode: Literal["names", "auto", "L", "RGB"] = "names"
    """channels by name, or of a grey or colour picture"""
    cell: Literal["red", "green", "blue", "grey"] = "green"
    """colour of the cells in a picture"""
    nucleus: Literal["red", "green", "blue", "grey"] = "blue"
    """colour of the nuclei in a picture"""
    nuclear_channel: Name = "DAPI"
    """name of the nuclear channel"""
    wholecell_channel: Names = ()
    """name or list of names of the whole-cell markers; [] for none"""
    wholecell_merge: Literal["raw", "scaled"] = "raw"
    """maximum of grey levels, or of markers scaled by their P99.9"""


class PatchingConfig(Section):
    """Grid of patches."""

    split_mode: Literal["full_image", "halves", "quarters", "patches"] = "patches"
    """grid of patches"""
    split_direction: Direction = "vertical"
    """halves only: vertical is left and right"""
    patch_height: PatchSize = 2048
    """height of a core, px"""
    patch_width: PatchSize = 2048
    """width of a core, px"""
    overlap: Real = Field(default=0.1, ge=0, lt=1)
    """overlap of neighbours as a fraction of a patch"""


class PatchQcConfig(Section):
    """Thresholds below which a patch is not segmented, beside the empty ones."""

    non_zero_perc_threshold: Real | None = Field(default=None, ge=0, le=1)
    """minimum fraction of nuclear pixels above zero"""
    mean_intensity_threshold: Real | None = Field(default=None, ge=0)
    """minimum mean of the nuclear channel, grey levels"""
    std_intensity_threshold: Real | None = Field(default=None, ge=0)
    """minimum standard deviation of the nuclear channel, grey levels"""


class WatershedConfig(Section):
    """Settings of the `watershed` backend."""

    nucleus_diameter_um: Real = Field(default=8.0, ge=2, le=50)
    """diameter of a typical nucleus, um"""
    expansion_um: Real = Field(default=1.5, ge=0, le=25)
    """distance that a cell extends beyond its nucleus, um"""
    min_nucleus_area_um2: Real = Field(default=10.0, ge=0)
    """minimum area of a nucleus, um2"""
    min_signal: Real = Field(default=0.05, ge=0, lt=1)
    """minimum signal, from 0 (background) to 1 (P99.9)"""
    membrane_weight: Real = Field(default=0.2, ge=0)
    """weight of whole-cell markers as borders"""


class SegmentationConfig(Section):
    """Segmentation backend and its settings."""

    backend: Name = "embedded"
    """a registered backend, or 'module:Class'"""
    model_path: OptionalPath = None
    """weights of the backend, relative to the YAML file"""
    compartment: Literal["both", "whole-cell", "nuclear"] = "both"
    """compartments that are segmented"""
    normalization: Literal["slide", "patch"] = "slide"
    """scale grey levels by statistics of the slide or of the patch"""
    percentiles: Percentiles = None
    """percentiles of grey levels that map to 0 and 1"""
    diameter: Diameter = None
    """diameter of a typical cell, um; auto: from the image"""
    batch_memory_gb: Real = Field(default=0.5, gt=0)
    """memory for the patches of one batch, GB"""
    runtime: Literal["auto", "onnxruntime", "tensorflow"] = "auto"
    """library that runs a network"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """device that runs a network"""
    python: OptionalPath = None
    """Python 3.10 with the deepcell package, for that backend"""
    watershed: WatershedConfig = WatershedConfig()
    """settings of the watershed backend"""
    options: Options = Field(default_factory=dict)
    """settings of cellpose, stardist or a third-party backend"""


class RepairConfig(Section):
    """Pairing of nuclei and cells."""

    matching: Literal["best", "sequential"] = "best"
    """largest overlap first, or cell by cell in reading order"""
    min_overlap: Real = Field(default=0.0, ge=0, le=1)
    """minimum fraction of a nucleus inside its cell"""


class StitchConfig(Section):
    """Objects that are kept where patches disagree."""

    min_remaining: Real = Field(default=0.5, gt=0, le=1)
    """minimum fraction of an object that conflicts leave to it"""


class ProfileConfig(Section):
    """Measurements of every cell."""

    statistics: Statistics = ("mean",)
    """statistics of every channel in every compartment"""
    solidity: bool = False
    """area over convex area"""
    channels: Annotated[Names, Field(min_length=1)] | None = None
    """names of the channels that are measured; null: all"""


class ExportConfig(Section):
    """Files written beside cells.parquet."""

    formats: Formats = Field(
        default=EXPORT_FORMATS, description=f"list of {', '.join(EXPORT_FORMATS)}"
    )
    ome_zarr_version: ZarrVersion = "0.4"
    """NGFF version of segmentation.ome.zarr"""


class ReportConfig(Section):
    """Contents of report.html."""

    overlays: Whole = Field(default=6, ge=0)
    """number of overlay pictures"""
    overlay_px: Whole = Field(default=512, ge=64)
    """side of an overlay picture, px"""


class ExecutionConfig(Section):
    """Resources; never part of a stage's key."""

    workers: Workers = 1
    """processes; auto: one for each core"""


class Config(Section):
    """All settings of a run."""

    data: DataConfig = DataConfig()
    """the slide image"""
    channels: ChannelsConfig = ChannelsConfig()
    """segmented channels"""
    patching: PatchingConfig = PatchingConfig()
    """grid of patches"""
    patch_qc: PatchQcConfig = PatchQcConfig()
    """patches that are not segmented"""
    segmentation: SegmentationConfig = SegmentationConfig()
    """backend"""
    repair: RepairConfig = RepairConfig()
    """pairing of nuclei and cells"""
    stitch: StitchConfig = StitchConfig()
    """seams"""
    profile: ProfileConfig = ProfileConfig()
    """measurements"""
    export: ExportConfig = ExportConfig()
    """files"""
    report: ReportConfig = ReportConfig()
    """report.html"""
    execution: ExecutionConfig = ExecutionConfig()
    """resources"""

    @model_validator(mode="before")
    @classmethod
    def _map_format_switches(cls, value: Any) -> Any:
        # configurations and manifests of runs may contain them
        if not isinstance(value, dict):
            return value
        data = {k: dict(v) if isinstance(v, dict) else v for k, v in value.items()}
        for switch in take_format_switches(data):
            if switch.enabled is None:
                template = "{key} is {value}, expected true or false"
                context = {"key": switch.key, "value": repr(switch.value)}
                raise PydanticCustomError("format_switch", template, context)
        return data

    @property
    def sample_name(self) -> str:
        """Name of the sample: `data.sample`, or the stem of the image's file name.

        Raises
        ------
        ConfigError
            If neither `data.sample` nor `data.file_name` is set.
        """
        if self.data.sample is not None:
            return self.data.sample
        if self.data.file_name is None:
            raise ConfigError(
                "The sample has no name. Set data.sample or data.file_name, the path of "
                "the slide image."
            )
        return image_stem(self.data.file_name)

    def section(self, name: str) -> Section:
        """Return a section by its name.

        Raises
        ------
        KeyError
            If the section does not exist; the message lists all.
        """
        if name not in Config.model_fields:
            sections = ", ".join(Config.model_fields)
            raise KeyError(f"no section {name!r}, expected one of {sections}")
        return cast("Section", getattr(self, name))


def dotted_keys() -> list[str]:
    """Return every key as 'section.key', a section before its keys."""
    return [key for key, _ in _fields(Config)]


def field_of(key: str) -> FieldInfo | None:
    """Return the pydantic field of a dotted key, or None for an unknown key."""
    return dict(_fields(Config)).get(key)


def _fields(model: type[Section], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        yield prefix + name, field
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from _fields(field.annotation, f"{prefix}{name}.")
