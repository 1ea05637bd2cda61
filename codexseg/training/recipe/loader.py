"""The YAML file of a training, read and checked before anything is loaded."""

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Discriminator, Tag, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from codexseg.errors import ConfigError
from codexseg.training.recipe.schema import AnyRecipe, Recipe, UnetRecipe

PRESETS = ("panoptic", "unet")


def _preset(said: Any) -> str:
    return str(said.get("preset", "panoptic")) if isinstance(said, dict) else "panoptic"


_RECIPE: TypeAdapter[AnyRecipe] = TypeAdapter(
    Annotated[
        Annotated[Recipe, Tag("panoptic")] | Annotated[UnetRecipe, Tag("unet")],
        Discriminator(_preset),
    ]
)


def load_recipe(path: Path, after: tuple[Path, ...] = ()) -> AnyRecipe:
    """Read and check the YAML file of a training.

    Where `start` names another YAML file, beside this one, its recipe takes that place.

    Parameters
    ----------
    path : Path
        The file.
    after : tuple of Path
        The files whose `start` led here.

    Raises
    ------
    ConfigError
        If it cannot be read or is wrong; the message holds all its errors.
    """
    try:
        said = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"there is no {path}: name the YAML file of a recipe.") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(said, dict):
        raise ConfigError(
            f"{path} holds no recipe, expected lines of 'key: value': see "
            f"config/train_embedded.yaml and config/train_unet.yaml."
        )
    if _preset(said) not in PRESETS:
        raise ConfigError(
            f"{path}: preset is {said['preset']!r}, expected one of {', '.join(PRESETS)}."
        )
    try:
        return _RECIPE.validate_python(_with_start(said, path, (*after, path.resolve())))
    except ValidationError as error:
        found = error.errors()
        inner = [e["loc"] for e in found]
        lines = [
            _line(e)
            for e in found
            # what holds a wrong item is not wrong itself
            if not any(
                len(loc) > len(e["loc"]) and loc[: len(e["loc"])] == e["loc"]
                for loc in inner
            )
            or e["type"] == "value_error"
        ]
        raise ConfigError("\n".join([f"{path} is no recipe:", *lines])) from error


def _with_start(said: dict[str, Any], path: Path, after: tuple[Path, ...]) -> Any:
    """Put the recipes in the place of the files that `start` names, at whatever depth."""
    start = said.get("start")
    if isinstance(start, dict):
        return said | {"start": _with_start(start, path, after)}
    if isinstance(start, str) and start.lower().endswith((".yaml", ".yml")):
        return said | {"start": _before(path, start, after)}
    return said


def _before(path: Path, start: str, after: tuple[Path, ...]) -> Recipe:
    """Load the recipe of the network that another one begins with."""
    named = path.parent / start
    if named.resolve() in after:
        raise ConfigError(
            f"{path}: start is {start}, expected a recipe that does not begin with this "
            f"one: name another file."
        )
    if not named.is_file():
        raise ConfigError(
            f"{path}: start is {start}, and there is no {named}: name the YAML file of a "
            f"recipe, beside this one."
        )
    recipe = load_recipe(named, after)
    if not isinstance(recipe, Recipe):
        raise ConfigError(
            f"{path}: start is {start}, a recipe of preset {recipe.preset}, expected one "
            f"of preset panoptic."
        )
    return recipe


def _line(error: ErrorDetails) -> str:
    """Say what is wrong with a key, in a line."""
    place = [str(part) for part in error["loc"][1:]]
    words = error["msg"].removeprefix("Value error, ")
    if not place or isinstance(error["input"], dict):
        return f"  {'.'.join(place)}{': ' if place else ''}{words}"
    return f"  {'.'.join(place)}: {words}, got {error['input']!r}"


def parse_recipe(text: str) -> AnyRecipe | None:
    """Read a recipe that a training wrote down, JSON; None if it is not one."""
    try:
        return _RECIPE.validate_json(text)
    except ValidationError:
        return None
