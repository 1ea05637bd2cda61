"""Read YAML files: all errors at once, each with its line and a remedy."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from codexseg.config.aegle import IGNORED, MOVED, REFUSED, take_legacy
from codexseg.config.deprecated import take_format_switches
from codexseg.config.schema import Config, dotted_keys, field_of
from codexseg.config.yaml_lines import INIT, Document, Keys, dotted, read, shown
from codexseg.errors import ConfigError

_EXPECTED = {
    "model_type": "expected a section: lines of 'key: value' below it, indented",
    "dict_type": "expected a section: lines of 'key: value' below it, indented",
    "bool_type": "expected true or false",
    "bool_parsing": "expected true or false",
    "float_type": "expected a number",
    "float_parsing": "expected a number",
    "int_type": "expected a whole number",
    "int_parsing": "expected a whole number",
    "int_from_float": "expected a whole number",
    "tuple_type": "expected a name or a list of names, like [CD3, CD8]",
    "too_short": "expected at least one name",
    "path_type": "expected a path, as text",
}
_TEXT_WANTED = {"name_type", "path_type"}


@dataclass(frozen=True)
class LoadedConfig:
    """A configuration, and notes for the user about its keys."""

    config: Config
    notes: tuple[str, ...] = ()


def load_config(path: Path | str, *, require_image: bool = True) -> LoadedConfig:
    """Read and check a YAML file.

    Parameters
    ----------
    path : path
        The file. Its folder anchors the relative paths in it.
    require_image : bool
        Whether `data.file_name` is required, as for a run.

    Returns
    -------
    LoadedConfig
        The configuration with absolute paths, and notes for the user.

    Raises
    ------
    ConfigError
        If the file cannot be read or is wrong; the message lists all errors.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"Configuration {path} not found. {INIT}") from None
    except OSError as error:
        raise ConfigError(f"Cannot read {path}: {error.strerror}.") from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{path}, line {line}: byte 0x{raw[error.start]:02x} is not UTF-8 text. Save "
            f"the file with the encoding UTF-8."
        ) from None
    return parse_config(text, path, require_image=require_image)


def parse_config(
    text: str, path: Path | str, *, require_image: bool = True
) -> LoadedConfig:
    """Validate the text of a YAML file; the folder of `path` anchors relative paths.

    Raises
    ------
    ConfigError
        If it is wrong; the message lists all errors, each with line and key.
    """
    document = read(text, Path(path))
    notes = translate_legacy(document)
    loaded = validate(document, notes, require_image=require_image)
    return LoadedConfig(_anchored(loaded.config, Path(path)), loaded.notes)


def validate(
    document: Document, notes: list[str], *, require_image: bool = False
) -> LoadedConfig:
    """Validate the values of a document, after mapping deprecated keys.

    Parameters
    ----------
    document : Document
        Its `data` is changed in place.
    notes : list of str
        Notes for the user about other keys.
    require_image : bool
        Whether `data.file_name` is required.

    Raises
    ------
    ConfigError
        If it is wrong; the message lists all errors.
    """
    notes = [*notes, *_map_formats(document)]
    config = None
    try:
        config = Config.model_validate(document.data)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            document.add_problem(detail["loc"], _explain(detail, document))
    data = document.data.get("data")
    if require_image and not (isinstance(data, dict) and data.get("file_name")):
        document.add_problem(
            ("data", "file_name"),
            "missing; expected the path of the slide image, relative to this file",
        )
    if config is None or document.problems:
        raise ConfigError(_message(document))
    return LoadedConfig(config, tuple(notes))


def template(name: str = "default") -> str:
    """Return the text of a file in `config/`: 'default' (every key) or a preset.

    Raises
    ------
    ConfigError
        If the file does not exist.
    """
    packaged = files("codexseg").joinpath("_config", f"{name}.yaml")
    checkout = Path(__file__).resolve().parents[2] / "config" / f"{name}.yaml"
    for source in (packaged, checkout):
        if source.is_file():
            return source.read_text(encoding="utf-8")
    raise ConfigError(f"Preset {name!r} not found, neither {packaged} nor {checkout}.")


def _map_formats(document: Document) -> Iterator[str]:
    """Map deprecated keys to `export.formats`, and yield a note for each."""
    for switch in take_format_switches(document.data):
        keys: Keys = tuple(switch.key.split("."))
        if switch.enabled is None:
            got = shown(switch.value)
            document.add_problem(keys, f"got {got}, expected true or false")
        yield document.prefix(document.position(keys).line) + switch.advice


