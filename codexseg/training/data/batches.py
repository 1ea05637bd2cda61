"""Batches of tiles with their targets: each a function of the seed and its number."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from codexseg.backends.networks.contract import TILE_PX
from codexseg.training.augmentation.geometry import augmented
from codexseg.training.augmentation.presets import STRENGTHS, Strength
from codexseg.training.data.examples import Labels, Rng, Source, choose
from codexseg.training.data.targets import BACKGROUND, classes, inner_distance

Floats = NDArray[np.float32]

TARGETS = 6
"""Maps that a target has, see :func:`codexseg.training.networks.panoptic.loss`."""
_ROOM = 1.2
"""An image this much larger than a tile gives two that differ."""


def batch(
    sources: Sequence[Source],
    weights: Sequence[float],
    size: int,
    seed: int,
    number: int,
    strengths: Sequence[Strength] = (STRENGTHS["strong"],),
) -> tuple[Floats, Floats]:
    """Make a batch.

    Parameters
    ----------
    sources, weights
        Where examples come from, and how often from each.
    size : int
        Tiles.
    seed, number : int
        The same two give the same batch.
    strengths : sequence of Strength
        How far images are changed; one is drawn for each.

    Returns
    -------
    tiles : (n, 256, 256, 2) float32
        Nucleus and membrane, 0 to 1.
    targets : (n, 256, 256, 6) float32
        See :func:`codexseg.training.networks.panoptic.loss`.
    """
    rng = np.random.default_rng([seed, number])
    tiles = np.empty((size, TILE_PX, TILE_PX, 2), np.float32)
    targets = np.empty((size, TILE_PX, TILE_PX, TARGETS), np.float32)
    at = 0
    while at < size:
        example = choose(sources, weights, rng)
        how = strengths[int(rng.integers(len(strengths)))]
        pixels, cells, nuclei = augmented(example, rng, TILE_PX, how)
        maps = targets_of(cells, nuclei, pixels.shape[1:])
        tiles_here = how.tiles if min(pixels.shape[1:]) > _ROOM * TILE_PX else 1
        for _ in range(min(tiles_here, size - at)):
            place = _place(pixels.shape[1:], rng)
            tiles[at] = np.moveaxis(pixels[:, *place], 0, -1)
            targets[at] = maps[place]
            at += 1
    return tiles, targets


def targets_of(cells: Labels | None, nuclei: Labels | None, shape: Sequence[int]) -> Floats:
    """Return the targets (y, x, 6) of an image; those of None have no weight."""
    maps = np.zeros((TARGETS, *shape), np.float32)
    for number, labels in enumerate((cells, nuclei)):
        distance, kind, weight = 2 * number, 2 * number + 1, 4 + number
        maps[kind] = BACKGROUND
        if labels is not None:
            maps[distance], maps[kind] = inner_distance(labels), classes(labels)
            maps[weight] = 1
    return np.moveaxis(maps, 0, -1)


def _place(shape: Sequence[int], rng: Rng) -> tuple[slice, slice]:
    y, x = (int(rng.integers(0, side - TILE_PX + 1)) for side in shape)
    return slice(y, y + TILE_PX), slice(x, x + TILE_PX)
