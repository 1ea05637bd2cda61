"""Configurations from models, dicts and YAML files."""

import logging
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from codexseg.config.loader import load_config, translate_legacy, validate
from codexseg.config.schema import Config, SegmentationConfig
from codexseg.config.yaml_lines import Document
from codexseg.errors import ConfigError

log = logging.getLogger(__name__)

AnyConfig = Config | SegmentationConfig | Mapping[str, Any] | str | Path
"""A configuration as a model, a dict of sections, or the path of a YAML file."""


def as_config(config: AnyConfig, base: Config | None = None) -> Config:
    """Return a configuration as a Config; notes about its keys are logged as warnings.

    Parameters
    ----------
    config : Config, SegmentationConfig, mapping or path of a YAML
        A mapping contains sections as the YAML does.
    base : Config, optional
        Values that a mapping or a SegmentationConfig does not contain; by default the
        defaults.

    Raises
    ------
    ConfigError
        If the configuration is wrong; the message lists all errors.
    """
    base = Config() if base is None else base
    if isinstance(config, Config):
        return config
    if isinstance(config, SegmentationConfig):
        return base.model_copy(update={"segmentation": config})
    if isinstance(config, str | Path):
        loaded = load_config(config, require_image=False)
    elif isinstance(config, Mapping):
        document = Document(data=_merged({}, config))
        notes = translate_legacy(document)
        document.data = _merged(base.dump(), document.data)
        loaded = validate(document, notes)
    else:
        raise ConfigError(
            f"The configuration is a {type(config).__name__}. Expected a Config, a "
            f"SegmentationConfig, a dict of sections, or the path of a YAML file."
        )
    for note in loaded.notes:
        log.warning("%s", note)
    return loaded.config


def _merged(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        if isinstance(value, Mapping):
            merged[key] = _merged(old if isinstance(old, dict) else {}, value)
        else:
            merged[key] = deepcopy(value)
    return merged
