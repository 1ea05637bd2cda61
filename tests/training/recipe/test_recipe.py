"""Recipes, and the checks before a training."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

from codexseg.errors import ConfigError, InputError, RunStateError
from codexseg.training.augmentation.presets import AUGMENTATIONS
from codexseg.training.networks import test_time
from codexseg.training.recipe.loader import load_recipe, parse_recipe
from codexseg.training.train import _check_folder, run_training
from tests.helpers.runs import ROOT, codexseg
from tests.training.pictures import write_pairs


def write_recipe(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


def load_text(tmp_path, text):
    return load_recipe(write_recipe(tmp_path, text))


def test_recipe_of_the_embedded_network_separates_training_and_validation():
    parts = [load_recipe(ROOT / "config" / "train_embedded.yaml")]
    while parts[-1].start is not None:
        parts.append(parts[-1].start)
    augmentations = [part.augmentation for part in parts]
    assert augmentations == [("wide", "mild", "mild", "mild"), ("wide", "mild", "mild")]
    for part in parts:
        assert part.channels == (32, 64, 96, 128)
        assert part.validation.columns[0] >= 2688  # no crop is used for both
        assert {s.kind for s in part.sources} == {"crops", "synthetic", "nuclei", "pair"}
        columns = [s.columns for s in part.sources if s.kind == "crops"]
        assert max(last for _, last in columns) <= 2752


def test_recipe_may_start_from_another_recipe(tmp_path):
    sources = "sources: [{kind: synthetic}]\n"
    (tmp_path / "first.yaml").write_text(sources + "steps: 7")
    recipe = load_text(tmp_path, sources + "start: first.yaml")
    assert recipe.start.steps == 7
    written = recipe.model_dump_json()
    assert parse_recipe(written) == recipe
    within = f"start: {{{sources.strip()}, steps: 3, start: first.yaml}}"
    assert load_text(tmp_path, sources + within).start.start.steps == 7
    assert load_text(tmp_path, sources + "start: a.onnx").start == Path("a.onnx")
    assert load_text(tmp_path, sources + "start: embedded").start == "embedded"


def test_augmentation_names_one_preset_or_several(tmp_path):
    sources = "sources: [{kind: synthetic}]\n"
    mild = load_text(tmp_path, sources + "augmentation: mild")
    assert mild.presets == [AUGMENTATIONS["mild"]]
    several = load_text(tmp_path, sources + "augmentation: [wide, mild]")
    assert several.presets == [AUGMENTATIONS["wide"], AUGMENTATIONS["mild"]]
    assert parse_recipe(several.model_dump_json()) == several
    for key in ("enlarged: 1.25", "enlarged: 1.125\nlearns_enlarged: 1.25"):
        recipe = load_text(tmp_path, f"{sources}augmentation: mild\n{key}")
        assert recipe.presets[0].scales == pytest.approx((0.62 * 1.25, 1.3 * 1.25))
    for wrong in ("weird", "[wide, weird]", "[]"):
        with pytest.raises(ConfigError, match=r"augmentation"):
            load_text(tmp_path, sources + f"augmentation: {wrong}")


def test_recipe_and_its_start_need_the_same_architecture(tmp_path):
    sources = "sources: [{kind: synthetic}]\n"

    def recipe(skips, *starts):
        key = f"skips: {skips}\n" if skips else ""
        first = f"start: {{{starts[0]}}}\n" if starts else ""
        return load_text(tmp_path, sources + key + first)

    plain = sources.strip()
    assert recipe("").network_skips == "concat"
    assert recipe("", f"{plain}, skips: added").network_skips == "add"
    assert recipe("added", f"{plain}, start: embedded").network_skips == "add"
    assert recipe("", f"{plain}, start: embedded").network_skips is None
    for skips, start, theirs in (
        ("joined", f"{plain}, skips: added", "add"),
        ("added", plain, "concat"),
        ("joined", f"{plain}, start: {{{plain}, skips: added}}", "add"),
    ):
        kind = {"joined": "concat", "added": "add"}[skips]
        with pytest.raises(ConfigError, match=f"with skips {theirs}, got {kind}"):
            recipe(skips, start)
    with pytest.raises(ConfigError, match=r"channels \[8, 16\], expected the same"):
        recipe("", f"{plain}, channels: [8, 16]")


@pytest.mark.parametrize(
    "keys",
    [
        "skips: added\nturned: true\nenlarged: 1.125\nlearns_enlarged: 1.25",
        "skips: add\nflip: true\nupsample: 1.125\ntrain_upsample: 1.25",
    ],
)
def test_both_names_of_network_settings_are_accepted(tmp_path, keys):
    sources = "sources: [{kind: synthetic}]\n"
    recipe = load_text(tmp_path, sources + keys)
    assert recipe.skips == "add"
    assert recipe.test_time == test_time.TestTime(flip=True, upsample=1.125)
    assert recipe.train_upsample == 1.25
    assert parse_recipe(recipe.model_dump_json()) == recipe
    with pytest.raises(ConfigError, match="not permitted"):
        load_text(tmp_path, f"{sources}turned: true\nflip: true")


def test_recipe_cannot_start_from_itself_or_a_unet(tmp_path):
    sources = "sources: [{kind: synthetic}]\n"
    (tmp_path / "first.yaml").write_text(sources + "start: recipe.yaml")
    with pytest.raises(ConfigError, match=r"first\.yaml: start is recipe\.yaml"):
        load_text(tmp_path, sources + "start: first.yaml")
    (tmp_path / "first.yaml").write_text("preset: unet\nimages: a\ncells: b")
    with pytest.raises(ConfigError, match="preset unet, expected one of preset panoptic"):
        load_text(tmp_path, sources + "start: first.yaml")


@pytest.mark.parametrize("kept", [6, 400])
def test_damaged_image_is_named(tmp_path, kept):
    image = np.random.default_rng(0).integers(0, 9, (2, 64, 64)).astype(np.uint8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, compression="zlib")
    whole = path.read_bytes()
    path.write_bytes(whole[:kept] + b"x" * (kept > 6) * (len(whole) - kept))
    labels = np.ones((1, 32, 32), np.uint8)
    np.savez(tmp_path / "b.npz", yx=np.zeros((1, 2), int), cells=labels, nuclei=labels)
    crops = "sources: [{kind: crops, image: a.tif, labels: b.npz}]"
    with pytest.raises(InputError, match=r"a\.tif"):
        load_text(tmp_path, crops).open_all(tmp_path)


def test_missing_teacher_labels_are_named_with_the_command(tmp_path):
    crops = "{kind: crops, image: a.tif, labels: b.npz, columns: [0, 9], channels: [0, 2]}"
    with pytest.raises(InputError, match=r"teacher .*b\.npz --channels 0 2 --columns 0 9'"):
        load_text(tmp_path, f"sources: [{crops}]").open_all(tmp_path)
    turned = crops.replace("}", ", turns: 3}")
    with pytest.raises(InputError, match=r"--columns 0 9 --turns 3'"):
        load_text(tmp_path, f"sources: [{turned}]").open_all(tmp_path)


def test_recipe_of_the_unet_has_the_specified_settings():
    recipe = load_recipe(ROOT / "config" / "train_unet.yaml")
    assert recipe.widths == (64, 128, 256, 512, 1024)
    assert (recipe.learning_rate, recipe.batch, recipe.epochs) == (1e-4, 2, 100)
    assert (recipe.height, recipe.grid, recipe.split) == (256, 16, 0.2)
    assert (recipe.loss, recipe.scaling, recipe.inputs) == ("bce", "levels", {"nucleus": 0})
    assert recipe == load_recipe(ROOT / "config" / "train_unet.yaml")


def test_folder_with_an_earlier_form_of_the_recipe_is_accepted(tmp_path):
    recipe = load_text(tmp_path, "sources: [{kind: synthetic}]")
    keys = json.loads(recipe.model_dump_json())
    for key in ("start", "patience", "split"):
        assert keys.pop(key) is None
    assert keys.pop("precision") == "float32"
    assert keys.pop("flip") is False
    assert keys.pop("upsample") is None
    assert keys.pop("skips") is None
    assert keys.pop("train_upsample") is None
    (tmp_path / "recipe.json").write_text(json.dumps(keys))
    _check_folder(recipe, tmp_path)
    former = {"turned": False, "enlarged": None, "learns_enlarged": None, "skips": None}
    (tmp_path / "recipe.json").write_text(json.dumps(keys | former))
    _check_folder(recipe, tmp_path)
    (tmp_path / "recipe.json").write_text(json.dumps(keys | {"steps": 7}))
    with pytest.raises(RunStateError, match="another recipe"):
        _check_folder(recipe, tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sources: []", "sources"),
        ("sources: [{kind: synthetic}]\nsteps: 0", "steps.*got 0"),
        ("sources: [{kind: synthetic}]\nstep: 5", r"step.*not permitted"),
        ("sources: [{kind: imaginary}]", "imaginary"),
        ("sources: [{kind: synthetic}]\nenlarged: 1.1", "281.6 px, .* multiple of 16"),
        ("sources: [{kind: synthetic}]\nenlarged: 0.5", "enlarged.*greater than or equal"),
        ("sources: [{kind: pairs, images: a, mpp: 0.5}]", "expected labels"),
        ("sources: [{kind: pairs, images: a, cells: b}]", "mpp.*required"),
        ("sources: [{kind: synthetic}]\nsplit: 0.2", "source of kind pairs"),
        ("sources: [{kind: synthetic}]\npatience: 3", "patience needs validation images"),
        ("sources: [{kind: synthetic}]\nstart: 5", "start.*got 5"),
        ("sources: [{kind: synthetic}]\nstart: none.yaml", "none.yaml does not exist"),
        (
            "sources: [{kind: synthetic}]\n"
            "start: {channels: [8, 16], sources: [{kind: synthetic}]}",
            r"start trains a network with channels \[8, 16\]",
        ),
        ("sources: [{kind: synthetic}]\nchannels: [0, 8]", r"channels.0.*greater than 0"),
        (
            "sources: [{kind: synthetic}]\nchannels: [2, 2, 2, 2, 2, 2, 2, 2, 2]",
            "at most 8",
        ),
        ("sources: [{kind: synthetic}]\nseed: 4294967296", "seed.*less than 4294967296"),
        ("sources: [{kind: synthetic, weight: .inf}]", "weight.*finite"),
        ("sources: [{kind: synthetic}]\nlearning_rate: .inf", "learning_rate.*finite"),
        ("preset: resnet", "resnet"),
        ("preset: unet\nimages: a", "expected labels"),
        ("preset: unet\nimages: a\ncells: b\nheight: 250", "multiple of 16"),
        ("preset: unet\nimages: a\ncells: b\nloss: dice", "loss.*got 'dice'"),
        (
            "preset: unet\nimages: a\ncells: b\nvalidation: {images: c, nuclei: d}",
            "same kinds",
        ),
        (
            "preset: unet\nimages: a\ncells: b\nsplit: 0.1\n"
            "validation: {images: c, cells: d}",
            "exclude each other",
        ),
        ("- a", "recipe.yaml"),
        ("a: [", "cannot be read as YAML"),
    ],
)
def test_invalid_recipe_raises_one_error(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_text(tmp_path, text)


def test_missing_source_is_named(tmp_path):
    recipe = load_text(tmp_path, "sources: [{kind: nuclei, images: no.npz}]")
    with pytest.raises(InputError, match=r"no\.npz.*--data"):
        recipe.open_all(tmp_path)


def test_folder_of_another_recipe_is_refused(tmp_path):
    recipe = load_text(tmp_path, "sources: [{kind: synthetic}]")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "recipe.json").write_text("{}")
    with pytest.raises(RunStateError, match="another recipe"):
        run_training(recipe, tmp_path, tmp_path / "out")


def test_start_folder_of_another_recipe_is_refused(tmp_path):
    sources = "sources: [{kind: synthetic}]\n"
    recipe = load_text(tmp_path, f"{sources}start: {{{sources.strip()}, steps: 3}}")
    start = tmp_path / "out" / "start"
    start.mkdir(parents=True)
    (start / "network.onnx").write_bytes(b"unknown")
    with pytest.raises(RunStateError, match="start holds a training of another recipe"):
        run_training(recipe, tmp_path, tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="expected a folder"):
        run_training(recipe, tmp_path, tmp_path / "file")


@pytest.mark.parametrize("content", [b"", b"no zip"])
def test_sources_of_the_start_recipe_are_checked_first(tmp_path, content):
    tifffile.imwrite(tmp_path / "a.tif", np.ones((9, 9), np.uint8))
    (tmp_path / "b.npz").write_bytes(content)
    crops = "sources: [{kind: crops, image: a.tif, labels: b.npz}]"
    text = f"sources: [{{kind: synthetic}}]\nstart: {{{crops}}}"
    with pytest.raises(InputError, match=r"b\.npz"):
        run_training(load_text(tmp_path, text), tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_command_reports_invalid_recipe_without_traceback(tmp_path):
    done = codexseg("train", write_recipe(tmp_path, "sources: []"))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert np.any([word in done.stderr for word in ("codexseg[train]", "sources")])


def test_unmatched_images_raise_and_nothing_is_written(tmp_path):
    write_pairs(tmp_path)
    (tmp_path / "masks" / "a1_masks.png").unlink()
    recipe = load_text(tmp_path, "preset: unet\nimages: images\nnuclei: masks")
    with pytest.raises(InputError, match=r"without a partner.*a1\.png"):
        run_training(recipe, tmp_path, tmp_path / "out")
    text = "sources: [{kind: pairs, images: images, cells: masks, mpp: 0.5}]\nsplit: 0.2"
    with pytest.raises(InputError, match=r"without a partner.*a1\.png"):
        run_training(load_text(tmp_path, text), tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_split_takes_a_share_of_the_pairs_for_validation(tmp_path):
    write_pairs(tmp_path)
    source = "{kind: pairs, images: images, cells: masks, mpp: 0.5}"
    text = f"sources: [{source}, {{kind: synthetic}}]\nsplit: 0.4\nseed: 3"
    sources, (validation,) = load_text(tmp_path, text).open_all(tmp_path)
    assert len(sources) == 2
    assert len(sources[0]) == 3
    assert len(validation) == 2
    assert not {p.name for p in sources[0].pairs} & {p.name for p in validation.pairs}
