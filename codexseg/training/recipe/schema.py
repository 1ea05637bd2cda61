"""Recipe schema: settings of a training, checked before any image is read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AliasChoices,
    BeforeValidator,
    Discriminator,
    Field,
    NonNegativeInt,
    PositiveInt,
    Tag,
    model_validator,
)

from codexseg.backends.networks.contract import TILE_PX
from codexseg.training.augmentation.presets import AUGMENTATIONS, AugmentationPreset
from codexseg.training.data import pairs
from codexseg.training.data.examples import ExampleSource, ScaledImages
from codexseg.training.data.pair_examples import Pairs
from codexseg.training.networks.test_time import MAX_UPSAMPLE, TestTime
from codexseg.training.recipe.sources import (
    AnySource,
    CropsConfig,
    PairFiles,
    PairsConfig,
    Positive,
    Strict,
    ValidationSource,
    open_source,
)

_SPLIT = 0.2
_SKIPS = {"joined": "concat", "added": "add"}
EMBEDDED = "embedded"
MAX_LEVELS = 8
"""Tiles of 256 px are 1 px wide on the last level."""

Augmentation = Literal["strong", "mild", "wide"]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Skips = Annotated[
    Literal["concat", "add"],
    BeforeValidator(lambda v: _SKIPS.get(v, v) if isinstance(v, str) else v),
]
"""Skip connections; joined and added are accepted as well."""
Upsample = Annotated[float, Field(ge=1, le=MAX_UPSAMPLE)]


def _as_tuple(value: object) -> object:
    return (value,) if isinstance(value, str) else value


class Recipe(Strict):
    """Training of a network for cells and nuclei: preset ``panoptic``.

    Attributes
    ----------
    steps : int
        Total number of batches, rounded up to whole epochs.
    steps_per_epoch : int
        Batches between two checkpoints and lines of the log.
    tiles : int
        Tiles of 256 px in a batch.
    learning_rate : float
        Maximum; it warms up and then decreases along a cosine to 1 %.
    precision : "float32" or "bfloat16"
        Precision of the arithmetic during training; the network itself is float32. bfloat16
        halves the time on processors that support it (AMX), and is slower on others.
    seed : int
        Seed of the weights and of all random numbers.
    channels : tuple of int
        Channels of the network's levels, from half resolution on.
    augmentation : "strong", "mild" or "wide", or several of them
        Strength of augmentation, see `augmentation.presets.AUGMENTATIONS`. If several are
        given, one is drawn for each image.
    start : "embedded", Path, Recipe or None
        Initial weights: of the network in the package, of an ONNX file that ``codexseg
        train`` exported, or of a network that another recipe trains first. None: random.
    patience : int, optional
        Stop when the validation loss has not decreased for so many epochs, and use the
        weights of the best epoch. None: train all steps, and use the last weights.
    sources : tuple
        Image sources and their weights.
    split : float, optional
        Share of the images of `pairs` for validation, drawn with the seed.
    validation : CropsConfig or PairsConfig, optional
        Validation images, instead of a split. Post-processing is tuned on them.
    scales : tuple of float
        Magnifications of the validation images for tuning: 0.5 halves the diameter of
        cells, so that the parameters suit small cells too.
    skips : "concat" or "add", optional
        Skip connections of the network; "add" is 25 % faster. The words joined and added
        are accepted as well. None: as in the network of `start`, or concat.
    flip : bool
        Key ``turned`` or ``flip``. The exported network evaluates each tile twice, the
        second time rotated by 180 degrees, and returns the mean: better maps for twice the
        time.
    upsample : float, optional
        Key ``enlarged`` or ``upsample``. The exported network magnifies each tile by this
        factor: finer maps for its square in time. None: as in the network of `start`, or 1.
    train_upsample : float, optional
        Key ``learns_enlarged`` or ``train_upsample``. Magnification of training images.
        None: `upsample`.
    licence : str
        Licence in the metadata of the exported network.
    """

    preset: Literal["panoptic"] = "panoptic"
    steps: int = Field(default=2600, ge=1)
    steps_per_epoch: int = Field(default=130, ge=1)
    tiles: int = Field(default=8, ge=1)
    learning_rate: Positive = 1e-3
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: Seed = 0
    channels: tuple[PositiveInt, ...] = Field(
        default=(32, 64, 96, 128), min_length=2, max_length=MAX_LEVELS
    )
    augmentation: Annotated[tuple[Augmentation, ...], BeforeValidator(_as_tuple)] = Field(
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
    skips: Skips | None = None
    flip: bool = Field(default=False, validation_alias=AliasChoices("turned", "flip"))
    upsample: Upsample | None = Field(
        default=None, validation_alias=AliasChoices("enlarged", "upsample")
    )
    train_upsample: Upsample | None = Field(
        default=None, validation_alias=AliasChoices("learns_enlarged", "train_upsample")
    )
    licence: str = ""

    @model_validator(mode="after")
    def _check_validation(self) -> "Recipe":
        if self.split is not None and self.validation is not None:
            raise ValueError("split and validation exclude each other; remove one")
        has_pairs = any(isinstance(source, PairsConfig) for source in self.sources)
        if self.split is not None and not has_pairs:
            raise ValueError("split needs a source of kind pairs; add one")
        if self.patience and self.split is None and self.validation is None:
            raise ValueError("patience needs validation images; add split or validation")
        return self

    @model_validator(mode="after")
    def _check_start(self) -> "Recipe":
        if not isinstance(self.start, Recipe):
            return self
        if self.start.channels != self.channels:
            raise ValueError(
                f"start trains a network with channels {list(self.start.channels)}, "
                f"expected the same channels as here"
            )
        theirs = self.start.network_skips
        if self.skips and theirs and self.skips != theirs:
            raise ValueError(
                f"start trains a network with skips {theirs}, got {self.skips}; set skips "
                f"to {theirs}, or remove it"
            )
        return self

    @model_validator(mode="after")
    def _check_upsample(self) -> "Recipe":
        levels, factor = len(self.channels), self.test_time.upsample
        if not self.test_time.fits(levels):
            raise ValueError(
                f"enlarged {factor:g} gives a network of {levels} levels tiles of "
                f"{TILE_PX * factor:g} px, expected a multiple of {2**levels} px; set it "
                f"to 1 plus a multiple of {2**levels / TILE_PX:g}"
            )
        return self

    @property
    def network_skips(self) -> Literal["concat", "add"] | None:
        """Skips of the trained network; None: those of an ONNX file under `start`."""
        if self.skips is not None or self.start is None:
            return self.skips or "concat"
        return self.start.network_skips if isinstance(self.start, Recipe) else None

    @property
    def test_time(self) -> TestTime:
        """Test-time augmentation of the exported network."""
        return TestTime(self.flip, self.upsample or 1.0)

    @property
    def presets(self) -> list[AugmentationPreset]:
        """Augmentation presets at the magnification of training."""
        factor = self.train_upsample or self.test_time.upsample
        return [AUGMENTATIONS[name].upsample(factor) for name in self.augmentation]

    @property
    def weights(self) -> list[float]:
        """Relative frequency of each source."""
        return [source.weight for source in self.sources]

    def open_all(
        self, data: Path, images: ScaledImages | None = None
    ) -> tuple[list[ExampleSource], list[ValidationSource]]:
        """Open training sources and validation sources.

        Parameters
        ----------
        data : Path
            Folder that the recipe's paths are relative to.
        images : ScaledImages, optional
            Images that are already loaded.

        Raises
        ------
        InputError
            If a file is missing or unreadable.
        """
        images = images or ScaledImages()
        train: list[ExampleSource] = []
        validation: list[ValidationSource] = []
        for config in self.sources:
            source = open_source(config, data, images)
            if self.split is not None and isinstance(source, Pairs):
                source, held_out = source.split(self.split, self.seed)
                validation.append(held_out)
            train.append(source)
        if self.validation is not None:
            validation.append(open_source(self.validation, data, images))
        return train, validation


def _kind_of_start(start: object) -> str:
    if start == EMBEDDED:
        return "name"
    return "recipe" if isinstance(start, dict | Recipe) else "file"


Start = Annotated[
    Annotated[Literal["embedded"], Tag("name")]
    | Annotated[Path, Tag("file")]
    | Annotated[Recipe, Tag("recipe")],
    Discriminator(_kind_of_start),
]
Recipe.model_rebuild()


class UnetRecipe(PairFiles):
    """Training of a semantic U-Net: preset ``unet``.

    Attributes
    ----------
    images, cells, nuclei : Path
        See :class:`PairFiles`. The network has one foreground map per kind of labels.
    inputs : dict of str to int or tuple of int
        Inputs of the network: a name, and a channel of the images, or several channels that
        are merged by their maximum. Slides provide nucleus and wholecell.
    scaling : "levels" or "range"
        Intensities that become 0 and 1, see `codexseg.backends.unet.spec.UnetSpec`.
    mpp : float, optional
        Micrometres per pixel of the images; slides are then segmented at the same scale.
    height : int, optional
        Height of resized images; the width follows, to the nearest multiple of the pooling
        grid. None: each side to the nearest multiple.
    widths : tuple of int
        Channels of the levels.
    loss : "bce" or "bce_dice"
        Binary cross-entropy, or the sum of it and half of 1 - Dice.
    learning_rate : float
        Learning rate of Adam.
    batch : int
        Images in a batch.
    epochs : int
        Maximum number of epochs.
    seed : int
        Seed of the weights, of the order of the images, and of the split.
    flips : bool
        Flip training images at random.
    split : float, optional
        Share of the images for validation, drawn with the seed; 0: none. 0.2 if neither
        split nor validation is given.
    validation : PairFiles, optional
        Validation images, instead of a split.
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
    def _check(self) -> "UnetRecipe":
        if self.height is not None and self.height % self.grid:
            raise ValueError(f"height must be a multiple of {self.grid}")
        validation = self.validation
        if validation is not None and self.split is not None:
            raise ValueError("split and validation exclude each other; remove one")
        if validation is not None and set(validation.labels) != set(self.labels):
            raise ValueError("validation needs labels of the same kinds as the images")
        if self.patience and validation is None and self.split == 0:
            raise ValueError("patience needs validation images; set split above 0")
        return self

    @property
    def grid(self) -> int:
        """Sides of images are multiples of this: 2 per pooling step."""
        return int(2 ** (len(self.widths) - 1))

    @property
    def channels(self) -> list[Sequence[int]]:
        """Image channels of each input."""
        return [(c,) if isinstance(c, int) else c for c in self.inputs.values()]

    def open(self, data: Path) -> tuple[list[pairs.Pair], list[pairs.Pair]]:
        """Find training and validation images.

        Raises
        ------
        InputError
            If images and labels do not match.
        """
        train = self.find(data)
        if self.validation is not None:
            return train, self.validation.find(data)
        share = _SPLIT if self.split is None else self.split
        return pairs.split_pairs(train, share, self.seed)


AnyRecipe = Recipe | UnetRecipe
