from collections.abc import Iterator
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import pytest
import yaml

from codexseg.config.aegle import IGNORED, MOVED, REFUSED
from codexseg.config.loader import parse_config, template
from codexseg.config.schema import Config, Section, WatershedConfig, dotted_keys, field_of
from codexseg.errors import ConfigError


def keys_of(data: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in data.items():
        yield prefix + key
        field = field_of(prefix + key)
        kind = None if field is None else field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from keys_of(value, f"{prefix}{key}.")


def test_template_contains_every_default() -> None:
    assert parse_config(template(), "default.yaml", require_image=False).config == Config()


def test_template_lists_keys_in_schema_order() -> None:
    assert list(keys_of(yaml.safe_load(template()))) == list(dotted_keys())


def test_yaml_1_1_reader_reads_the_same_template() -> None:
    assert Config.model_validate(yaml.safe_load(template())) == Config()


def test_every_template_key_has_a_comment() -> None:
    bare = []
    for before, line in pairwise(template().splitlines()):
        explained = before.lstrip().startswith("#")
        if line.startswith("  ") and not line.lstrip().startswith("#") and not explained:
            bare.append(line.split(":")[0].strip())
    assert bare == ["patch_width"]  # explained with patch_height


@pytest.mark.parametrize("key", list(dotted_keys()))
def test_every_key_has_a_description(key: str) -> None:
    assert field_of(key).description


def test_watershed_section_equals_watershed_options() -> None:
    from codexseg.core.algorithms.nuclei_watershed import WatershedOptions

    assert asdict(WatershedOptions()) == WatershedConfig().model_dump()


def test_specification_preset_changes_only_its_keys() -> None:
    config = parse_config(template("specification"), "s.yaml", require_image=False).config
    default = Config().dump()
    for section, values in yaml.safe_load(template("specification")).items():
        default[section] |= values
    assert config.dump() == default
    assert config.patch_qc.non_zero_perc_threshold == 0.05
    assert config.segmentation.normalization == "patch"


def test_missing_preset_is_an_error() -> None:
    with pytest.raises(ConfigError, match="Preset 'slow' not found"):
        template("slow")


def test_aegle_keys_are_not_in_the_schema() -> None:
    known = set(dotted_keys())
    below = {
        known_key
        for known_key in known
        for old in (*MOVED, *IGNORED, *REFUSED)
        if f"{known_key}.".startswith(f"{old}.")
    }
    assert below == set()
    assert set(MOVED.values()) <= known