def translate_legacy(document: Document) -> list[str]:
    """Replace the keys of aegle in a document, and return the notes about them."""
    legacy = take_legacy(document.data)
    ignored, notes = [], []
    for key, value in legacy.items():
        keys = tuple(key.split("."))
        line = document.position(keys).line
        if key in REFUSED:
            document.add_problem(keys, f"got {shown(value)}; {REFUSED[key]}")
        elif key in IGNORED:
            ignored.append((line, f"  {document.prefix(line)}{key}: {IGNORED[key]}"))
        else:
            notes.append(f"{document.prefix(line)}{key} is read as {MOVED[key]}.")
            _move(document, key, value)
    if ignored:
        lines = [text for _, text in sorted(ignored)]
        notes.append("\n".join(["These keys of aegle are ignored:", *lines]))
    data = document.data.get("data")
    name = data.get("file_name") if isinstance(data, dict) else None
    is_relative = isinstance(name, str) and name and not Path(name).is_absolute()
    if legacy and document.path is not None and is_relative:
        notes.append("data.file_name is relative to the folder of the YAML file.")
    return notes


def _move(document: Document, key: str, value: Any) -> None:
    """Move the value of a legacy key to the key that replaces it."""
    old, to = tuple(key.split(".")), tuple(MOVED[key].split("."))
    section = document.data[to[0]]
    if to[1] not in section:
        section[to[1]] = value
        for keys in [keys for keys in document.positions if keys[: len(old)] == old]:
            document.positions[*to, *keys[len(old) :]] = document.positions[keys]
        document.renamed[to] = f"{key} (now {dotted(to)})"
    elif section[to[1]] != value:
        line = f" (line {document.position(to).line})" if document.path else ""
        document.add_problem(
            old,
            f"got {shown(value)}, but {dotted(to)}{line} is "
            f"{shown(section[to[1]])}; remove one of them",
        )


def _explain(detail: ErrorDetails, document: Document) -> str:
    """Describe an error: value, expectation, remedy."""
    keys, kind = detail["loc"], detail["type"]
    got = f"got {shown(detail['input'])}"
    if kind == "extra_forbidden":
        return f"unknown key; {_suggestion(keys)}"
    expected = _EXPECTED.get(kind) or detail["msg"].replace("Input should be", "expected")
    text = document.position(keys).text
    if kind in _TEXT_WANTED and text and not isinstance(detail["input"], str):
        return f"{got}, {expected}; put it in quotes, '{text}'"
    info = field_of(".".join(str(key) for key in keys if isinstance(key, str)))
    about = f" ({info.description})" if info is not None else ""
    if detail["input"] is None and info is not None:
        default = shown(info.default)
        return f"{got}, {expected}{about}; remove the line for the default, {default}"
    return f"{got}, {expected}{about}"


def _suggestion(keys: Keys) -> str:
    """Name the most similar key of any section, or list the keys of the section."""
    *parents, last = [str(key) for key in keys]
    known = [(*key.rpartition("."),) for key in dotted_keys()]
    section = ".".join(parents)

    def similarity(candidate: tuple[str, ...]) -> float:
        ratio = SequenceMatcher(None, last, candidate[-1]).ratio()
        return ratio + 0.15 * (candidate[0] == section)

    best = max(known, key=similarity)
    if similarity(best) >= 0.75:
        return f"did you mean {''.join(best)}?"
    names = ", ".join(name for parent, _, name in known if parent == section)
    return f"keys of {section}: {names}" if section else f"sections: {names}"


def _message(document: Document) -> str:
    problems = sorted(document.problems, key=lambda problem: problem[0])
    lines = [f"  {document.prefix(line)}{text}" for line, text in problems]
    count = f"{len(lines)} error{'s' if len(lines) > 1 else ''}"
    head = f"{document.path or 'The mapping'} is not a valid configuration, {count}:"
    return "\n".join([head, *lines])


def _anchored(config: Config, path: Path) -> Config:
    """Make the paths of a configuration absolute, relative to the folder of `path`."""
    folder = path.absolute().parent.resolve()

    def absolute(value: Path) -> Path:
        home = value.expanduser() if value.parts[:1] == ("~",) else value
        # normpath does not resolve links: an image keeps the name that the user chose
        return Path(os.path.normpath(folder / home))

    sections = {}
    for name in ("data", "segmentation"):
        section = config.section(name)
        paths = {key: absolute(value) for key, value in section if isinstance(value, Path)}
        sections[name] = section.model_copy(update=paths)
    return config.model_copy(update=sections)
