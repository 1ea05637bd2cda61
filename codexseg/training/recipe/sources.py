"""Where a recipe takes its images from: files, columns, channels, and how often."""

import struct
import zlib
from pathlib import Path
from typing import Annotated, Any, Literal
from zipfile import BadZipFile

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, model_validator

from codexseg.errors import CodexsegError, InputError
from codexseg.training.data import pairs
from codexseg.training.data.examples import Crops, Nuclei, Pair, Source, Synthetic
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
    """Keys that are not known are errors."""

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
        """The paths of labels, by compartment."""
        every = {"cells": self.cells, "nuclei": self.nuclei}
        return {name: path for name, path in every.items() if path is not None}

    def find(self, data: Path) -> list[pairs.Pair]:
        """Find the pairs; paths are relative to `data`."""
        labels = {name: data / path for name, path in self.labels.items()}
        return pairs.find_pairs(data / self.images, labels)


class PairsConfig(PairFiles):
    """Images and labels of a user."""

    kind: Literal["pairs"]
    nucleus_channel: int = Field(default=0, ge=0)
    membrane_channels: tuple[NonNegativeInt, ...] | None = None
    mpp: float = Field(gt=0, lt=100)
    weight: Positive = 1.0

    def open(self, data: Path) -> Pairs:
        """Open the source; paths are relative to `data`."""
        found = self.find(data)
        return Pairs(found, self.nucleus_channel, self.membrane_channels, self.mpp)


class CropsConfig(Strict):
    """Labelled crops of one large image, see :class:`Crops`.

    Attributes
    ----------
    turns : int
        Quarter turns by which a teacher saw the crops when it labelled them. The labels
        lie as the image does; this is for who has to make them again.
    """

    kind: Literal["crops"]
    image: Path
    labels: Path
    columns: tuple[int, int] = EVERY_COLUMN
    channels: tuple[NonNegativeInt, ...] | None = Field(default=None, min_length=1)
    turns: int = Field(default=0, ge=0, le=3)
    weight: Positive = 1.0

    def open(self, data: Path) -> Source:
        """Open the source; paths are relative to `data`."""
        image, labels = data / self.image, data / self.labels
        if not labels.exists():
            raise InputError(_no_labels(image, labels, self))
        return Crops(image, labels, self.columns, self.channels)


class NucleiConfig(Strict):
    """Images of nuclei alone, see :class:`Nuclei`."""

    kind: Literal["nuclei"]
    images: Path
    share: float = Field(default=1.0, gt=0, le=1)
    weight: Positive = 1.0

    def open(self, data: Path) -> Source:
        """Open the source; paths are relative to `data`."""
        return Nuclei(data / self.images, self.share)


class PairConfig(Strict):
    """One image with its labels, see :class:`Pair`."""

    kind: Literal["pair"]
    file: Path
    nucleus: int = Field(default=0, ge=0)
    weight: Positive = 1.0

    def open(self, data: Path) -> Source:
        """Open the source; paths are relative to `data`."""
        return Pair(data / self.file, self.nucleus)


class SyntheticConfig(Strict):
    """Tissue that is drawn, see :class:`Synthetic`."""

    kind: Literal["synthetic"]
    weight: Positive = 1.0

    def open(self, data: Path) -> Source:
        """Open the source."""
        del data
        return Synthetic()


AnySource = Annotated[
    CropsConfig | NucleiConfig | PairConfig | PairsConfig | SyntheticConfig,
    Field(discriminator="kind"),
]
Held = Crops | Pairs


def open_source(source: Any, data: Path) -> Any:
    """Open a source; paths are relative to `data`.

    Raises
    ------
    InputError
        If a file is not there or cannot be read.
    """
    try:
        return source.open(data)
    except CodexsegError:
        raise
    except _UNREADABLE as error:
        raise InputError(
            f"the source {source.model_dump(mode='json')} cannot be read in "
            f"{data} ({type(error).__name__}: {error}); correct the path, or name "
            f"the folder of the data with --data."
        ) from error


def _no_labels(image: Path, labels: Path, source: CropsConfig) -> str:
    """Say how a teacher's labels are made."""
    seen = ""
    if source.channels:
        seen = f" --channels {' '.join(map(str, source.channels))}"
    if source.columns != EVERY_COLUMN:
        seen += f" --columns {source.columns[0]} {source.columns[1]}"
    if source.turns:
        seen += f" --turns {source.turns}"
    return (
        f"there is no {labels}, expected labels of crops of {image}: name the folder of "
        f"the data with --data, correct the path, or have a teacher make them: 'codexseg "
        f"models fetch instanseg', then 'python -m codexseg.training.data.teacher {image} "
        f"INSTANSEG.pt --out {labels}{seen}' (needs torch)."
    )
