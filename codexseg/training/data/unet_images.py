"""Images of U-Net training: one height, intensities from 0 to 1, binary masks."""

import logging
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from codexseg.arrays import Float32, Labels
from codexseg.backends.base import ChannelStatistics
from codexseg.backends.unet.spec import limits, scale_to_unit
from codexseg.core.intensity.background import channel_statistics
from codexseg.training.data.pair_examples import RecentlyUsed
from codexseg.training.data.pairs import Pair, require_channels
from codexseg.training.data.resize import resize_image, resize_labels
from codexseg.training.recipe.schema import UnetRecipe

log = logging.getLogger(__name__)

ResizedPair = tuple[Float32, Labels]
"""Image (y, x, inputs) and labels (y, x, outputs) at the size of training."""

_SAME_MPP = 1.05


class UnetImages:
    """Images with labels, scaled and resized as a recipe requires, read on demand.

    Parameters
    ----------
    pairs : sequence of Pair
        Images and labels.
    recipe : UnetRecipe
        Channels, scaling and height.

    Raises
    ------
    InputError
        If an image lacks a channel of the recipe.
    """

    def __init__(self, pairs: Sequence[Pair], recipe: UnetRecipe) -> None:
        self.pairs, self._recipe = list(pairs), recipe
        self._recent: RecentlyUsed[ResizedPair] = RecentlyUsed()
        highest = max(c for group in recipe.channels for c in group)
        require_channels(pairs, highest, "inputs")
        self._sizes = [pair.image.header().shape[1:] for pair in pairs]
        self.shapes = [_target(size, recipe) for size in self._sizes]

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def mpp(self) -> float | None:
        """Micrometres per pixel of the resized images: the median."""
        if self._recipe.mpp is None:
            return None
        factors = [
            size[0] / shape[0] for size, shape in zip(self._sizes, self.shapes, strict=True)
        ]
        if max(factors) > _SAME_MPP * min(factors):
            log.warning(
                "Images have different heights, so their pixel size after resizing ranges "
                "from %.3g to %.3g um. Slides are segmented at the median. Set height to "
                "null to keep the pixel size.",
                min(factors) * self._recipe.mpp,
                max(factors) * self._recipe.mpp,
            )
        return float(np.median(factors) * self._recipe.mpp)

    def labels(self, number: int) -> Labels:
        """Return the labels (y, x, outputs) of a resized image."""
        return self._at(number)[1]

    def batch(
        self, numbers: Sequence[int], rng: np.random.Generator | None = None
    ) -> tuple[Float32, Float32]:
        """Return images (n, y, x, inputs) of one shape, and masks (n, y, x, outputs).

        With `rng`, images are flipped at random where the recipe sets `flips`.
        """
        images, masks = [], []
        for number in numbers:
            image, labels = self._at(number)
            mask = (labels > 0).astype(np.float32)
            if rng is not None and self._recipe.flips:
                flip = tuple(slice(None, None, int(s)) for s in rng.choice([1, -1], 2))
                image, mask = image[flip], mask[flip]
            images.append(image)
            masks.append(mask)
        return np.stack(images), np.stack(masks)

    def _at(self, number: int) -> ResizedPair:
        return self._recent.get(number, lambda: self._read(number))

    def _read(self, number: int) -> tuple[ResizedPair, int]:
        pixels, labels = self.pairs[number].read()
        shape = self.shapes[number]
        image = np.empty((*shape, len(self._recipe.channels)), np.float32)
        for c, group in enumerate(self._recipe.channels):
            channel = pixels[list(group)].max(axis=0)
            statistics = ChannelStatistics(*channel_statistics(channel))
            unit = scale_to_unit(channel, *limits(statistics, self._recipe.scaling))
            image[..., c] = resize_image(unit, shape)
        truth = np.stack(
            [resize_labels(labels[name], shape) for name in self._recipe.labels], axis=-1
        )
        return (image, truth), image.nbytes + truth.nbytes


class BatchOrder:
    """Assignment of images to batches of one shape, shuffled for each epoch.

    Parameters
    ----------
    shapes : sequence of (int, int)
        Height and width of the images.
    size : int
        Images in a batch; the last batch of a shape may be smaller.
    seed : int or None
        None keeps the order of the images in every epoch.
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
        """Return the images of a batch; batches are counted from the first epoch on."""
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
    """Return height and width after resizing: multiples of the pooling grid."""
    grid = recipe.grid
    height = recipe.height or max(grid, round(size[0] / grid) * grid)
    scale = height / size[0] if recipe.height else 1.0
    return height, max(grid, round(size[1] * scale / grid) * grid)
