"""How the commands speak to the user, and how they end when the input is wrong."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import typer

from codexseg.errors import CodexsegError


@contextmanager
def clear_errors(options: Mapping[str, str] | None = None) -> Iterator[None]:
    """Turn what the user can mend into one message and exit code 2.

    Parameters
    ----------
    options : mapping, optional
        For a command without a configuration: which of its options stands for a key of
        the configuration. Keys that a message names are followed by a line on them.
    """
    try:
        yield
    except CodexsegError as error:
        say(f"codexseg: {error}", error=True)
        if options and (line := _in_options(str(error), options)):
            say(line, error=True)
        raise typer.Exit(2) from None
    except BrokenPipeError:
        raise typer.Exit(1) from None


def say(text: str = "", *, error: bool = False) -> None:
    """Write a line to the terminal, or to its error stream."""
    typer.echo(text, err=error)


def table(rows: Sequence[Mapping[str, str]]) -> None:
    """Say rows under their titles, right-aligned."""
    widths = {title: max(len(title), *(len(r[title]) for r in rows)) for title in rows[0]}
    say("  ".join(title.rjust(width) for title, width in widths.items()))
    for row in rows:
        say("  ".join(row[title].rjust(width) for title, width in widths.items()))


def is_number(word: str) -> bool:
    """Whether a word of the command line is a number."""
    try:
        float(word)
    except ValueError:
        return False
    return True


def is_no_option(word: str) -> bool:
    """Whether a word of the command line is a value and not the name of an option."""
    return not word.startswith("-")


def spread(
    args: Sequence[str], option: str, belongs: Callable[[str], bool] = is_number
) -> list[str]:
    """Repeat an option before each of the words that follow it.

    Parameters
    ----------
    args : sequence of str
        The command line.
    option : str
        Such as ``--iou``; ``--iou 0.5 0.75`` becomes ``--iou 0.5 --iou 0.75``.
    belongs : callable
        Which words are values of it; the first that is not ends them.
    """
    found: list[str] = []
    inside = False
    for word in args:
        inside = word == option or (inside and belongs(word))
        if inside and word != option and found[-1] != option:
            found.append(option)
        found.append(word)
    return found


def _in_options(message: str, options: Mapping[str, str]) -> str:
    """Say which options the keys in a message are; nothing where it names none."""
    sections = "|".join(sorted({key.partition(".")[0] for key in options}))
    keys = dict.fromkeys(re.findall(rf"\b(?:{sections})\.[a-z_]+", message))
    words = [f"{options[key]} is {key}" for key in keys if key in options]
    others = ", ".join(key for key in keys if key not in options)
    if others:
        words.append(f"{others}: only in a configuration (codexseg run)")
    return f"Options of this command: {'; '.join(words)}." if words else ""
