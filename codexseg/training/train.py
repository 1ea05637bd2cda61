"""Training from a recipe: train, export, tune post-processing, export again."""

import logging
from importlib.util import find_spec
from pathlib import Path

from codexseg.backends.networks.weights import LICENCE, resolve_weights
from codexseg.backends.panoptic.parameters import MESMER, params_of
from codexseg.errors import BackendUnavailable, InputError, RunStateError
from codexseg.run.files import write_atomic
from codexseg.training.data.examples import ScaledImages
from codexseg.training.recipe.loader import parse_recipe
from codexseg.training.recipe.schema import AnyRecipe, Recipe
from codexseg.training.tuning.panoptic import require_objects, tune_panoptic

log = logging.getLogger(__name__)

NETWORK, RECIPE = "network.onnx", "recipe.json"
START = "start"
"""Subfolder of the network that provides the initial weights, if a recipe trains one."""


def run_training(recipe: AnyRecipe, data: Path, out: Path) -> Path:
    """Train and export a network; an interrupted training continues.

    Parameters
    ----------
    recipe : Recipe or UnetRecipe
        Settings of the training.
    data : Path
        Folder that the recipe's paths are relative to.
    out : Path
        Folder of the network, the recipe, checkpoints, log and figures.

    Returns
    -------
    Path
        `network.onnx`, for `segmentation.model_path` of the backend `panoptic` or `unet`,
        the preset of the recipe.

    Raises
    ------
    InputError
        If images and labels are invalid; nothing was written.
    ConfigError
        If the network under `start` differs from the recipe's; nothing was written.
    BackendUnavailable
        If keras or one of its requirements is not installed.
    RunStateError
        If `out` contains a training with another recipe.
    """
    _check_folder(recipe, out)
    if isinstance(recipe, Recipe):
        return _train_panoptic(recipe, data, out, ScaledImages())
    train, validation = recipe.open(data)
    _require_keras()
    write_atomic(out / RECIPE, recipe.model_dump_json(indent=2))

    from codexseg.training.train_unet import train_unet

    return train_unet(recipe, train, validation, out, out / NETWORK)


def _train_panoptic(recipe: Recipe, data: Path, out: Path, images: ScaledImages) -> Path:
    sources, validation = recipe.open_all(data, images)
    require_objects(validation)
    first, folder = recipe, out
    # sources of all stages are checked now, not after an hour of training
    while isinstance(first.start, Recipe):
        first, folder = first.start, folder / START
        require_objects(first.open_all(data, images)[1])
    _require_keras()

    import keras

    from codexseg.training.loop import TRAINED
    from codexseg.training.networks.export import export_onnx
    from codexseg.training.train_panoptic import fit_panoptic

    if first.start is not None and not isinstance(first.start, Recipe):
        _check_init_weights(first, first.start, data, folder)
    write_atomic(out / RECIPE, recipe.model_dump_json(indent=2))
    init_weights = _init_weights(recipe, data, out, images)
    constants = MESMER
    if init_weights is not None:
        constants = params_of(resolve_weights(init_weights))
        recipe = _complete(recipe, init_weights)
    if (out / TRAINED).exists():
        network = keras.saving.load_model(out / TRAINED, compile=False)
    else:
        network = fit_panoptic(sources, validation, recipe, out, init_weights)
    metadata = {LICENCE: recipe.licence} if recipe.licence else {}
    if validation:
        part = out / f"part.{NETWORK}"
        export_onnx(network, part, constants, metadata, recipe.test_time)
        constants = tune_panoptic(part, validation, constants, out, recipe.scales)
        part.unlink()
    export_onnx(network, out / NETWORK, constants, metadata, recipe.test_time)
    return out / NETWORK


def _check_init_weights(recipe: Recipe, start: str | Path, data: Path, out: Path) -> None:
    """Check that the file of the initial weights exists and fits the recipe's network."""
    from codexseg.training.networks.panoptic import build_panoptic
    from codexseg.training.networks.pretrained import check_architecture, init_weights_path

    path = init_weights_path(start, data)
    if not (out / RECIPE).exists():  # an interrupted training has loaded them already
        add = _complete(recipe, path).skips == "add"
        check_architecture(build_panoptic(recipe.channels, add=add), path)


def _init_weights(
    recipe: Recipe, data: Path, out: Path, images: ScaledImages
) -> Path | None:
    """Return the ONNX file of the initial weights; train it first if it is a recipe."""
    from codexseg.training.networks.pretrained import init_weights_path

    if not isinstance(recipe.start, Recipe):
        return None if recipe.start is None else init_weights_path(recipe.start, data)
    network = out / START / NETWORK
    if not network.exists():
        log.info("Training the network of the initial weights in %s", out / START)
        _check_folder(recipe.start, out / START)
        _train_panoptic(recipe.start, data, out / START, images)
    return network


def _complete(recipe: Recipe, init_weights: Path) -> Recipe:
    """Fill in settings that the recipe leaves to the network of the initial weights."""
    from codexseg.training.networks.pretrained import read_skips, read_test_time

    upsample = recipe.upsample or read_test_time(init_weights).upsample
    skips = recipe.skips or read_skips(init_weights)
    return recipe.model_copy(update={"upsample": upsample, "skips": skips})


def _require_keras() -> None:
    """Check that the packages of the extra `train` are installed."""
    needed = ("keras", "tf2onnx", "onnx", "matplotlib")
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise BackendUnavailable(
            f"Recipe and images are valid, but training needs packages that are not "
            f"installed ({', '.join(missing)}). Run: pip install 'codexseg[train]' (in a "
            f"clone: pip install -c constraints.txt '.[train]')."
        )


def _check_folder(recipe: AnyRecipe, out: Path) -> None:
    """Check that a folder, and its subfolder `start`, contain no other training."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file, expected a folder. Choose another --out.")
    path = out / RECIPE
    is_used = path.exists() or (out / NETWORK).exists()
    if is_used and _read_recipe(path) != recipe:
        raise RunStateError(
            f"{out} holds a training of another recipe ({RECIPE}), expected this recipe or "
            f"an empty folder. Choose another folder with --out, or delete it."
        )
    if isinstance(recipe, Recipe) and isinstance(recipe.start, Recipe):
        _check_folder(recipe.start, out / START)


def _read_recipe(path: Path) -> AnyRecipe | None:
    try:
        return parse_recipe(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError):
        return None
