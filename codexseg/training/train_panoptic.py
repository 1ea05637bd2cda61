"""Training the panoptic network: what it learns from, is judged by, and begins with."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from codexseg.backends.networks.contract import TILE_PX
from codexseg.core.intensity.clahe import preprocess
from codexseg.core.intensity.histogram import merge_channels
from codexseg.training.data.batches import TARGETS, Floats, batch, targets_of
from codexseg.training.data.examples import Example, Source
from codexseg.training.data.resize import nearest, resized
from codexseg.training.data.targets import BACKGROUND
from codexseg.training.loop import Batches, finish, fit, has_begun
from codexseg.training.networks.panoptic import build, loss, planes, with_heads
from codexseg.training.networks.pretrained import load_start
from codexseg.training.plots import Sample, draw_samples
from codexseg.training.recipe.schema import Recipe
from codexseg.training.recipe.sources import Held
from codexseg.training.scores import Overlap

SAMPLES = "samples.png"
_MOST_HELD = 24
_MOST_SAMPLES = 4
_SEEN_PX = 512
_LONGEST_AVERAGE = 500
_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


def train(
    sources: Sequence[Source],
    held: Sequence[Held],
    recipe: Recipe,
    out: Path,
    start: Path | None = None,
) -> keras.Model:
    """Train a network; one that was stopped goes on from its last checkpoint.

    Parameters
    ----------
    sources : sequence of Source
        Those of the recipe, opened.
    held : sequence of Crops or Pairs
        What it is judged by, in part.
    recipe : Recipe
        How long, how fast.
    out : Path
        A folder: `log.csv`, `curves.png`, `samples.png`, a checkpoint while it trains,
        `network.keras` at the end.
    start : Path, optional
        The ONNX file whose weights it begins with.

    Returns
    -------
    keras.Model
        The trained network, with averaged weights.
    """

    def made(number: int) -> tuple[Floats, Floats]:
        size, seed = recipe.tiles, recipe.seed
        return batch(sources, recipe.weights, size, seed, number, recipe.strengths)

    keras.utils.set_random_seed(recipe.seed)
    out.mkdir(parents=True, exist_ok=True)
    added = recipe.skips == "added"
    exact = build(recipe.channels, added=added)
    if start is not None and not has_begun(out):
        load_start(exact, start, made)
    network = build(recipe.channels, _POLICIES[recipe.precision], added=added)
    network.set_weights(exact.get_weights())
    network.compile(
        _optimizer(recipe),
        loss=loss,
        metrics=[Overlap("iou", _foregrounds), Overlap("dice", _foregrounds)],
        jit_compile=False,
    )
    tiles, targets = held_tiles(held, recipe.views.enlarged)
    size = recipe.tiles
    judged = Batches(
        math.ceil(len(tiles) / size),
        lambda i: (tiles[i * size : i * size + size], targets[i * size : i * size + size]),
    )
    fit(
        network,
        Batches(recipe.steps_per_epoch, made),
        judged if len(tiles) else None,
        out,
        epochs=math.ceil(recipe.steps / recipe.steps_per_epoch),
        patience=recipe.patience,
    )
    exact.set_weights(network.get_weights())
    draw_samples(list(_samples(exact, tiles, targets)), out / SAMPLES)
    finish(exact, out)
    return exact


def _optimizer(recipe: Recipe) -> Any:
    warm = min(100, max(1, recipe.steps // 10))
    rate = keras.optimizers.schedules.CosineDecay(
        0.0,
        max(1, recipe.steps - warm),
        alpha=0.01,
        warmup_target=recipe.learning_rate,
        warmup_steps=warm,
    )
    # The average looks back over a fifth of a short training.
    steps = min(_LONGEST_AVERAGE, max(1, recipe.steps // 5))
    return keras.optimizers.AdamW(
        rate, weight_decay=1e-4, clipnorm=1.0, use_ema=True, ema_momentum=1 - 1 / steps
    )


def _foregrounds(truth: Any, maps: Any) -> tuple[Any, Any, Any]:
    """Tell where objects of both compartments are, and where that is known."""
    known, seen = planes(truth), planes(maps)
    found = [seen[c + 3] < ops.maximum(seen[c + 1], seen[c + 2]) for c in (0, 4)]
    return (
        ops.stack([known[1], known[3]]) != BACKGROUND,
        ops.stack(found),
        ops.stack(known[4:6]),
    )


def held_tiles(held: Sequence[Held], enlarged: float = 1.0) -> tuple[Floats, Floats]:
    """Return tiles (n, 256, 256, 2) of images that are held back, and their targets.

    One from the middle of each image, of at most 24 images, as the network sees them
    where it is used: so much larger than they are. What an image lacks beside a tile is
    empty and has no weight.
    """
    tiles = np.zeros((_MOST_HELD, TILE_PX, TILE_PX, 2), np.float32)
    targets = np.zeros((_MOST_HELD, TILE_PX, TILE_PX, TARGETS), np.float32)
    count = 0
    for example in _spread(held):
        pixels, target = _seen(example, enlarged)
        height, width = pixels.shape[:2]
        tiles[count, :height, :width] = pixels
        targets[count, :height, :width] = target
        count += 1
    return tiles[:count], targets[:count]


def _spread(held: Sequence[Held]) -> Iterator[Example]:
    """Yield some of the images, evenly spread."""
    total = sum(len(source) for source in held)
    chosen = set(np.linspace(0, total - 1, min(total, _MOST_HELD)).astype(int).tolist())
    number = 0
    for source in held:
        for example in source.every():
            if number in chosen:
                yield example
            number += 1


def _seen(example: Example, enlarged: float) -> tuple[Floats, Floats]:
    """Return what a tile shows of the middle of an image, and its targets."""
    shape, side = example.nucleus.shape, round(TILE_PX / enlarged)
    wide, tile = _middle(shape, _SEEN_PX), _middle(shape, side)
    markers = [marker[wide] for marker in example.markers]
    nucleus = np.ascontiguousarray(example.nucleus[wide])
    membrane = merge_channels(markers) if markers else np.zeros_like(nucleus)
    seen = preprocess(np.stack([nucleus, membrane]))
    inner = _middle(nucleus.shape, side)
    height, width = (min(TILE_PX, round(min(n, side) * enlarged)) for n in shape)
    size = height, width
    cells, nuclei = (
        None if labels is None else nearest(np.ascontiguousarray(labels[tile]), size)
        for labels in (example.cells, example.nuclei)
    )
    channels = [resized(channel, size) for channel in seen[:, *inner]]
    pixels = np.stack(channels, axis=-1)
    return pixels, targets_of(cells, nuclei, pixels.shape[:2])


def _middle(shape: Sequence[int], side: int) -> tuple[slice, slice]:
    y, x = (
        slice((n - min(n, side)) // 2, (n - min(n, side)) // 2 + min(n, side))
        for n in shape
    )
    return y, x


def _samples(network: keras.Model, tiles: Floats, targets: Floats) -> Iterator[Sample]:
    """Show the tiles with the most objects: some of a slide are glass."""
    heads = with_heads(network)
    shares = (targets[..., [1, 3]] != BACKGROUND).mean(axis=(1, 2, 3))
    for number in np.argsort(-shares, kind="stable")[:_MOST_SAMPLES].tolist():
        maps = heads(tiles[number : number + 1], training=False)
        nucleus, membrane = np.moveaxis(tiles[number], -1, 0)
        image = np.stack([membrane, nucleus / 2, nucleus], axis=-1)
        for c, name in enumerate(("cells", "nuclei")):
            if targets[number, ..., 4 + c].any():
                truth = targets[number, ..., 2 * c + 1] != BACKGROUND
                known = truth * targets[number, ..., 4 + c]
                found = 1 - np.asarray(maps[2 * c + 1])[0, ..., BACKGROUND]
                yield Sample(f"{number + 1}, {name}", image, known, found)
