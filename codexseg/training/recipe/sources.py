"""Image sources of a recipe: files, columns, channels and weights."""

import struct
import zlib
from pathlib import Path
from typing import Annotated, Any, Literal
from zipfile import BadZipFile

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, model_validator

from codexseg.errors import CodexsegError, InputError
from codexseg.training.data import pairs
from codexseg.training.data.examples import (
    Crops,
    ExampleSource,
    LabelledImage,
    Nuclei,
    ScaledImages,
    Synthetic,
)
from codexseg.training.data.pair_examples import Pairs

EVERY_COLUMN = (0, 2**31)
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]

_UNREADABLE = (
    OSError,
    EOFError,
    BadZipFile,
    LookupError,
    TypeError,
    ValueError,
    RuntimeError,  # of compressed data
    struct.error,
    zlib.error,
)


class Strict(BaseModel):
    """Model that rejects unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PairFiles(Strict):
    """Paths of images and their labels; see `training.data.pairs.find_pairs`.

    Attributes
    ----------
    images, cells, nuclei : Path
        A folder, a zip, or an npz (``file.npz:key``) each; cells, nuclei, or both.
    """

    images: Path
    cells: Path | None = None
    nuclei: Path | None = None

    @model_validator(mode="after")
    def _has_labels(self) -> "PairFiles":
        if self.cells is None and self.nuclei is None:
            raise ValueError("expected labels: cells, nuclei, or both")
        return self

    @property
    def labels(self) -> dict[str, Path]:
        """Paths of labels by compartment."""
        paths = {"cells": self.cells, "nuclei": self.nuclei}
        return {name: path for name, path in paths.items() if path is not None}

    def find(self, data: Path) -> list[pairs.Pair]:
        """Find the pairs; paths are relative to `data`."""
        labels = {name: data / path for name, path in self.labels.items()}
        return pairs.find_pairs(data / self.images, labels)


class PairsConfig(PairFiles):
    """Images and labels of the user, see :class:`Pairs`."""

    kind: Literal["pairs"]
    nucleus_channel: int = Field(default=0, ge=0)
    membrane_channels: tuple[NonNegativeInt, ...] | None = None
    mpp: float = Field(gt=0, lt=100)
    weight: Positive = 1.0

    def open(self, data: Path) -> Pairs:
        """Open the source; paths are relative to `data`."""
        files = self.find(data)
        return Pairs(files, self.nucleus_channel, self.membrane_channels, self.mpp)


class CropsConfig(Strict):
    """Labelled crops of one large image, see :class:`Crops`.

    Attributes
    ----------
    turns : int
        Quarter turns of the crops when the teacher labelled them. The labels have the
        orientation of the image; the value is needed only to create them again.
    """

    kind: Literal["crops"]
    image: Path
    labels: Path
    columns: tuple[int, int] = EVERY_COLUMN
    channels: tuple[NonNegativeInt, ...] | None = Field(default=None, min_length=1)
    turns: int = Field(default=0, ge=0, le=3)
    weight: Positive = 1.0

    def open(self, data: Path, images: ScaledImages) -> Crops:
        """Open the source; paths are relative to `data`."""
        image, labels = data / self.image, data / self.labels
        if not labels.exists():
            raise InputError(_missing_labels(image, labels, self))
        return Crops(image, labels, self.columns, self.channels, images)


class NucleiConfig(Strict):
    """Images of nuclei alone, see :class:`Nuclei`."""

    kind: Literal["nuclei"]
    images: Path
    share: float = Field(default=1.0, gt=0, le=1)
    weight: Positive = 1.0

    def open(self, data: Path) -> ExampleSource:
        """Open the source; paths are relative to `data`."""
        return Nuclei(data / self.images, self.share)


class PairConfig(Strict):
    """One image with its labels, see :class:`LabelledImage`."""

    kind: Literal["pair"]
    file: Path
    nucleus: int = Field(default=0, ge=0)
    weight: Positive = 1.0

    def open(self, data: Path) -> ExampleSource:
        """Open the source; paths are relative to `data`."""
        return LabelledImage(data / self.file, self.nucleus)


class SyntheticConfig(Strict):
    """Rendered tissue, see :class:`Synthetic`."""

    kind: Literal["synthetic"]
    weight: Positive = 1.0

    def open(self, data: Path) -> ExampleSource:
        """Open the source."""
        del data
        return Synthetic()


AnySource = Annotated[
    CropsConfig | NucleiConfig | PairConfig | PairsConfig | SyntheticConfig,
    Field(discriminator="kind"),
]
ValidationSource = Crops | Pairs


def open_source(source: Any, data: Path, images: ScaledImages) -> Any:
    """Open a source; paths are relative to `data`.

    Parameters
    ----------
    source : CropsConfig, NucleiConfig, PairConfig, PairsConfig or SyntheticConfig
        Configuration of the source.
    data : Path
        Folder of the data.
    images : ScaledImages
        Images shared by several sources.

    Raises
    ------
    InputError
        If a file is missing or unreadable.
    """
    try:
        if isinstance(source, CropsConfig):
            return source.open(data, images)
        return source.open(data)
    except CodexsegError:
        raise
    except _UNREADABLE as error:
        raise InputError(
            f"The source {source.model_dump(mode='json')} cannot be read in "
            f"{data} ({type(error).__name__}: {error}). Correct the path, or name "
            f"the folder of the data with --data."
        ) from error


def _missing_labels(image: Path, labels: Path, source: CropsConfig) -> str:
    """Return a message with the command that creates the labels of a teacher."""
    options = ""
    if source.channels:
        options = f" --channels {' '.join(map(str, source.channels))}"
    if source.columns != EVERY_COLUMN:
        options += f" --columns {source.columns[0]} {source.columns[1]}"
    if source.turns:
        options += f" --turns {source.turns}"
    return (
        f"{labels} not found, expected labels of crops of {image}. Name the folder of the "
        f"data with --data, correct the path, or create the labels with a teacher: "
        f"'codexseg models fetch instanseg', then 'python -m "
        f"codexseg.training.data.teacher {image} INSTANSEG.pt --out {labels}{options}' "
        f"(needs torch)."
    )
