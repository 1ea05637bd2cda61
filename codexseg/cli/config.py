"""``codexseg config``: write and check configurations."""

import sys

import typer

from codexseg.cli.console import echo, user_errors
from codexseg.cli.options import ConfigFile

config_app = typer.Typer(help="Write and check configurations.", no_args_is_help=True)


@config_app.command("init")
def config_init() -> None:
    """Print a configuration with every key, its unit, default and advice.

    Example: codexseg config init > my.yaml
    """
    with user_errors():
        from codexseg.config.loader import template

        sys.stdout.write(template())


@config_app.command("check")
def config_check(config: ConfigFile) -> None:
    """Check a configuration and its slide without running anything.

    Example: codexseg config check my.yaml
    """
    with user_errors():
        from codexseg.pipeline import Pipeline

        pipeline = Pipeline.from_yaml(config)
        slide = pipeline.check().slide
        for warning in pipeline.warnings(slide):
            echo(f"Note: {warning.message}", error=True)
        channels, height, width = slide.shape
        echo(
            f"{config} is valid: {width} x {height} px, {channels} channels, "
            f"{slide.mpp:g} um/px. Run directory: {pipeline.out}"
        )
