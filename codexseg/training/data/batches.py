"""Batches of tiles and targets, each a function of the seed and the batch number."""

from collections.abc import Sequence

import numpy as np

from codexseg.arrays import Float32, Labels
from codexseg.backends.networks.contract import TILE_PX
from codexseg.training.augmentation.geometry import augment
from codexseg.training.augmentation.presets import AUGMENTATIONS, AugmentationPreset
from codexseg.training.data.examples import ExampleSource, draw_example, draw_window
from codexseg.training.data.targets import BACKGROUND, inner_distance, pixel_classes

TARGETS = 6
"""Number of target maps, see `codexseg.training.networks.panoptic.panoptic_loss`."""
_ROOM = 1.2
"""Images larger than a tile by this factor give several tiles."""


def make_batch(
    sources: Sequence[ExampleSource],
    weights: Sequence[float],
    size: int,
    seed: int,
    number: int,
    presets: Sequence[AugmentationPreset] = (AUGMENTATIONS["strong"],),
) -> tuple[Float32, Float32]:
    """Draw, augment and cut the tiles of one batch.

    Parameters
    ----------
    sources : sequence of ExampleSource
        Sources of examples.
    weights : sequence of float
        Relative frequency of each source.
    size : int
        Number of tiles.
    seed, number : int
        Equal seed and number give an equal batch.
    presets : sequence of AugmentationPreset
        One is drawn for each image.

    Returns
    -------
    tiles : (n, 256, 256, 2) float32
        Nucleus and membrane, 0 to 1.
    targets : (n, 256, 256, 6) float32
        See :func:`codexseg.training.networks.panoptic.panoptic_loss`.
    """
    rng = np.random.default_rng([seed, number])
    tiles = np.empty((size, TILE_PX, TILE_PX, 2), np.float32)
    targets = np.empty((size, TILE_PX, TILE_PX, TARGETS), np.float32)
    at = 0
    while at < size:
        example = draw_example(sources, weights, rng)
        preset = presets[int(rng.integers(len(presets)))]
        pixels, cells, nuclei = augment(example, rng, TILE_PX, preset)
        maps = make_targets(cells, nuclei, pixels.shape[1:])
        count = preset.tiles if min(pixels.shape[1:]) > _ROOM * TILE_PX else 1
        for _ in range(min(count, size - at)):
            window = draw_window(pixels.shape[1:], TILE_PX, rng)
            tiles[at] = np.moveaxis(pixels[:, *window], 0, -1)
            targets[at] = maps[window]
            at += 1
    return tiles, targets


def make_targets(
    cells: Labels | None, nuclei: Labels | None, shape: Sequence[int]
) -> Float32:
    """Return the targets (y, x, 6) of an image; missing labels get weight 0."""
    maps = np.zeros((TARGETS, *shape), np.float32)
    for number, labels in enumerate((cells, nuclei)):
        distance, kind, weight = 2 * number, 2 * number + 1, 4 + number
        maps[kind] = BACKGROUND
        if labels is not None:
            maps[distance], maps[kind] = inner_distance(labels), pixel_classes(labels)
            maps[weight] = 1
    return np.moveaxis(maps, 0, -1)
