"""Batches of tiles with their targets: each a function of the seed and its number."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from codexseg.backends.contract import TILE_PX
from codexseg.training.augment import augmented
from codexseg.training.examples import Labels, Rng, Source, choose
from codexseg.training.targets import BACKGROUND, classes, inner_distance

Floats = NDArray[np.float32]

_TILES_PER_IMAGE = 2
_ROOM = 1.2
"""An image this much larger than a tile gives two that differ."""


def batch(
    sources: Sequence[Source], weights: Sequence[float], size: int, seed: int, number: int
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

    Returns
    -------
    tiles : (n, 256, 256, 2) float32
        Nucleus and membrane, 0 to 1.
    targets : (n, 256, 256, 5) float32
        See :func:`codexseg.training.network.loss`.
    """
    rng = np.random.default_rng([seed, number])
    tiles = np.empty((size, TILE_PX, TILE_PX, 2), np.float32)
    targets = np.empty((size, TILE_PX, TILE_PX, 5), np.float32)
    at = 0
    while at < size:
        example = choose(sources, weights, rng)
        pixels, cells, nuclei = augmented(example, rng, TILE_PX)
        maps = _targets(cells, nuclei)
        tiles_here = _TILES_PER_IMAGE if min(nuclei.shape) > _ROOM * TILE_PX else 1
        for _ in range(min(tiles_here, size - at)):
            place = _place(pixels.shape[1:], rng)
            tiles[at] = np.moveaxis(pixels[:, *place], 0, -1)
            targets[at] = maps[place]
            at += 1
    return tiles, targets


def _targets(cells: Labels | None, nuclei: Labels) -> Floats:
    maps = np.zeros((*nuclei.shape, 5), np.float32)
    maps[..., 1] = BACKGROUND
    if cells is not None:
        maps[..., 0], maps[..., 1], maps[..., 4] = inner_distance(cells), classes(cells), 1
    maps[..., 2], maps[..., 3] = inner_distance(nuclei), classes(nuclei)
    return maps


def _place(shape: Sequence[int], rng: Rng) -> tuple[slice, slice]:
    y, x = (int(rng.integers(0, side - TILE_PX + 1)) for side in shape)
    return slice(y, y + TILE_PX), slice(x, x + TILE_PX)
