"""``codexseg train``: make a network from labelled images."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from codexseg.cli_words import clear_errors, say
from codexseg.errors import BackendUnavailable


def train(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.")],
    data: Annotated[
        Path, typer.Option(help="Folder to which the recipe's paths are relative.")
    ] = Path(),
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the network; default: beside the recipe, <its name>_network.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Train a network with Mesmer's contract from labelled images.

    A training that was stopped goes on with the same command. The result, network.onnx,
    is used with segmentation: {backend: panoptic, model_path: .../network.onnx}.
    """
    with clear_errors():
        _need_keras()
        from codexseg.training.make import make
        from codexseg.training.recipe import load_recipe

        logging.getLogger("codexseg").setLevel(logging.INFO)
        folder = out or recipe.parent / f"{recipe.stem}_network"
        path = make(load_recipe(recipe), data, folder.absolute())
    say(f"The network: {path}")


def _need_keras() -> None:
    """Say what to install, before anything is read."""
    from importlib.util import find_spec

    missing = [name for name in ("keras", "tf2onnx", "onnx") if find_spec(name) is None]
    if missing:
        raise BackendUnavailable(
            f"training needs {', '.join(missing)}, which is not installed: "
            f"pip install 'codexseg[train]'."
        )
