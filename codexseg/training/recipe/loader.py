"""Loading of recipes: YAML files, checked before any image is read."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from codexseg.errors import ConfigError
from codexseg.training.recipe.schema import AnyRecipe, Recipe, UnetRecipe

PRESETS: dict[str, type[AnyRecipe]] = {"panoptic": Recipe, "unet": UnetRecipe}


def load_recipe(path: Path, parents: tuple[Path, ...] = ()) -> AnyRecipe:
    """Read and check a recipe.

    If `start` names another YAML file, relative to this one, its recipe is inserted there.

    Parameters
    ----------
    path : Path
        The YAML file.
    parents : tuple of Path
        Files that lead to this one through `start`.

    Raises
    ------
    ConfigError
        If the file is unreadable or invalid; the message contains all its errors.
    """
    try:
        recipe = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path} not found. Name the YAML file of a recipe.") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(recipe, dict):
        raise ConfigError(
            f"{path} contains no recipe, expected lines of 'key: value'. See "
            f"config/train_embedded.yaml and config/train_unet.yaml."
        )
    preset = str(recipe.get("preset", "panoptic"))
    if preset not in PRESETS:
        raise ConfigError(
            f"{path}: preset is {recipe['preset']!r}, expected one of {', '.join(PRESETS)}."
        )
    complete = _insert_start(recipe, path, (*parents, path.resolve()))
    try:
        return PRESETS[preset].model_validate(complete)
    except ValidationError as error:
        raise ConfigError(
            "\n".join([f"{path} is not a valid recipe:", *_lines(error.errors())])
        ) from error


def _insert_start(recipe: dict[str, Any], path: Path, parents: tuple[Path, ...]) -> Any:
    """Replace the YAML files that `start` names by their recipes, recursively."""
    start = recipe.get("start")
    if isinstance(start, dict):
        return recipe | {"start": _insert_start(start, path, parents)}
    if isinstance(start, str) and start.lower().endswith((".yaml", ".yml")):
        return recipe | {"start": _load_start(path, start, parents)}
    return recipe


def _load_start(path: Path, start: str, parents: tuple[Path, ...]) -> Recipe:
    """Load the recipe of the network that provides the initial weights."""
    named = path.parent / start
    if named.resolve() in parents:
        raise ConfigError(
            f"{path}: start is {start}, which starts from this recipe itself. Name another "
            f"file."
        )
    if not named.is_file():
        raise ConfigError(
            f"{path}: start is {start}, but {named} does not exist. Name a YAML file "
            f"relative to this one."
        )
    recipe = load_recipe(named, parents)
    if not isinstance(recipe, Recipe):
        raise ConfigError(
            f"{path}: start is {start}, a recipe of preset {recipe.preset}, expected one "
            f"of preset panoptic."
        )
    return recipe


def _lines(errors: list[ErrorDetails]) -> list[str]:
    """Return one line per error; errors of enclosing keys are left out."""
    inner = [error["loc"] for error in errors]
    return [
        _line(error)
        for error in errors
        if error["type"] == "value_error"
        or not any(
            len(loc) > len(error["loc"]) and loc[: len(error["loc"])] == error["loc"]
            for loc in inner
        )
    ]


def _line(error: ErrorDetails) -> str:
    key = [str(part) for part in error["loc"]]
    message = error["msg"].removeprefix("Value error, ")
    if not key or isinstance(error["input"], dict):
        return f"  {'.'.join(key)}{': ' if key else ''}{message}"
    return f"  {'.'.join(key)}: {message}, got {error['input']!r}"


def parse_recipe(text: str) -> AnyRecipe | None:
    """Parse the recipe.json of a training; None if it is invalid."""
    for schema in PRESETS.values():
        with suppress(ValidationError):
            return schema.model_validate_json(text)
    return None
