"""From a recipe to a network that runs: train, export, choose constants, export."""

import logging
from importlib.util import find_spec
from pathlib import Path

from codexseg.backends.networks.weights import LICENCE, resolve
from codexseg.backends.panoptic.parameters import MESMER, params_of
from codexseg.errors import BackendUnavailable, InputError, RunStateError
from codexseg.run.files import write_atomic
from codexseg.training.recipe.loader import parse_recipe
from codexseg.training.recipe.schema import AnyRecipe, Recipe
from codexseg.training.tuning.panoptic import choose, need_objects

log = logging.getLogger(__name__)

NETWORK, RECIPE = "network.onnx", "recipe.json"
START = "start"
"""A folder in that of a training: the network that it begins with, where it makes one."""


def make(recipe: AnyRecipe, data: Path, out: Path) -> Path:
    """Make a network; a training that was stopped goes on where it was.

    Parameters
    ----------
    recipe : Recipe or UnetRecipe
        What to do.
    data : Path
        The folder to which the recipe's paths are relative.
    out : Path
        Takes the network, the recipe, checkpoints, a log and pictures.

    Returns
    -------
    Path
        `network.onnx`, for `segmentation.model_path` of the backend `panoptic` or `unet`,
        as the recipe's preset is called.

    Raises
    ------
    InputError
        If images and labels cannot be used; nothing was written.
    ConfigError
        If `start` names a network that is not like the recipe's; nothing was written.
    BackendUnavailable
        If keras or what it needs is not installed.
    RunStateError
        If `out` holds a training of another recipe.
    """
    _check(recipe, out)
    if isinstance(recipe, Recipe):
        return _make_panoptic(recipe, data, out)
    learnt, held = recipe.open(data)
    _need_keras()
    _take(recipe, out)

    from codexseg.training.train_unet import train_and_export

    return train_and_export(recipe, learnt, held, out, out / NETWORK)


def _make_panoptic(recipe: Recipe, data: Path, out: Path) -> Path:
    sources, held = recipe.open_all(data)
    need_objects(held)
    first, folder = recipe, out
    while isinstance(first.start, Recipe):  # what is needed in an hour is looked for now
        first, folder = first.start, folder / START
        need_objects(first.open_all(data)[1])
    _need_keras()

    import keras

    from codexseg.training.loop import TRAINED
    from codexseg.training.networks.export import export_onnx
    from codexseg.training.train_panoptic import train

    if first.start is not None and not isinstance(first.start, Recipe):
        _need_start(first, first.start, data, folder)
    _take(recipe, out)
    start = _start(recipe, data, out)
    constants = MESMER
    if start is not None:
        constants = params_of(resolve(start))
        recipe = _as_start(recipe, start)
    if (out / TRAINED).exists():
        network = keras.saving.load_model(out / TRAINED, compile=False)
    else:
        network = train(sources, held, recipe, out, start)
    said = {LICENCE: recipe.licence} if recipe.licence else {}
    if held:
        part = out / f"part.{NETWORK}"
        export_onnx(network, part, constants, said, recipe.views)
        constants = choose(part, held, constants, out, recipe.scales)
        part.unlink()
    export_onnx(network, out / NETWORK, constants, said, recipe.views)
    return out / NETWORK


def _need_start(recipe: Recipe, named: str | Path, data: Path, out: Path) -> None:
    """Check that the file that a training begins with is there, and is like its network."""
    from codexseg.training.networks.panoptic import build
    from codexseg.training.networks.pretrained import need_fit, start_path

    path = start_path(named, data)
    if not (out / RECIPE).exists():  # it has begun with what was there then
        added = _as_start(recipe, path).skips == "added"
        need_fit(build(recipe.channels, added=added), path)


def _start(recipe: Recipe, data: Path, out: Path) -> Path | None:
    """Return the ONNX file that the training begins with; another recipe makes it first."""
    from codexseg.training.networks.pretrained import start_path

    if not isinstance(recipe.start, Recipe):
        return None if recipe.start is None else start_path(recipe.start, data)
    made = out / START / NETWORK
    if not made.exists():
        log.info("first the network that this one begins with, in %s", out / START)
        make(recipe.start, data, out / START)
    return made


def _as_start(recipe: Recipe, start: Path) -> Recipe:
    """Take from the network that a training begins with what the recipe does not say."""
    from codexseg.training.networks.pretrained import skips_of, views_of

    taken: dict[str, object] = {}
    if recipe.enlarged is None:
        taken["enlarged"] = views_of(start).enlarged
    if recipe.skips is None:
        taken["skips"] = skips_of(start)
    return recipe.model_copy(update=taken)


def _need_keras() -> None:
    """Say what to install, once recipe and images are known to be right."""
    needed = ("keras", "tf2onnx", "onnx", "matplotlib")
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise BackendUnavailable(
            f"recipe and images are in order, and training needs what is not installed "
            f"({', '.join(missing)}): pip install 'codexseg[train]' (in a clone: pip "
            f"install -c constraints.txt '.[train]')."
        )


def _check(recipe: AnyRecipe, out: Path) -> None:
    """Check that a folder, and that of what comes first, hold no other training."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file, expected a folder: choose another --out.")
    there = out / RECIPE
    is_taken = there.exists() or (out / NETWORK).exists()
    if is_taken and _parsed(there) != recipe.model_dump():
        raise RunStateError(
            f"{out} holds a training of another recipe ({RECIPE}), expected this one's or "
            f"an empty folder: choose another one with --out, or delete it."
        )
    if isinstance(recipe, Recipe) and isinstance(recipe.start, Recipe):
        _check(recipe.start, out / START)


def _parsed(path: Path) -> object:
    try:
        said = parse_recipe(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError):
        return None
    return None if said is None else said.model_dump()


def _take(recipe: AnyRecipe, out: Path) -> None:
    """Make the folder, and write down whose it is."""
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / RECIPE, recipe.model_dump_json(indent=2))
