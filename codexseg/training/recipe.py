"""The configuration of a training: a YAML file, checked before anything is loaded."""

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from codexseg.errors import ConfigError, InputError
from codexseg.training.examples import Crops, Nuclei, Pair, Source, Synthetic


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CropsConfig(_Strict):
    """Labelled crops of one large image, see :class:`Crops`."""

    kind: Literal["crops"]
    image: Path
    labels: Path
    columns: tuple[int, int] = (0, 2**31)
    weight: float = Field(default=1.0, gt=0)

    def open(self, data: Path) -> Source:
        """Open the source; paths are relative to `data`."""
        return Crops(data / self.image, data / self.labels, self.columns)


class NucleiConfig(_Strict):
    """Images of nuclei alone, see :class:`Nuclei`."""

    kind: Literal["nuclei"]
    images: Path
    share: float = Field(default=1.0, gt=0, le=1)
    weight: float = Field(default=1.0, gt=0)

    def open(self, data: Path) -> Source:
        """Open the source; paths are relative to `data`."""
        return Nuclei(data / self.images, self.share)


class PairConfig(_Strict):
    """One image with its labels, see :class:`Pair`."""

    kind: Literal["pair"]
    file: Path
    nucleus: int = Field(default=0, ge=0)
    weight: float = Field(default=1.0, gt=0)

    def open(self, data: Path) -> Source:
        """Open the source; paths are relative to `data`."""
        return Pair(data / self.file, self.nucleus)


class SyntheticConfig(_Strict):
    """Tissue that is drawn, see :class:`Synthetic`."""

    kind: Literal["synthetic"]
    weight: float = Field(default=1.0, gt=0)

    def open(self, data: Path) -> Source:
        """Open the source."""
        del data
        return Synthetic()


AnySource = Annotated[
    CropsConfig | NucleiConfig | PairConfig | SyntheticConfig, Field(discriminator="kind")
]


class Recipe(_Strict):
    """How a network is trained.

    Attributes
    ----------
    steps : int
        Batches in all.
    steps_per_epoch : int
        After so many, a checkpoint and a line in the log.
    tiles : int
        Of 256 px, in a batch.
    learning_rate : float
        Its greatest; it warms up and then falls along a cosine to 1 %.
    seed : int
        Of the weights and of all that is drawn.
    channels : tuple of int
        Of the network's levels, from half the resolution on.
    sources : tuple
        Where the images come from, and how often from each.
    validation : CropsConfig, optional
        Crops on which the constants of post-processing are chosen.
    """

    preset: Literal["panoptic"] = "panoptic"
    steps: int = Field(default=2600, ge=1)
    steps_per_epoch: int = Field(default=130, ge=1)
    tiles: int = Field(default=8, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    seed: int = Field(default=0, ge=0)
    channels: tuple[int, ...] = Field(default=(32, 64, 96, 128), min_length=2)
    sources: tuple[AnySource, ...] = Field(min_length=1)
    validation: CropsConfig | None = None

    @property
    def weights(self) -> list[float]:
        """How often each source is drawn from."""
        return [source.weight for source in self.sources]

    def open(self, data: Path) -> list[Source]:
        """Open all sources.

        Raises
        ------
        InputError
            If a file is not there or cannot be read.
        """
        opened = []
        for source in self.sources:
            try:
                opened.append(source.open(data))
            except (OSError, ValueError, KeyError) as error:
                raise InputError(
                    f"the source {source.model_dump(mode='json')} cannot be read in "
                    f"{data} ({type(error).__name__}: {error}); correct the path, or name "
                    f"the folder of the data with --data."
                ) from error
        return opened


def load_recipe(path: Path) -> Recipe:
    """Read and check the YAML file of a training.

    Raises
    ------
    ConfigError
        If it cannot be read or is wrong; the message holds all its errors.
    """
    try:
        said = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read as YAML: {error}") from error
    try:
        return Recipe.model_validate(said)
    except ValidationError as error:
        lines = [
            f"{'.'.join(map(str, e['loc']))}: {e['msg']}, got {e['input']!r}"
            for e in error.errors()
        ]
        raise ConfigError(f"{path}:\n" + "\n".join(lines)) from error
