"""From a recipe to a network that runs: train, export, choose constants, export."""

import json
import logging
from dataclasses import asdict
from pathlib import Path

import numpy as np

from codexseg.backends.base import Slide
from codexseg.backends.constants import MESMER, Constants
from codexseg.backends.contract import NETWORK_MPP
from codexseg.backends.panoptic import InMemory, Panoptic
from codexseg.backends.panoptic_image import MAPS, Image
from codexseg.config import SegmentationConfig
from codexseg.core.grid import Window
from codexseg.core.intensity import merge_channels
from codexseg.errors import RunStateError
from codexseg.files import write_atomic
from codexseg.training.examples import Crops, scaled
from codexseg.training.recipe import Recipe
from codexseg.training.tune import Held, choose_constants

log = logging.getLogger(__name__)

NETWORK, RECIPE, SCORES = "network.onnx", "recipe.json", "scores.json"


def make(recipe: Recipe, data: Path, out: Path) -> Path:
    """Make a network; a training that was stopped goes on where it was.

    Parameters
    ----------
    recipe : Recipe
        What to do.
    data : Path
        The folder to which the recipe's paths are relative.
    out : Path
        Takes the network, the recipe, checkpoints and a log.

    Returns
    -------
    Path
        `network.onnx`, for `segmentation.model_path` of the backend `panoptic`.

    Raises
    ------
    RunStateError
        If `out` holds a training of another recipe.
    """
    _take(recipe, out)
    sources = recipe.open(data)
    held = recipe.validation and recipe.validation.open(data)

    import keras

    from codexseg.training.export import export_onnx
    from codexseg.training.loop import train

    done = out / "network.keras"
    if done.exists():
        network = keras.saving.load_model(done, compile=False)
    else:
        network = train(sources, recipe, out)
    path = out / NETWORK
    export_onnx(network, path, MESMER, {})
    constants = MESMER
    if isinstance(held, Crops):
        constants = _choose(path, held, out)
        export_onnx(network, path, constants, {})
    return path


def _take(recipe: Recipe, out: Path) -> None:
    """Make the folder, or check that it is this recipe's."""
    said = recipe.model_dump_json(indent=2)
    if (out / RECIPE).exists() and (out / RECIPE).read_text("utf-8") != said:
        raise RunStateError(
            f"{out} holds a training of another recipe ({RECIPE}), expected this one's or "
            f"an empty folder: choose another one with --out, or delete it."
        )
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / RECIPE, said)


def _choose(path: Path, crops: Crops, out: Path) -> tuple[Constants, Constants]:
    """Choose the constants of cells and nuclei on crops that were held back."""
    image, truth = crops.region()
    both = np.stack([image[0], merge_channels([scaled(marker) for marker in image[1:]])])
    config = SegmentationConfig(backend="panoptic", model_path=path)
    view = InMemory(both)
    for survey in Panoptic(config, Slide(view.shape, NETWORK_MPP)).surveys:
        view.keep(survey)
    whole = Window(0, 0, *view.shape)
    maps = Image.of(view.shape, NETWORK_MPP).maps(whole, MAPS, view)
    if maps is None:
        raise RunStateError("the network gives no maps of the images that were held back.")
    chosen, scores = [], {}
    for c, name in enumerate(("cell", "nucleus")):
        parts = [(place, labels[c]) for place, labels in truth]
        constants, f1 = choose_constants([Held(maps[2 * c], maps[2 * c + 1], parts)])
        chosen.append(constants)
        scores[name] = {"f1": round(f1, 4), **asdict(constants)}
        log.info("%s: F1 %.3f with %s", name, f1, constants)
    write_atomic(out / SCORES, json.dumps(scores, indent=2))
    return chosen[0], chosen[1]
