import numpy as np
import pytest

from codexseg.errors import ConfigError, InputError, RunStateError
from codexseg.training.make import make
from codexseg.training.recipe import load_recipe
from tests.runs import ROOT, codexseg


def write(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


def test_the_recipe_of_the_embedded_network_is_read():
    recipe = load_recipe(ROOT / "config" / "train_embedded.yaml")
    assert recipe.channels == (32, 64, 96, 128)
    assert [source.kind for source in recipe.sources] == [
        *("crops", "synthetic", "nuclei", "pair")
    ]
    assert recipe.validation.columns[0] >= 2688  # no crop is learnt from and judged by
    assert recipe.sources[0].columns[1] <= 2752


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sources: []", "sources"),
        ("sources: [{kind: synthetic}]\nsteps: 0", "steps.*got 0"),
        ("sources: [{kind: synthetic}]\nstep: 5", r"step.*not permitted"),
        ("sources: [{kind: imaginary}]", "imaginary"),
        ("- a", "recipe.yaml"),
        ("a: [", "cannot be read as YAML"),
    ],
)
def test_a_wrong_recipe_is_one_clear_error(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe(write(tmp_path, text))


def test_a_source_that_is_not_there_is_named(tmp_path):
    recipe = load_recipe(write(tmp_path, "sources: [{kind: nuclei, images: no.npz}]"))
    with pytest.raises(InputError, match=r"no\.npz.*--data"):
        recipe.open(tmp_path)


def test_a_folder_of_another_recipe_is_left_alone(tmp_path):
    recipe = load_recipe(write(tmp_path, "sources: [{kind: synthetic}]"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "recipe.json").write_text("{}")
    with pytest.raises(RunStateError, match="another recipe"):
        make(recipe, tmp_path, tmp_path / "out")


def test_the_command_says_what_is_missing_or_wrong(tmp_path):
    done = codexseg("train", write(tmp_path, "sources: []"))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert np.any([word in done.stderr for word in ("codexseg[train]", "sources")])
