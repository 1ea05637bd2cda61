"""The configuration of a training: a YAML file, checked before anything is loaded."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    NonNegativeInt,
    PositiveInt,
    Tag,
    model_validator,
)

from codexseg.backends.networks.contract import TILE_PX
from codexseg.training.augmentation.presets import STRENGTHS, Strength
from codexseg.training.data import pairs
from codexseg.training.data.examples import Source
from codexseg.training.data.pair_examples import Pairs
from codexseg.training.networks.test_time import MOST_ENLARGED, Views
from codexseg.training.recipe.sources import (
    AnySource,
    CropsConfig,
    Held,
    PairFiles,
    PairsConfig,
    Positive,
    Strict,
    open_source,
)

_SPLIT = 0.2
EMBEDDED = "embedded"
MOST_LEVELS = 8
"""Of a network that sees tiles of 256 px: the last one is 1 px wide."""

Augmentation = Literal["strong", "mild", "wide"]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


def _listed(said: object) -> object:
    return (said,) if isinstance(said, str) else said


class Recipe(Strict):
    """How a network for cells and nuclei is trained: preset ``panoptic``.

    Attributes
    ----------
    steps : int
        Batches in all; whole epochs are trained.
    steps_per_epoch : int
        After so many, a checkpoint and a line in the log.
    tiles : int
        Of 256 px, in a batch.
    learning_rate : float
        Its greatest; it warms up and then falls along a cosine to 1 %.
    precision : "float32" or "bfloat16"
        Of the arithmetic while it trains; the network itself is float32. bfloat16 takes
        half the time on processors that have it (AMX), more on others.
    seed : int
        Of the weights and of all that is drawn.
    channels : tuple of int
        Of the network's levels, from half the resolution on.
    augmentation : "strong", "mild" or "wide", or several of them
        How far images are changed before they are shown, see `strength.STRENGTHS`; of
        several, one is drawn for each image.
    start : "embedded", Path, Recipe or None
        The weights to begin with: those of the network that ships in the package, of an
        ONNX file that ``codexseg train`` made, or of a network that another recipe makes
        first; None: none.
    patience : int, optional
        Training ends when the loss of the images that are held back has not fallen for so
        many epochs; the weights of the best epoch are taken. None: all steps are done,
        and the last weights taken.
    sources : tuple
        Where the images come from, and how often from each.
    split : float, optional
        The share of the images of `pairs` that is held back, drawn by the seed.
    validation : CropsConfig or PairsConfig, optional
        Images that are held back instead. On them the constants of post-processing are
        chosen.
    scales : tuple of float
        The sizes at which these images are shown for that: 0.5 shows cells of half the
        diameter, so that constants suit small cells too.
    skips : "joined" or "added", optional
        How the network's way up takes what its way down has seen at the same size. Added
        is quicker by a quarter. None: as the network of `start` does, or joined.
    turned : bool
        The network's file sees each tile twice, as it is and upside down, and gives the
        mean: better maps for twice the time.
    enlarged : float, optional
        The network's file sees each tile so much larger than it is: finer maps, for the
        square of that in time. None: as that of `start` does, or 1.
    learns_enlarged : float, optional
        So much larger are the images from which it learns. None: `enlarged`.
    licence : str
        What the network's file says of its licence.
    """

    preset: Literal["panoptic"] = "panoptic"
    steps: int = Field(default=2600, ge=1)
    steps_per_epoch: int = Field(default=130, ge=1)
    tiles: int = Field(default=8, ge=1)
    learning_rate: Positive = 1e-3
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: Seed = 0
    channels: tuple[PositiveInt, ...] = Field(
        default=(32, 64, 96, 128), min_length=2, max_length=MOST_LEVELS
    )
    augmentation: Annotated[tuple[Augmentation, ...], BeforeValidator(_listed)] = Field(
        default=("strong",), min_length=1
    )
    start: "Start | None" = None
    patience: int | None = Field(default=None, ge=1)
    sources: tuple[AnySource, ...] = Field(min_length=1)
    split: float | None = Field(default=None, gt=0, lt=1)
    validation: CropsConfig | PairsConfig | None = Field(default=None, discriminator="kind")
    scales: tuple[Annotated[float, Field(ge=0.25, le=4)], ...] = Field(
        default=(1.0,), min_length=1
    )
    skips: Literal["joined", "added"] | None = None
    turned: bool = False
    enlarged: float | None = Field(default=None, ge=1, le=MOST_ENLARGED)
    learns_enlarged: float | None = Field(default=None, ge=1, le=MOST_ENLARGED)
    licence: str = ""

    @model_validator(mode="after")
    def _holds_back(self) -> "Recipe":
        if self.split is not None and self.validation is not None:
            raise ValueError("give split or validation, not both")
        has_pairs = any(isinstance(source, PairsConfig) for source in self.sources)
        if self.split is not None and not has_pairs:
            raise ValueError("split holds back images of a source of kind pairs: add one")
        if self.patience and self.split is None and self.validation is None:
            raise ValueError("patience needs images that are held back: add split")
        return self

    @model_validator(mode="after")
    def _goes_on(self) -> "Recipe":
        if not isinstance(self.start, Recipe):
            return self
        if self.start.channels != self.channels:
            raise ValueError(
                f"start makes a network of the channels {list(self.start.channels)}, "
                f"expected the same as here"
            )
        theirs = self.start.made_skips
        if self.skips and theirs and self.skips != theirs:
            raise ValueError(
                f"start makes a network whose skips are {theirs}, got {self.skips}: set "
                f"skips to {theirs} here, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _can_be_enlarged(self) -> "Recipe":
        levels, factor = len(self.channels), self.views.enlarged
        if not self.views.fits(levels):
            raise ValueError(
                f"enlarged {factor:g} shows a network of {levels} levels tiles of "
                f"{TILE_PX * factor:g} px, expected a multiple of {2**levels} px: set it "
                f"to 1 or more by a multiple of {2**levels / TILE_PX:g}"
            )
        return self

    @property
    def made_skips(self) -> Literal["joined", "added"] | None:
        """The skips of the network that this makes; None: those of a file under `start`."""
        if self.skips is not None or self.start is None:
            return self.skips or "joined"
        return self.start.made_skips if isinstance(self.start, Recipe) else None

    @property
    def views(self) -> Views:
        """How the network's file looks at a tile."""
        return Views(self.turned, self.enlarged or 1.0)

    @property
    def strengths(self) -> list[Strength]:
        """How far images are changed; one is drawn for each image."""
        factor = self.learns_enlarged or self.views.enlarged
        return [STRENGTHS[name].enlarged(factor) for name in self.augmentation]

    @property
    def weights(self) -> list[float]:
        """How often each source is drawn from."""
        return [source.weight for source in self.sources]

    def open(self, data: Path) -> list[Source]:
        """Open all sources; what is held back is not in them.

        Raises
        ------
        InputError
            If a file is not there or cannot be read.
        """
        return self.open_all(data)[0]

    def open_all(self, data: Path) -> tuple[list[Source], list[Held]]:
        """Open all sources, and what is held back of them.

        Raises
        ------
        InputError
            If a file is not there or cannot be read.
        """
        opened: list[Source] = []
        held: list[Held] = []
        for source in self.sources:
            found = open_source(source, data)
            if self.split is not None and isinstance(found, Pairs):
                found, back = found.split(self.split, self.seed)
                held.append(back)
            opened.append(found)
        if self.validation is not None:
            held.append(open_source(self.validation, data))
        return opened, held


