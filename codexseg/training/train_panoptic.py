"""Training of the panoptic network: batches, optimizer, validation tiles and figures."""

import math
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from codexseg.arrays import Float32
from codexseg.backends.networks.contract import TILE_PX
from codexseg.core.intensity.clahe import preprocess
from codexseg.core.intensity.histogram import merge_channels
from codexseg.training.data.batches import TARGETS, make_batch, make_targets
from codexseg.training.data.examples import Example, ExampleSource
from codexseg.training.data.resize import resize_image, resize_labels
from codexseg.training.data.targets import BACKGROUND
from codexseg.training.loop import Batches, fit, has_checkpoint, save_trained
from codexseg.training.networks.panoptic import (
    build_panoptic,
    panoptic_loss,
    unstack_maps,
    with_heads,
)
from codexseg.training.networks.pretrained import load_init_weights
from codexseg.training.plots import PredictedImage, draw_predictions, evenly_spaced
from codexseg.training.recipe.schema import Recipe
from codexseg.training.recipe.sources import ValidationSource
from codexseg.training.scores import Overlap

PREDICTIONS = "samples.png"
_MAX_TILES = 24
_MAX_PREDICTIONS = 4
_CONTEXT_PX = 512
_MAX_AVERAGED_STEPS = 500
_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


