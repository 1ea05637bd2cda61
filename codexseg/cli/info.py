"""``codexseg info``: the metadata of a slide image."""

from pathlib import Path
from typing import Annotated

import typer

from codexseg.cli.console import echo, user_errors
from codexseg.cli.options import Panel

info_app = typer.Typer()


@info_app.command("info")
def info_command(
    slide: Annotated[Path, typer.Argument(help="Slide image.")],
    panel: Panel = None,
) -> None:
    """Show size, channels, pixel size and pyramid of a slide.

    Example: codexseg info slide.qptiff
    """
    with user_errors():
        from codexseg.codex_image import CodexImage

        facts = CodexImage(slide, panel).info()
        size, mpp = facts["size"], facts["mpp"]
        echo(f"file      {facts['path']}")
        echo(f"format    {facts['format']}, {facts['dtype']}")
        echo(f"size      {size['x']} x {size['y']} px, {size['channels']} channels")
        echo(f"mpp       {mpp:g} um/px" if mpp else "mpp       unknown: set data.image_mpp")
        echo(f"pyramid   {', '.join(f'{x} x {y}' for y, x in facts['pyramid'])}")
        echo("channels  " + "\n          ".join(facts["channels"]))
