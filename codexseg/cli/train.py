"""``codexseg train``: make a network from labelled images."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from codexseg.cli.console import clear_errors, say


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
    """Train a network from labelled images: preset panoptic (cells, nuclei) or unet.

    A training that was stopped goes on with the same command. The result, network.onnx,
    is used with segmentation: {backend: panoptic, model_path: .../network.onnx}, or
    backend: unet, as the preset is called. Beside it lie log.csv, curves.png, samples.png.
    """
    with clear_errors():
        from codexseg.training.recipe.loader import load_recipe
        from codexseg.training.train import run_training

        read = load_recipe(recipe)

        logging.getLogger("codexseg").setLevel(logging.INFO)
        folder = out or recipe.parent / f"{recipe.stem}_network"
        path = run_training(read, data, folder.absolute())
    say(f"The network: {path} (segmentation.backend: {read.preset})")
