"""YAML files as plain values, with the line of every key.

This module is independent of the keys of a configuration. PyYAML composes the tree.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from codexseg.errors import ConfigError

Keys = tuple[str | int, ...]

INIT = "Run `codexseg config init > my.yaml` for a file with every key."

_TAG = "tag:yaml.org,2002:"
_TAGS = {_TAG + name for name in ("null", "bool", "int", "float", "str", "seq", "map")}
_DEPTH = 20

# Remedies for syntax errors, by a part of PyYAML's message.
_REMEDIES = {
    r"'\t'": "indent with spaces, not with tabs",
    "mapping values are not allowed": "put a text that contains ': ' in quotes, and check "
    "the indentation",
    "escape": "write paths with backslashes in single quotes",
    "expected <block end>": "keys of one section start in the same column",
    "could not find expected ':'": "write 'key: value', with a space after the ':'",
    "but found another document": "remove the '---', a file contains one configuration",
}


class _Loader(yaml.SafeLoader):
    """YAML loader with the core schema of YAML 1.2.

    `no`, `on` and `2024-01-01` are text, `1e-3` is a number, `0512` is not octal.
    """

    yaml_implicit_resolvers = {}  # noqa: RUF012 (as PyYAML declares it)


for _name, _pattern in {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?(0|[1-9][0-9]*)",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan",
}.items():
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(f"^(?:{_pattern})$"), None)


@dataclass(frozen=True)
class KeyPosition:
    """Line of a key, and the text of its value (None for sections)."""

    line: int
    text: str | None = None


@dataclass
class Document:
    """Plain values of a configuration, with the position of every key.

    Attributes
    ----------
    path : Path or None
        The YAML file; None for values that were not read from one.
    data : object
        The values, usually a dict of sections.
    positions : dict
        KeyPosition of each key in the file.
    problems : list of (line, message)
        Errors in the order of detection.
    renamed : dict
        Names for messages of keys that replace others.
    """

    path: Path | None = None
    data: Any = None
    positions: dict[Keys, KeyPosition] = field(default_factory=dict)
    problems: list[tuple[int, str]] = field(default_factory=list)
    renamed: dict[Keys, str] = field(default_factory=dict)

    def position(self, keys: Keys) -> KeyPosition:
        """Return the position of a key, or of the nearest section above it."""
        while keys and keys not in self.positions:
            keys = keys[:-1]
        return self.positions.get(keys, KeyPosition(1))

    def prefix(self, line: int) -> str:
        """Return 'line N: ' for messages; empty without a file."""
        return "" if self.path is None else f"line {line}: "

    def add_problem(self, keys: Keys, message: str) -> None:
        """Record an error of a key."""
        name = self.renamed.get(keys, dotted(keys))
        self.problems.append((self.position(keys).line, f"{name}: {message}"))


def read(text: str, path: Path) -> Document:
    """Read the text of a YAML file with a mapping at the top level.

    Duplicate keys, unknown tags and unreadable values are collected in `problems`.

    Raises
    ------
    ConfigError
        If the text is not YAML, is empty or is not a mapping; with the line.
    """
    document = Document(path)
    try:
        _check_events(text, path)
        loader: Any = _Loader(text)
        root = loader.get_single_node()
        if root is not None:
            document.data = _build(root, (), loader, document)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(
            f"{path}, line {line}: character U+{error.character:04X} is not allowed in "
            f"YAML. Remove it."
        ) from None
    except yaml.MarkedYAMLError as error:
        raise ConfigError(f"{path}, {_syntax(error)}.") from None
    if document.data is None:
        raise ConfigError(f"{path} contains no keys. {INIT}")
    if not isinstance(document.data, dict):
        raise ConfigError(
            f"{path}, line {root.start_mark.line + 1}: expected sections, like 'data:', "
            f"got {shown(document.data)}. {INIT}"
        )
    return document


def _check_events(text: str, path: Path) -> None:
    """Reject anchors, aliases and deep nesting: a small file could expand to a huge one."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        anchored = isinstance(event, yaml.NodeEvent) and event.anchor is not None
        if anchored or depth > _DEPTH:
            problem = "an anchor or alias" if anchored else f"more than {_DEPTH} levels"
            line = event.start_mark.line + 1 if event.start_mark else 1
            raise ConfigError(
                f"{path}, line {line}: {problem}, expected plain sections with keys and "
                f"values. Repeat values, and put a text that starts with & or * in quotes."
            )


def _build(node: yaml.Node, keys: Keys, loader: Any, document: Document) -> Any:
    """Convert a node to plain values, and record the positions of all keys below it."""
    line = node.start_mark.line + 1
    if node.tag not in _TAGS:
        document.problems.append((line, f"{dotted(keys)}: tag {node.tag} is not allowed"))
        return None
    if isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            document.positions[*keys, i] = _position(item, item)
        return [
            _build(item, (*keys, i), loader, document) for i, item in enumerate(node.value)
        ]
    if isinstance(node, yaml.MappingNode):
        return dict(_pairs(node, keys, loader, document))
    try:
        return loader.construct_object(node)
    except (ValueError, LookupError):
        document.problems.append((line, f"{dotted(keys)}: cannot read {node.value!r}"))
        return None


def _pairs(
    node: yaml.MappingNode, keys: Keys, loader: Any, document: Document
) -> Iterator[tuple[str, Any]]:
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            document.problems.append((line, f"{dotted(keys)}: a key must be plain text"))
            continue
        below = (*keys, key.value)
        if below in document.positions:
            first = document.positions[below].line
            document.problems.append(
                (line, f"{dotted(below)}: already set in line {first}; remove one of them")
            )
            continue
        document.positions[below] = _position(key, value)
        yield key.value, _build(value, below, loader, document)


def _position(at: yaml.Node, value: yaml.Node) -> KeyPosition:
    text = value.value if isinstance(value, yaml.ScalarNode) else None
    return KeyPosition(at.start_mark.line + 1, text)


def _syntax(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "line 1"
    problem = ", ".join(part for part in (error.context, error.problem) if part)
    remedy = next((text for part, text in _REMEDIES.items() if part in problem), None)
    return f"{where}: not YAML: {problem}" + (f"; {remedy}" if remedy else "")


def dotted(keys: Keys) -> str:
    """Format a key as section.key[index]."""
    name = ""
    for key in keys:
        name += f"[{key}]" if isinstance(key, int) else f".{key}" if name else key
    return name or "the file"


def shown(value: Any) -> str:
    """Format a value for a message as YAML, shortened to 60 characters."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."