def _kind_of_start(said: object) -> str:
    if said == EMBEDDED:
        return "name"
    return "recipe" if isinstance(said, dict | Recipe) else "file"


Start = Annotated[
    Annotated[Literal["embedded"], Tag("name")]
    | Annotated[Path, Tag("file")]
    | Annotated[Recipe, Tag("recipe")],
    Discriminator(_kind_of_start),
]
Recipe.model_rebuild()


class UnetRecipe(PairFiles):
    """How a semantic U-Net is trained: preset ``unet``.

    Attributes
    ----------
    images, cells, nuclei : Path
        See :class:`PairFiles`; a map of the foreground is learnt for each kind of labels.
    inputs : dict of str to int or tuple of int
        What the network reads: a name and the channel of the images, or several of which
        the maximum is taken. On slides it runs with the names nucleus and wholecell.
    scaling : "levels" or "range"
        Grey levels that become 0 and 1, see `codexseg.backends.unet.spec.UnetSpec`.
    mpp : float, optional
        Micrometres per pixel of the images; slides are then shown at the same scale.
    height : int, optional
        Images are brought to this height, the width follows to the nearest multiple of
        the pooling grid; None: each side to the nearest multiple.
    widths : tuple of int
        Channels of the levels.
    loss : "bce" or "bce_dice"
        Binary cross-entropy, or that and half of 1 - Dice.
    learning_rate : float
        Of Adam.
    batch : int
        Images in a batch.
    epochs : int
        At most so many passes over the images.
    seed : int
        Of the weights, of the order of the images, and of the split.
    flips : bool
        Show images also mirrored.
    split : float, optional
        The share of the images that is held back, drawn by the seed; 0: none. A fifth
        where nothing is said of split and validation.
    validation : PairFiles, optional
        Images that are held back instead.
    patience : int, optional
        See :class:`Recipe`.
    """

    preset: Literal["unet"]
    inputs: dict[str, NonNegativeInt | tuple[NonNegativeInt, ...]] = Field(
        default={"nucleus": 0}, min_length=1
    )
    scaling: Literal["levels", "range"] = "levels"
    mpp: float | None = Field(default=None, gt=0, lt=100)
    height: int | None = Field(default=256, ge=16)
    widths: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(64, 128, 256, 512, 1024), min_length=2, max_length=8
    )
    loss: Literal["bce", "bce_dice"] = "bce"
    learning_rate: Positive = 1e-4
    batch: int = Field(default=2, ge=1)
    epochs: int = Field(default=100, ge=1)
    seed: Seed = 0
    flips: bool = False
    split: float | None = Field(default=None, ge=0, lt=1)
    validation: PairFiles | None = None
    patience: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _fits(self) -> "UnetRecipe":
        if self.height is not None and self.height % self.grid:
            raise ValueError(f"height must be a multiple of {self.grid}")
        given = self.validation
        if given is not None and self.split is not None:
            raise ValueError("give split or validation, not both")
        if given is not None and set(given.labels) != set(self.labels):
            raise ValueError("validation needs labels of the same kinds as the images")
        if self.patience and given is None and self.split == 0:
            raise ValueError("patience needs images that are held back: set split above 0")
        return self

    @property
    def grid(self) -> int:
        """Sides of images are multiples of this: 2 for each time that pixels are pooled."""
        return int(2 ** (len(self.widths) - 1))

    @property
    def channels(self) -> list[Sequence[int]]:
        """The channels of the images that each input is made of."""
        return [(c,) if isinstance(c, int) else c for c in self.inputs.values()]

    def open(self, data: Path) -> tuple[list[pairs.Pair], list[pairs.Pair]]:
        """Find the images that are learnt from, and those that are held back.

        Raises
        ------
        InputError
            If images and labels do not fit.
        """
        found = self.find(data)
        if self.validation is not None:
            return found, self.validation.find(data)
        share = _SPLIT if self.split is None else self.split
        return pairs.split(found, share, self.seed)


AnyRecipe = Recipe | UnetRecipe
