from collections.abc import Iterator
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import pytest
import yaml

from codexseg.config.aegle import LEGACY
from codexseg.config.loader import parse, template
from codexseg.config.schema import Config, Section, WatershedConfig, dotted_keys, field_of
from codexseg.errors import ConfigError


def keys_of(data: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in data.items():
        yield prefix + key
        field = field_of(prefix + key)
        kind = None if field is None else field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from keys_of(value, f"{prefix}{key}.")


def test_the_template_holds_every_default() -> None:
    assert parse(template(), "default.yaml", require_image=False).config == Config()


def test_the_template_lists_every_key_in_the_order_of_the_models() -> None:
    assert list(keys_of(yaml.safe_load(template()))) == list(dotted_keys())


def test_a_yaml_1_1_reader_finds_the_same_values_in_the_template() -> None:
    assert Config.model_validate(yaml.safe_load(template())) == Config()


def test_every_key_of_the_template_has_a_comment_before_it() -> None:
    bare = []
    for before, line in pairwise(template().splitlines()):
        explained = before.lstrip().startswith("#")
        if line.startswith("  ") and not line.lstrip().startswith("#") and not explained:
            bare.append(line.split(":")[0].strip())
    assert bare == ["patch_width"]  # explained with patch_height


@pytest.mark.parametrize("key", list(dotted_keys()))
def test_every_key_is_described(key: str) -> None:
    assert field_of(key).description


def test_the_watershed_section_is_what_the_watershed_takes() -> None:
    from codexseg.core.algorithms.nuclei_watershed import WatershedOptions

    assert asdict(WatershedOptions()) == WatershedConfig().model_dump()


def test_the_preset_of_the_specification_changes_only_what_it_says() -> None:
    config = parse(template("specification"), "s.yaml", require_image=False).config
    default = Config().dump()
    for section, values in yaml.safe_load(template("specification")).items():
        default[section] |= values
    assert config.dump() == default
    assert config.patch_qc.non_zero_perc_threshold == 0.05
    assert config.segmentation.normalization == "patch"


def test_a_preset_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="Preset 'slow' not found"):
        template("slow")


def test_legacy_keys_are_no_keys_of_the_models() -> None:
    known = set(dotted_keys())
    below = {
        known_key
        for known_key in known
        for old in LEGACY
        if f"{known_key}.".startswith(f"{old}.")
    }
    assert below == set()
    moved = {old.advice for old in LEGACY.values() if old.action == "moved"}
    assert moved <= known
