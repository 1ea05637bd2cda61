"""What a U-Net is shown: images of one height, grey levels from 0 to 1, binary masks."""

import logging
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from codexseg.backends.base import ChannelStatistics
from codexseg.backends.unet.spec import limits, scale_to_unit
from codexseg.core.intensity.background import channel_statistics
from codexseg.errors import InputError
from codexseg.training.data.pair_examples import Keep
from codexseg.training.data.pairs import Pair
from codexseg.training.data.resize import nearest, resized
from codexseg.training.recipe.schema import UnetRecipe

log = logging.getLogger(__name__)

Floats = NDArray[np.float32]
Shown = tuple[Floats, NDArray[np.uint32]]

_SAME_MPP = 1.05


class UnetImages:
    """Images with labels as a recipe shows them to the network, read when asked for.

    Parameters
    ----------
    pairs : sequence of Pair
        Which.
    recipe : UnetRecipe
        Channels, scaling and height.

    Raises
    ------
    InputError
        If an image lacks a channel that the recipe names.
    """

    def __init__(self, pairs: Sequence[Pair], recipe: UnetRecipe) -> None:
        self.pairs, self._recipe = list(pairs), recipe
        self._keep: Keep[Shown] = Keep()
        headers = [pair.image.header() for pair in self.pairs]
        highest = max(c for group in recipe.channels for c in group)
        for pair, header in zip(self.pairs, headers, strict=True):
            if header.shape[0] <= highest:
                raise InputError(
                    f"{pair.image} has {header.shape[0]} channels, and the recipe names "
                    f"channel {highest} (they are counted from 0): correct inputs."
                )
        self._sizes = [header.shape[1:] for header in headers]
        self.shapes = [_target(size, recipe) for size in self._sizes]

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def mpp(self) -> float | None:
        """Micrometres per pixel of the images as they are shown: the median."""
        if self._recipe.mpp is None:
            return None
        factors = [
            size[0] / shape[0] for size, shape in zip(self._sizes, self.shapes, strict=True)
        ]
        if max(factors) > _SAME_MPP * min(factors):
            log.warning(
                "images are of different heights, and shown at %.3g to %.3g um per px: "
                "slides will be shown at the median; if that is wrong set height to null",
                min(factors) * self._recipe.mpp,
                max(factors) * self._recipe.mpp,
            )
        return float(np.median(factors) * self._recipe.mpp)

    def labels(self, number: int) -> NDArray[np.uint32]:
        """Return the labels (y, x, outputs) of an image as it is shown."""
        return self._shown(number)[1]

    def batch(
        self, numbers: Sequence[int], rng: np.random.Generator | None = None
    ) -> tuple[Floats, Floats]:
        """Return images (n, y, x, inputs) of one shape, and masks (n, y, x, outputs)."""
        images, masks = [], []
        for number in numbers:
            image, labels = self._shown(number)
            mask = (labels > 0).astype(np.float32)
            if rng is not None and self._recipe.flips:
                turn = tuple(slice(None, None, int(s)) for s in rng.choice([1, -1], 2))
                image, mask = image[turn], mask[turn]
            images.append(image)
            masks.append(mask)
        return np.stack(images), np.stack(masks)

    def _shown(self, number: int) -> Shown:
        return self._keep.get(number, lambda: self._read(number))

    def _read(self, number: int) -> tuple[Shown, int]:
        pixels, labels = self.pairs[number].read()
        shape = self.shapes[number]
        image = np.empty((*shape, len(self._recipe.channels)), np.float32)
        for c, group in enumerate(self._recipe.channels):
            channel = pixels[list(group)].max(axis=0)
            statistics = ChannelStatistics(*channel_statistics(channel))
            unit = scale_to_unit(channel, *limits(statistics, self._recipe.scaling))
            image[..., c] = resized(unit, shape)
        truth = np.stack(
            [nearest(labels[name], shape) for name in self._recipe.labels], axis=-1
        )
        return (image, truth), image.nbytes + truth.nbytes


class Order:
    """Which images make which batch: of one shape, shuffled anew for each epoch.

    Parameters
    ----------
    shapes : sequence of (int, int)
        Height and width of the images.
    size : int
        Images in a batch, the last of a shape may have fewer.
    seed : int or None
        None: the order of the images, every time.
    """

    def __init__(
        self, shapes: Sequence[tuple[int, int]], size: int, seed: int | None
    ) -> None:
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for number, shape in enumerate(shapes):
            groups[shape].append(number)
        self._groups, self._size, self._seed = list(groups.values()), size, seed
        self._drawn: tuple[int, list[list[int]]] = (-1, [])

    def __len__(self) -> int:
        return sum(-(-len(group) // self._size) for group in self._groups)

    def batch(self, number: int) -> list[int]:
        """Return the images of a batch, counted from the first epoch on."""
        epoch, index = divmod(number, len(self))
        if self._drawn[0] != epoch:
            self._drawn = epoch, self._draw(epoch)
        return self._drawn[1][index]

    def _draw(self, epoch: int) -> list[list[int]]:
        groups: list[list[int]] = self._groups
        rng = None if self._seed is None else np.random.default_rng([self._seed, epoch])
        if rng is not None:
            groups = [rng.permutation(group).tolist() for group in groups]
        batches = [
            group[i : i + self._size]
            for group in groups
            for i in range(0, len(group), self._size)
        ]
        if rng is not None:
            batches = [batches[i] for i in rng.permutation(len(batches))]
        return batches


def _target(size: Sequence[int], recipe: UnetRecipe) -> tuple[int, int]:
    """Return height and width as they are shown: multiples of the pooling grid."""
    grid = recipe.grid
    height = recipe.height or max(grid, round(size[0] / grid) * grid)
    scale = height / size[0] if recipe.height else 1.0
    return height, max(grid, round(size[1] * scale / grid) * grid)