def fit_panoptic(
    sources: Sequence[ExampleSource],
    validation: Sequence[ValidationSource],
    recipe: Recipe,
    out: Path,
    init_weights: Path | None = None,
) -> keras.Model:
    """Train a panoptic network, from the last checkpoint if there is one.

    Parameters
    ----------
    sources : sequence of ExampleSource
        The opened sources of the recipe.
    validation : sequence of Crops or Pairs
        Validation images; up to 24 of them are evaluated after each epoch.
    recipe : Recipe
        Settings of the training.
    out : Path
        Folder of `log.csv`, `curves.png`, `samples.png`, a checkpoint during training, and
        `network.keras` at the end.
    init_weights : Path, optional
        ONNX file of the initial weights.

    Returns
    -------
    keras.Model
        The trained network, with averaged weights.
    """

    def make(number: int) -> tuple[Float32, Float32]:
        size, seed = recipe.tiles, recipe.seed
        return make_batch(sources, recipe.weights, size, seed, number, recipe.presets)

    keras.utils.set_random_seed(recipe.seed)
    out.mkdir(parents=True, exist_ok=True)
    add = recipe.skips == "add"
    exact = build_panoptic(recipe.channels, add=add)
    if init_weights is not None and not has_checkpoint(out):
        load_init_weights(exact, init_weights, make)
    network = build_panoptic(recipe.channels, _POLICIES[recipe.precision], add=add)
    network.set_weights(exact.get_weights())
    network.compile(
        _optimizer(recipe),
        loss=panoptic_loss,
        metrics=[Overlap("iou", _foregrounds), Overlap("dice", _foregrounds)],
        jit_compile=False,
    )
    tiles, targets = validation_tiles(validation, recipe.test_time.upsample)
    size = recipe.tiles
    held_out = Batches(
        math.ceil(len(tiles) / size),
        lambda i: (tiles[i * size : i * size + size], targets[i * size : i * size + size]),
    )
    fit(
        network,
        Batches(recipe.steps_per_epoch, make),
        held_out if len(tiles) else None,
        out,
        epochs=math.ceil(recipe.steps / recipe.steps_per_epoch),
        patience=recipe.patience,
    )
    exact.set_weights(network.get_weights())
    draw_predictions(list(_predictions(exact, tiles, targets)), out / PREDICTIONS)
    save_trained(exact, out)
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
    # short trainings average the weights of their last fifth
    steps = min(_MAX_AVERAGED_STEPS, max(1, recipe.steps // 5))
    return keras.optimizers.AdamW(
        rate, weight_decay=1e-4, clipnorm=1.0, use_ema=True, ema_momentum=1 - 1 / steps
    )


def _foregrounds(truth: Any, maps: Any) -> tuple[Any, Any, Any]:
    """Return true foreground, predicted foreground and weight of both compartments."""
    known, predicted = unstack_maps(truth), unstack_maps(maps)
    foreground = [
        predicted[c + 3] < ops.maximum(predicted[c + 1], predicted[c + 2]) for c in (0, 4)
    ]
    return (
        ops.stack([known[1], known[3]]) != BACKGROUND,
        ops.stack(foreground),
        ops.stack(known[4:6]),
    )


def validation_tiles(
    validation: Sequence[ValidationSource], upsample: float = 1.0
) -> tuple[Float32, Float32]:
    """Return one tile from the centre of each validation image, and its targets.

    Parameters
    ----------
    validation : sequence of Crops or Pairs
        Validation images; 24 of them, evenly spaced, if there are more.
    upsample : float
        Magnification of the images, as in the exported network.

    Returns
    -------
    tiles : (n, 256, 256, 2) float32
        Pixels outside of a small image are 0.
    targets : (n, 256, 256, 6) float32
        Pixels outside of a small image have weight 0.
    """
    numbers = evenly_spaced(sum(len(source) for source in validation), _MAX_TILES)
    examples = chain.from_iterable(source.every() for source in validation)
    chosen = (example for number, example in enumerate(examples) if number in numbers)
    tiles = np.zeros((len(numbers), TILE_PX, TILE_PX, 2), np.float32)
    targets = np.zeros((len(numbers), TILE_PX, TILE_PX, TARGETS), np.float32)
    for tile, target, example in zip(tiles, targets, chosen, strict=True):
        pixels, maps = _centre_tile(example, upsample)
        window = tuple(map(slice, pixels.shape[:2]))
        tile[window], target[window] = pixels, maps
    return tiles, targets


def _centre_tile(example: Example, upsample: float) -> tuple[Float32, Float32]:
    """Return pixels and targets of the tile at the centre of an image."""
    shape, side = example.nucleus.shape, round(TILE_PX / upsample)
    context, tile = _centre(shape, _CONTEXT_PX), _centre(shape, side)
    markers = [marker[context] for marker in example.markers]
    nucleus = np.ascontiguousarray(example.nucleus[context])
    membrane = merge_channels(markers) if markers else np.zeros_like(nucleus)
    scaled = preprocess(np.stack([nucleus, membrane]))
    inner = _centre(nucleus.shape, side)
    size = tuple(min(TILE_PX, round(min(n, side) * upsample)) for n in shape)
    cells, nuclei = (
        None if labels is None else resize_labels(np.ascontiguousarray(labels[tile]), size)
        for labels in example.labels
    )
    pixels = np.stack([resize_image(channel, size) for channel in scaled[:, *inner]], -1)
    return pixels, make_targets(cells, nuclei, size)


def _centre(shape: Sequence[int], side: int) -> tuple[slice, slice]:
    starts = [max(0, n - side) // 2 for n in shape]
    y, x = (slice(start, start + side) for start in starts)
    return y, x


def _predictions(
    network: keras.Model, tiles: Float32, targets: Float32
) -> Iterator[PredictedImage]:
    """Yield predictions on the tiles with the most objects; some tiles are glass."""
    heads = with_heads(network)
    shares = (targets[..., [1, 3]] != BACKGROUND).mean(axis=(1, 2, 3))
    for number in np.argsort(-shares, kind="stable")[:_MAX_PREDICTIONS].tolist():
        maps = heads(tiles[number : number + 1], training=False)
        nucleus, membrane = np.moveaxis(tiles[number], -1, 0)
        image = np.stack([membrane, nucleus / 2, nucleus], axis=-1)
        for c, name in enumerate(("cells", "nuclei")):
            if targets[number, ..., 4 + c].any():
                truth = targets[number, ..., 2 * c + 1] != BACKGROUND
                known = truth * targets[number, ..., 4 + c]
                probability = 1 - np.asarray(maps[2 * c + 1])[0, ..., BACKGROUND]
                yield PredictedImage(f"{number + 1}, {name}", image, known, probability)
