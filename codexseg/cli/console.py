"""Terminal output, error messages and command line words."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import typer

from codexseg.errors import CodexsegError


@contextmanager
def user_errors(options: Mapping[str, str] | None = None) -> Iterator[None]:
    """Print errors of codexseg as one message, and exit with code 2.

    Parameters
    ----------
    options : mapping, optional
        Options of a command without a configuration, by the configuration key that each
        one sets. The options of all keys in the message are listed after it.
    """
    try:
        yield
    except CodexsegError as error:
        echo(f"codexseg: {error}", error=True)
        if options and (line := _options_of(str(error), options)):
            echo(line, error=True)
        raise typer.Exit(2) from None
    except BrokenPipeError:
        raise typer.Exit(1) from None


def echo(text: str = "", *, error: bool = False) -> None:
    """Print a line to stdout, or to stderr."""
    typer.echo(text, err=error)


def echo_table(rows: Sequence[Mapping[str, str]]) -> None:
    """Print rows under their titles, right-aligned."""
    widths = {title: max(len(title), *(len(r[title]) for r in rows)) for title in rows[0]}
    echo("  ".join(title.rjust(width) for title, width in widths.items()))
    for row in rows:
        echo("  ".join(row[title].rjust(width) for title, width in widths.items()))


def is_number(word: str) -> bool:
    """Return whether a word of the command line is a number."""
    try:
        float(word)
    except ValueError:
        return False
    return True


def is_value(word: str) -> bool:
    """Return whether a word of the command line is a value, not an option name."""
    return not word.startswith("-")


def repeat_option(
    args: Sequence[str], option: str, accepts: Callable[[str], bool] = is_number
) -> list[str]:
    """Repeat an option before each of its values: the parser reads one value per option.

    Parameters
    ----------
    args : sequence of str
        The command line.
    option : str
        Option name such as ``--iou``. ``--iou 0.5 0.75`` becomes ``--iou 0.5 --iou 0.75``.
    accepts : callable
        Returns whether a word is a value of the option. The first other word ends them.
    """
    repeated: list[str] = []
    inside = False
    for word in args:
        inside = word == option or (inside and accepts(word))
        if inside and word != option and repeated[-1] != option:
            repeated.append(option)
        repeated.append(word)
    return repeated


def split_names(words: Sequence[str]) -> tuple[str, ...]:
    """Split words at commas into names, without surrounding spaces."""
    names = (name.strip() for word in words for name in word.split(","))
    return tuple(name for name in names if name)


def _options_of(message: str, options: Mapping[str, str]) -> str:
    """Return a line with the options that set the keys in a message, or nothing."""
    sections = "|".join(sorted({key.partition(".")[0] for key in options}))
    keys = dict.fromkeys(re.findall(rf"\b(?:{sections})\.[a-z_]+", message))
    entries = [f"{options[key]} is {key}" for key in keys if key in options]
    without_option = ", ".join(key for key in keys if key not in options)
    if without_option:
        entries.append(f"{without_option}: only in a configuration (codexseg run)")
    return f"Options of this command: {'; '.join(entries)}." if entries else ""
