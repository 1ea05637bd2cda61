"""Training of the semantic U-Net: optimizer, figures and tuning of its objects."""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np

from codexseg.arrays import Float32
from codexseg.backends.unet.spec import ObjectParams, UnetSpec
from codexseg.run.files import write_atomic
from codexseg.training.data.pairs import Pair
from codexseg.training.data.unet_images import BatchOrder, UnetImages
from codexseg.training.loop import TRAINED, Batches, fit, save_trained
from codexseg.training.networks.unet import build_unet, export_unet, unet_loss, with_sigmoid
from codexseg.training.plots import PredictedImage, draw_predictions, evenly_spaced
from codexseg.training.recipe.schema import UnetRecipe
from codexseg.training.scores import Overlap
from codexseg.training.tuning.unet import search_objects

log = logging.getLogger(__name__)

PREDICTIONS, SCORES = "samples.png", "scores.json"
_MAX_PREDICTIONS = 4
_MAX_TUNING_IMAGES = 32


def train_unet(
    recipe: UnetRecipe,
    train: Sequence[Pair],
    validation: Sequence[Pair],
    out: Path,
    path: Path,
) -> Path:
    """Train a U-Net and write its ONNX file; an interrupted training continues.

    Parameters
    ----------
    recipe : UnetRecipe
        Settings of the training.
    train, validation : sequence of Pair
        Training and validation images.
    out : Path
        Folder of `log.csv`, `curves.png`, `samples.png`, a checkpoint during training,
        `network.keras` at the end, and `scores.json` where objects were tuned.
    path : Path
        The ONNX file.

    Returns
    -------
    Path
        The ONNX file.
    """
    images, held_out = UnetImages(train, recipe), UnetImages(validation, recipe)
    if (out / TRAINED).exists():
        network = keras.saving.load_model(out / TRAINED, compile=False)
    else:
        network = _fit(recipe, images, held_out, out)
    objects = _tune(recipe, network, held_out, out)
    spec = UnetSpec(
        tuple(recipe.inputs), tuple(recipe.labels), recipe.scaling, images.mpp, objects
    )
    export_unet(network, path, spec)
    return path


def _fit(
    recipe: UnetRecipe, images: UnetImages, validation: UnetImages, out: Path
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
    order = BatchOrder(images.shapes, recipe.batch, recipe.seed)
    fixed = BatchOrder(validation.shapes, recipe.batch, None)

    def make(number: int) -> tuple[Float32, Float32]:
        rng = np.random.default_rng([recipe.seed, number, 1])
        return images.batch(order.batch(number), rng)

    held_out = Batches(len(fixed), lambda i: validation.batch(fixed.batch(i)))
    fit(
        network,
        Batches(len(order), make),
        held_out if len(validation) else None,
        out,
        epochs=recipe.epochs,
        patience=recipe.patience,
    )
    draw_predictions(list(_predictions(recipe, network, validation)), out / PREDICTIONS)
    save_trained(network, out)
    return network


def _foregrounds(truth: Any, logits: Any) -> tuple[Any, Any, Any]:
    return truth > 0.5, logits > 0, keras.ops.ones_like(truth)


def _probabilities(network: keras.Model, images: UnetImages, number: int) -> Float32:
    """Return the maps (y, x, outputs) of an image."""
    maps = with_sigmoid(network)(images.batch([number])[0], training=False)
    probabilities: Float32 = np.asarray(maps)[0]
    return probabilities


def _predictions(
    recipe: UnetRecipe, network: keras.Model, validation: UnetImages
) -> Iterator[PredictedImage]:
    for number in evenly_spaced(len(validation), _MAX_PREDICTIONS):
        probabilities = _probabilities(network, validation, number)
        image, mask = (batch[0] for batch in validation.batch([number]))
        picture = image if image.shape[-1] == 3 else image.max(axis=-1)
        for c, name in enumerate(recipe.labels):
            title = f"{validation.pairs[number].name}, {name}"
            yield PredictedImage(title, picture, mask[..., c], probabilities[..., c])


def _tune(
    recipe: UnetRecipe, network: keras.Model, validation: UnetImages, out: Path
) -> dict[str, ObjectParams]:
    """Tune the conversion of foreground to objects on labels that number objects.

    Binary masks carry no information about objects; the defaults are kept for them.
    """
    numbers = evenly_spaced(len(validation), _MAX_TUNING_IMAGES)
    maps = [_probabilities(network, validation, number) for number in numbers]
    tuned, scores = {}, {}
    for c, name in enumerate(recipe.labels):
        truths = [np.ascontiguousarray(validation.labels(n)[..., c]) for n in numbers]
        if not any(len(np.unique(truth)) > 2 for truth in truths):
            continue
        foregrounds = [np.ascontiguousarray(image[..., c]) for image in maps]
        tuned[name], f1 = search_objects(foregrounds, truths)
        scores[name] = {"f1": round(f1, 4), **asdict(tuned[name])}
        log.info("%s: F1 %.3f with %s", name, f1, tuned[name])
    if scores:
        write_atomic(out / SCORES, json.dumps(scores, indent=2))
    return tuned
