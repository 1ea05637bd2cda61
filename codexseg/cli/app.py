"""Command line: ``codexseg COMMAND --help`` documents each command.

Exit codes: 0 success; 1 an error at run time, with a report of lost and finished work;
2 wrong input, with one message and its remedy; 130 and 143 stopped by Ctrl-C or SIGTERM.

A new command is a module of this folder with a Typer app, an import and a line below. Its
body runs in `user_errors()` and imports the library there, which keeps --help quick; `info`
is a short example.
"""

import logging
from typing import Annotated

import typer

from codexseg.cli.compare import compare_app
from codexseg.cli.config import config_app
from codexseg.cli.console import echo
from codexseg.cli.evaluate import evaluate_app
from codexseg.cli.info import info_app
from codexseg.cli.models import models_app
from codexseg.cli.predict import predict_app
from codexseg.cli.run import run_app
from codexseg.cli.samples import samples_app
from codexseg.cli.train import train_app

app = typer.Typer(
    name="codexseg",
    help="From a multiplexed tissue slide (CODEX, PhenoCycler) to one trustworthy table of "
    "cells. Start with: codexseg demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for commands in (
    run_app,
    predict_app,
    info_app,
    samples_app,
    train_app,
    evaluate_app,
    compare_app,
):
    app.add_typer(commands)
app.add_typer(config_app, name="config")
app.add_typer(models_app, name="models")


@app.callback(invoke_without_command=True)
def _version(
    *,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        import codexseg

        echo(f"codexseg {codexseg.__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line."""
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # our errors include it
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    app()


if __name__ == "__main__":
    main()
