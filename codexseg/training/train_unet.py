"""Training the semantic U-Net: seeds, optimizer, pictures, the constants of its objects."""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np

from codexseg.backends.unet.spec import ObjectParams, UnetSpec
from codexseg.run.files import write_atomic
from codexseg.training.data.pairs import Pair
from codexseg.training.data.unet_images import Floats, Order, UnetImages
from codexseg.training.loop import TRAINED, Batches, finish, fit
from codexseg.training.networks.unet import build_unet, export_unet, unet_loss, with_sigmoid
from codexseg.training.plots import Sample, draw_samples
from codexseg.training.recipe.schema import UnetRecipe
from codexseg.training.scores import Overlap
from codexseg.training.tuning.unet import choose_objects

log = logging.getLogger(__name__)

SAMPLES, SCORES = "samples.png", "scores.json"
_MOST_SAMPLES = 4
_MOST_JUDGED = 32


def train_and_export(
    recipe: UnetRecipe, learnt: Sequence[Pair], held: Sequence[Pair], out: Path, path: Path
) -> Path:
    """Train a U-Net and write its ONNX file; one that was stopped goes on.

    Parameters
    ----------
    recipe : UnetRecipe
        How.
    learnt, held : sequence of Pair
        What it learns from, and what it is judged by.
    out : Path
        A folder: `log.csv`, `curves.png`, `samples.png`, a checkpoint while it trains,
        `network.keras` at the end, `scores.json` where objects were chosen.
    path : Path
        The ONNX file.

    Returns
    -------
    Path
        The ONNX file.
    """
    images, judged = UnetImages(learnt, recipe), UnetImages(held, recipe)
    if (out / TRAINED).exists():
        network = keras.saving.load_model(out / TRAINED, compile=False)
    else:
        network = train(recipe, images, judged, out)
    objects = _choose(recipe, network, judged, out)
    spec = UnetSpec(
        tuple(recipe.inputs), tuple(recipe.labels), recipe.scaling, images.mpp, objects
    )
    export_unet(network, path, spec)
    return path


def train(
    recipe: UnetRecipe, images: UnetImages, held: UnetImages, out: Path
) -> keras.Model:
    """Train a U-Net; return it with its last weights, the best ones with `patience`."""
    keras.utils.set_random_seed(recipe.seed)
    network = build_unet(len(recipe.inputs), len(recipe.labels), recipe.widths)
    network.compile(
        keras.optimizers.Adam(recipe.learning_rate),
        loss=unet_loss(recipe.loss),
        metrics=[Overlap("iou", _foregrounds), Overlap("dice", _foregrounds)],
        jit_compile=False,
    )
    order = Order(images.shapes, recipe.batch, recipe.seed)
    kept = Order(held.shapes, recipe.batch, None)

    def made(number: int) -> tuple[Floats, Floats]:
        rng = np.random.default_rng([recipe.seed, number, 1])
        return images.batch(order.batch(number), rng)

    fit(
        network,
        Batches(len(order), made),
        Batches(len(kept), lambda i: held.batch(kept.batch(i))) if len(held) else None,
        out,
        epochs=recipe.epochs,
        patience=recipe.patience,
    )
    draw_samples(list(_samples(recipe, network, held)), out / SAMPLES)
    finish(network, out)
    return network


def _foregrounds(truth: Any, logits: Any) -> tuple[Any, Any, Any]:
    return truth > 0.5, logits > 0, keras.ops.ones_like(truth)


def _probabilities(network: keras.Model, images: UnetImages, number: int) -> Floats:
    """Return the maps (y, x, outputs) of an image."""
    maps = with_sigmoid(network)(images.batch([number])[0], training=False)
    found: Floats = np.asarray(maps)[0]
    return found


def _spread(count: int, most: int) -> list[int]:
    chosen: list[int] = np.linspace(0, count - 1, min(count, most)).astype(int).tolist()
    return chosen


def _samples(
    recipe: UnetRecipe, network: keras.Model, held: UnetImages
) -> Iterator[Sample]:
    for number in _spread(len(held), _MOST_SAMPLES):
        found = _probabilities(network, held, number)
        image, mask = (part[0] for part in held.batch([number]))
        shown = image if image.shape[-1] == 3 else image.max(axis=-1)
        for c, name in enumerate(recipe.labels):
            title = f"{held.pairs[number].name}, {name}"
            yield Sample(title, shown, mask[..., c], found[..., c])


def _choose(
    recipe: UnetRecipe, network: keras.Model, held: UnetImages, out: Path
) -> dict[str, ObjectParams]:
    """Choose how foreground becomes objects by held-back labels that number objects.

    Masks that only tell foreground say nothing of it: there the defaults stay.
    """
    numbers = _spread(len(held), _MOST_JUDGED)
    maps = [_probabilities(network, held, number) for number in numbers]
    chosen, scores = {}, {}
    for c, name in enumerate(recipe.labels):
        truths = [np.ascontiguousarray(held.labels(n)[..., c]) for n in numbers]
        if not any(len(np.unique(truth)) > 2 for truth in truths):
            continue
        found = [np.ascontiguousarray(image[..., c]) for image in maps]
        chosen[name], f1 = choose_objects(found, truths)
        scores[name] = {"f1": round(f1, 4), **asdict(chosen[name])}
        log.info("%s: F1 %.3f with %s", name, f1, chosen[name])
    if scores:
        write_atomic(out / SCORES, json.dumps(scores, indent=2))
    return chosen
