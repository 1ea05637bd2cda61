"""Panel files: the markers of the channels."""

import csv
import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from codexseg.errors import InputError

_NAME_COLUMNS: Final = ("antibody_name", "marker_name", "channel_name", "name")
_ID_COLUMNS: Final = ("channel_id", "channel_number")
_MAX_LISTED: Final = 12

Row = tuple[int, list[str]]  # line number in the file, cells


def read_panel(path: str | Path) -> list[str]:
    """Read the names of the channels, in the order of the channels.

    The file is a table (separated by tabs, semicolons or commas; its header has
    `antibody_name`, optionally `channel_id` and other columns) or a plain list with one
    name per line. Blank lines, quotes and a byte order mark are ignored. Channels are in
    the order of the rows, or sorted by `channel_id` if every id is an integer or of the
    form "Channel:0:3".

    Returns
    -------
    list of str
        Names as written, including duplicates; `resolve_channel` reports those.

    Raises
    ------
    InputError
        If the file cannot be read, is empty, has no column of names, a row without a
        name, or a duplicate channel_id.
    """
    path = Path(path)
    lines = _decode(path).splitlines()
    if not any(line.strip() for line in lines):
        raise InputError(f"{path} is empty. Expected one channel name per line.")
    delimiter = _delimiter(lines, path)
    if delimiter is None:
        names = [_unquote(line) for line in lines if line.strip()]
        return names[1:] if _column(names[0]) in _NAME_COLUMNS else names

    try:
        reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise InputError(
            f"{path} is not a readable table: {error}. Export it again."
        ) from error
    (_, header), *body = [(line, row) for line, row in rows if any(row)]
    columns = [_column(cell) for cell in header]
    at = next(columns.index(name) for name in _NAME_COLUMNS if name in columns)
    names = _cells(body, at, path)
    if not names:
        raise InputError(f"{path} has a header but no rows. Expected one row per channel.")
    ids = next((columns.index(name) for name in _ID_COLUMNS if name in columns), None)
    if ids is None:
        return names
    keys = [_number(row[ids]) if ids < len(row) else None for _, row in body]
    return _by_id(names, keys, path)


def resolve_channel(name: str, names: Sequence[str]) -> int:
    """Return the index of a channel by its exact name, else regardless of case.

    Raises
    ------
    InputError
        If no channel has the name (the message lists the closest names), or several
        channels have it.
    """
    matches = [i for i, known in enumerate(names) if known == name]
    if not matches:
        folded = _fold(name)
        matches = [i for i, known in enumerate(names) if _fold(known) == folded]
    if len(matches) == 1:
        return matches[0]
    if matches:
        channels = ", ".join(f"{i} ({names[i]!r})" for i in matches)
        raise InputError(
            f"Channel {name!r} is ambiguous: channels {channels} have that name. Use "
            f"different names in a panel file (data.antibodies_file)."
        )
    raise InputError(f"Channel {name!r} not found.{_suggest(name, names)}")


def _suggest(name: str, names: Sequence[str]) -> str:
    """Suggest the closest channel names, and list all names of a small panel."""
    by_fold = {_fold(known): known for known in reversed(names)}
    close = difflib.get_close_matches(_fold(name), by_fold, n=4, cutoff=0.5)
    quoted = ", ".join(repr(by_fold[key]) for key in close)
    text = f" Did you mean {quoted}?" if close else ""
    if len(names) <= _MAX_LISTED or not close:
        text += f" The channels are: {', '.join(map(repr, names))}."
    return text


def _decode(path: Path) -> str:
    """Read text as UTF-8, or as UTF-16 if it has that byte order mark (Excel)."""
    try:
        data = path.read_bytes()
        is_utf16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
        return data.decode("utf-16" if is_utf16 else "utf-8-sig")
    except OSError as error:
        raise InputError(
            f"The panel file {path} cannot be opened: {error.strerror or error}. Pass the "
            f"path of an existing file."
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"The panel file {path} is not UTF-8 text ({error.reason} at byte "
            f"{error.start}). Save it as UTF-8."
        ) from error


def _delimiter(lines: Iterable[str], path: Path) -> str | None:
    """Return the delimiter of the columns; None for a plain list."""
    filled = [line for line in lines if line.strip()]
    for delimiter in "\t;,":
        header = [_column(cell) for cell in filled[0].split(delimiter)]
        if len(header) > 1 and any(name in header for name in _NAME_COLUMNS):
            return delimiter
    for delimiter in "\t;,":
        # A comma may be part of a name; if every line has one, the file is a table.
        if all(delimiter in line for line in filled):
            raise InputError(
                f"{path} looks like a table, but its header {filled[0].strip()!r} has none "
                f"of the columns {', '.join(_NAME_COLUMNS)}. Add a header with "
                f"'antibody_name', or write one name per line."
            )
    return None


def _cells(body: Iterable[Row], at: int, path: Path) -> list[str]:
    """Return one column; every row must have a value."""
    names = []
    for line, row in body:
        if at >= len(row) or not row[at]:
            raise InputError(f"{path}, line {line}: the name is missing. Add it.")
        names.append(row[at])
    return names


def _by_id(names: list[str], keys: list[tuple[int, ...] | None], path: Path) -> list[str]:
    """Sort names by channel id if all ids are numbers."""
    known = [key for key in keys if key is not None]
    if len(known) < len(keys):
        return names
    if len(set(known)) < len(known):
        duplicate = next(key for key in known if known.count(key) > 1)
        same = ", ".join(
            repr(name) for name, key in zip(names, known, strict=True) if key == duplicate
        )
        raise InputError(
            f"{same} have the same channel_id in {path}. Expected one row per channel."
        )
    order = sorted(range(len(names)), key=lambda i: known[i])
    return [names[i] for i in order]


def _number(text: str) -> tuple[int, ...] | None:
    """Read "3" or "Channel:0:3"; None for any other id."""
    match = re.fullmatch(r"(?:Channel:)?(\d+(?::\d+)*)", text)
    return tuple(int(part) for part in match[1].split(":")) if match else None


def _column(text: str) -> str:
    """Return the normalized name of a column: lower case, no quotes, underscores."""
    return "_".join(_unquote(text).lower().split())


def _unquote(text: str) -> str:
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1].strip()
    return text


def _fold(name: str) -> str:
    return " ".join(name.casefold().split())
