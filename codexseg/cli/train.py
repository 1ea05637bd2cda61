"""``codexseg train``: train a network on labelled images."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from codexseg.cli.console import echo, user_errors
from codexseg.cli.interrupts import exit_when_stopped

train_app = typer.Typer()


@train_app.command("train")
def train_command(
    recipe: Annotated[Path, typer.Argument(help="Recipe, a YAML file.")],
    data: Annotated[
        Path, typer.Option(help="Folder that the recipe's paths are relative to.")
    ] = Path(),
    out: Annotated[
        Path | None,
        typer.Option(
            help="Output directory; default: <name>_network beside the recipe.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Train a network on labelled images: preset panoptic or unet.

    Writes network.onnx, for segmentation.model_path with segmentation.backend set to the
    name of the preset, and log.csv, curves.png and samples.png. Run the same command
    again to resume.

    Example: codexseg train recipe.yaml --data images
    """
    message = "interrupted. Checkpoints are kept; run the same command to resume."
    with user_errors(), exit_when_stopped(message):
        from codexseg.training.recipe.loader import load_recipe
        from codexseg.training.train import run_training

        read = load_recipe(recipe)
        logging.getLogger("codexseg").setLevel(logging.INFO)
        folder = out or recipe.parent / f"{recipe.stem}_network"
        path = run_training(read, data, folder.absolute())
    echo(f"Network: {path} (segmentation.backend: {read.preset})")
