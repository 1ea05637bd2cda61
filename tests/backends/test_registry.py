"""Specifications of backends and warnings about their settings."""

from importlib import metadata

import pytest

from codexseg.backends import registry
from codexseg.backends.registry import (
    BACKENDS,
    BackendSpec,
    BackendWarning,
    backend_warnings,
    spec_of,
)
from codexseg.config.schema import Config, SegmentationConfig
from codexseg.errors import ConfigError
from codexseg.workflow.cache_keys import section_in_key


class Warned:
    """Backend of another package that warns about its settings."""

    @classmethod
    def warnings(cls, config):
        if config.options.get("speed") == "slow":
            yield BackendWarning("slow", "slow", "segmentation.options", "It is slow.")


def warnings_of(**settings):
    return list(backend_warnings(SegmentationConfig(**settings)))


def codes(**settings):
    return [(warning.code, warning.setting) for warning in warnings_of(**settings)]


@pytest.mark.parametrize("spec", BACKENDS, ids=lambda spec: spec.name)
def test_target_of_each_spec_has_its_name(spec):
    assert spec_of(spec.name) is spec
    assert registry._load(spec.name).name == spec.name


def test_extras_of_backends_are_in_pyproject():
    extras = metadata.metadata("codexseg").get_all("Provides-Extra")
    assert {spec.extra for spec in BACKENDS if spec.extra} <= set(extras or [])


def test_backend_by_path_takes_weights_and_options():
    spec = spec_of("some.module:Class")
    assert spec == BackendSpec("some.module:Class", "some.module:Class")
    assert spec.options
    assert spec.weights == "optional"
    assert not spec.in_fingerprint


def test_registered_backend_has_the_target_of_its_entry_point(monkeypatch):
    point = metadata.EntryPoint("theirs", "their.module:Their", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    assert spec_of("theirs").target == "their.module:Their"
    assert "theirs" in registry.names()


def test_unknown_name_has_a_spec_and_cannot_be_created():
    assert spec_of("embeded").target == "embeded"
    with pytest.raises(ConfigError, match="Did you mean 'embedded'"):
        list(backend_warnings(SegmentationConfig(backend="embeded")))


@pytest.mark.parametrize("spec", BACKENDS, ids=lambda spec: spec.name)
def test_settings_in_the_fingerprint_are_not_in_stage_keys(spec):
    config = Config(segmentation={"backend": spec.name})
    assert spec.in_fingerprint.isdisjoint(section_in_key(config, "segmentation"))


def test_settings_of_watershed_and_other_packages_are_in_stage_keys():
    for name in ("watershed", "some.module:Class"):
        config = Config(segmentation={"backend": name})
        assert {"model_path", "watershed", "options"} <= set(
            section_in_key(config, "segmentation")
        )


def test_default_settings_give_no_warning():
    for spec in BACKENDS:
        assert codes(backend=spec.name, normalization="patch") == []


@pytest.mark.parametrize("name", ["embedded", "watershed"])
def test_weights_of_a_backend_without_weights_give_a_warning(name):
    (warning,) = warnings_of(backend=name, model_path="w.onnx")
    assert warning[:3] == ("model_path_unused", "w.onnx", "segmentation.model_path")
    assert f"the backend '{name}' takes no weights" in warning.message


def test_weights_of_a_backend_of_another_package_give_no_warning():
    assert codes(backend=f"{__name__}:Warned", model_path="w.onnx") == []


@pytest.mark.parametrize(
    "name", [spec.name for spec in BACKENDS if spec.name not in ("cellpose", "stardist")]
)
def test_unused_options_give_a_warning(name):
    (warning,) = warnings_of(
        backend=name, options={"speed": 1, "model": "x"}, normalization="patch"
    )
    assert warning[:3] == ("options_unused", "speed, model", "segmentation.options")
    assert f"'{name}' does not use segmentation.options" in warning.message


@pytest.mark.parametrize("name", ["cellpose", "stardist"])
def test_options_of_backends_that_use_them_give_no_warning(name):
    assert codes(backend=name, options={"model": "x"}) == []


def test_deepcell_warns_about_slide_normalization():
    assert codes(backend="deepcell", normalization="slide") == [
        ("normalization_unused", "segmentation.normalization")
    ]
    assert codes(backend="deepcell", normalization="patch") == []


def test_warnings_of_another_package_are_included():
    assert codes(backend=f"{__name__}:Warned", options={"speed": "slow"}) == [
        ("slow", "segmentation.options")
    ]
    assert codes(backend=f"{__name__}:Warned") == []
