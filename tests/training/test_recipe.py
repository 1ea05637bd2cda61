import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

from codexseg.errors import ConfigError, InputError, RunStateError
from codexseg.training.augmentation.presets import STRENGTHS
from codexseg.training.recipe.loader import load_recipe, parse_recipe
from codexseg.training.train import _check, make
from tests.helpers.runs import ROOT, codexseg
from tests.training.pictures import write_pairs


def write(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


def test_the_recipe_of_the_embedded_network_learns_from_one_half_alone():
    parts = [load_recipe(ROOT / "config" / "train_embedded.yaml")]
    while parts[-1].start is not None:
        parts.append(parts[-1].start)
    changed = [one.augmentation for one in parts]
    assert changed == [("wide", "mild", "mild", "mild"), ("wide", "mild", "mild")]
    for one in parts:
        assert one.channels == (32, 64, 96, 128)
        assert one.validation.columns[0] >= 2688  # no crop is learnt from and judged by
        assert {s.kind for s in one.sources} == {"crops", "synthetic", "nuclei", "pair"}
        columns = [s.columns for s in one.sources if s.kind == "crops"]
        assert max(last for _, last in columns) <= 2752


def test_a_recipe_can_begin_with_another(tmp_path):
    sources = "sources: [{kind: synthetic}]\n"
    (tmp_path / "first.yaml").write_text(sources + "steps: 7")
    recipe = load_recipe(write(tmp_path, sources + "start: first.yaml"))
    assert recipe.start.steps == 7
    written = recipe.model_dump_json()
    assert parse_recipe(written) == recipe
    within = f"start: {{{sources.strip()}, steps: 3, start: first.yaml}}"
    assert load_recipe(write(tmp_path, sources + within)).start.start.steps == 7
    assert load_recipe(write(tmp_path, sources + "start: a.onnx")).start == Path("a.onnx")
    assert load_recipe(write(tmp_path, sources + "start: embedded")).start == "embedded"


def test_images_are_changed_by_one_strength_or_one_of_several(tmp_path):
    sources = "sources: [{kind: synthetic}]\n"
    one = load_recipe(write(tmp_path, sources + "augmentation: mild"))
    assert one.strengths == [STRENGTHS["mild"]]
    both = load_recipe(write(tmp_path, sources + "augmentation: [wide, mild]"))
    assert both.strengths == [STRENGTHS["wide"], STRENGTHS["mild"]]
    assert parse_recipe(both.model_dump_json()) == both
    for larger in ("enlarged: 1.25", "enlarged: 1.125\nlearns_enlarged: 1.25"):
        made = load_recipe(write(tmp_path, f"{sources}augmentation: mild\n{larger}"))
        assert made.strengths[0].scales == pytest.approx((0.62 * 1.25, 1.3 * 1.25))
    for wrong in ("weird", "[wide, weird]", "[]"):
        with pytest.raises(ConfigError, match=r"augmentation"):
            load_recipe(write(tmp_path, sources + f"augmentation: {wrong}"))


def test_a_recipe_begins_with_a_network_like_its_own(tmp_path):
    sources = "sources: [{kind: synthetic}]\n"

    def recipe(skips, *starts):
        said = f"skips: {skips}\n" if skips else ""
        first = f"start: {{{starts[0]}}}\n" if starts else ""
        return load_recipe(write(tmp_path, sources + said + first))

    one = sources.strip()
    assert recipe("").made_skips == "joined"
    assert recipe("", f"{one}, skips: added").made_skips == "added"
    assert recipe("added", f"{one}, start: embedded").made_skips == "added"
    assert recipe("", f"{one}, start: embedded").made_skips is None
    for skips, start, theirs in (
        ("joined", f"{one}, skips: added", "added"),
        ("added", one, "joined"),
        ("joined", f"{one}, start: {{{one}, skips: added}}", "added"),
    ):
        with pytest.raises(ConfigError, match=f"whose skips are {theirs}, got {skips}"):
            recipe(skips, start)
    with pytest.raises(ConfigError, match=r"channels \[8, 16\], expected the same"):
        recipe("", f"{one}, channels: [8, 16]")


def test_a_recipe_cannot_begin_with_itself_or_a_unet(tmp_path):
    sources = "sources: [{kind: synthetic}]\n"
    (tmp_path / "first.yaml").write_text(sources + "start: recipe.yaml")
    with pytest.raises(ConfigError, match=r"first\.yaml: start is recipe\.yaml"):
        load_recipe(write(tmp_path, sources + "start: first.yaml"))
    (tmp_path / "first.yaml").write_text("preset: unet\nimages: a\ncells: b")
    with pytest.raises(ConfigError, match="preset unet, expected one of preset panoptic"):
        load_recipe(write(tmp_path, sources + "start: first.yaml"))


@pytest.mark.parametrize("kept", [6, 400])
def test_an_image_that_is_damaged_is_named(tmp_path, kept):
    image = np.random.default_rng(0).integers(0, 9, (2, 64, 64)).astype(np.uint8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, compression="zlib")
    whole = path.read_bytes()
    path.write_bytes(whole[:kept] + b"x" * (kept > 6) * (len(whole) - kept))
    labels = np.ones((1, 32, 32), np.uint8)
    np.savez(tmp_path / "b.npz", yx=np.zeros((1, 2), int), cells=labels, nuclei=labels)
    crops = "sources: [{kind: crops, image: a.tif, labels: b.npz}]"
    with pytest.raises(InputError, match=r"a\.tif"):
        load_recipe(write(tmp_path, crops)).open(tmp_path)


def test_labels_that_a_teacher_has_yet_to_make_are_named_with_the_command(tmp_path):
    crops = "{kind: crops, image: a.tif, labels: b.npz, columns: [0, 9], channels: [0, 2]}"
    with pytest.raises(InputError, match=r"teacher .*b\.npz --channels 0 2 --columns 0 9'"):
        load_recipe(write(tmp_path, f"sources: [{crops}]")).open(tmp_path)
    turned = crops.replace("}", ", turns: 3}")
    with pytest.raises(InputError, match=r"--columns 0 9 --turns 3'"):
        load_recipe(write(tmp_path, f"sources: [{turned}]")).open(tmp_path)


def test_the_recipe_of_the_unet_is_that_of_the_seeds():
    recipe = load_recipe(ROOT / "config" / "train_unet.yaml")
    assert recipe.widths == (64, 128, 256, 512, 1024)
    assert (recipe.learning_rate, recipe.batch, recipe.epochs) == (1e-4, 2, 100)
    assert (recipe.height, recipe.grid, recipe.split) == (256, 16, 0.2)
    assert (recipe.loss, recipe.scaling, recipe.inputs) == ("bce", "levels", {"nucleus": 0})
    assert recipe == load_recipe(ROOT / "config" / "train_unet.yaml")


def test_a_folder_of_the_same_recipe_before_it_had_more_keys_is_taken(tmp_path):
    recipe = load_recipe(write(tmp_path, "sources: [{kind: synthetic}]"))
    keys = json.loads(recipe.model_dump_json())
    for new in ("start", "patience", "split"):
        assert keys.pop(new) is None
    assert keys.pop("precision") == "float32"
    assert keys.pop("turned") is False
    assert keys.pop("enlarged") is None
    assert keys.pop("skips") is None
    assert keys.pop("learns_enlarged") is None
    (tmp_path / "recipe.json").write_text(json.dumps(keys))
    _check(recipe, tmp_path)
    (tmp_path / "recipe.json").write_text(json.dumps(keys | {"steps": 7}))
    with pytest.raises(RunStateError, match="another recipe"):
        _check(recipe, tmp_path)


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
        ("sources: [{kind: synthetic}]\npatience: 3", "patience needs images"),
        ("sources: [{kind: synthetic}]\nstart: 5", "start.*got 5"),
        ("sources: [{kind: synthetic}]\nstart: none.yaml", "there is no .*none.yaml"),
        (
            "sources: [{kind: synthetic}]\n"
            "start: {channels: [8, 16], sources: [{kind: synthetic}]}",
            r"start makes a network of the channels \[8, 16\]",
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
            "not both",
        ),
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


def test_a_network_of_another_recipe_is_no_start(tmp_path):
    sources = "sources: [{kind: synthetic}]\n"
    recipe = load_recipe(
        write(tmp_path, f"{sources}start: {{{sources.strip()}, steps: 3}}")
    )
    start = tmp_path / "out" / "start"
    start.mkdir(parents=True)
    (start / "network.onnx").write_bytes(b"of whom")
    with pytest.raises(RunStateError, match="start holds a training of another recipe"):
        make(recipe, tmp_path, tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="expected a folder"):
        make(recipe, tmp_path, tmp_path / "file")


@pytest.mark.parametrize("content", [b"", b"no zip"])
def test_what_the_first_recipe_needs_is_looked_for_at_once(tmp_path, content):
    tifffile.imwrite(tmp_path / "a.tif", np.ones((9, 9), np.uint8))
    (tmp_path / "b.npz").write_bytes(content)
    crops = "sources: [{kind: crops, image: a.tif, labels: b.npz}]"
    text = f"sources: [{{kind: synthetic}}]\nstart: {{{crops}}}"
    with pytest.raises(InputError, match=r"b\.npz"):
        make(load_recipe(write(tmp_path, text)), tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_says_what_is_missing_or_wrong(tmp_path):
    done = codexseg("train", write(tmp_path, "sources: []"))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert np.any([word in done.stderr for word in ("codexseg[train]", "sources")])


def test_images_that_do_not_fit_are_one_clear_error_and_nothing_is_written(tmp_path):
    write_pairs(tmp_path)
    (tmp_path / "masks" / "a1_masks.png").unlink()
    recipe = load_recipe(write(tmp_path, "preset: unet\nimages: images\nnuclei: masks"))
    with pytest.raises(InputError, match=r"Without a partner.*a1\.png"):
        make(recipe, tmp_path, tmp_path / "out")
    text = "sources: [{kind: pairs, images: images, cells: masks, mpp: 0.5}]\nsplit: 0.2"
    with pytest.raises(InputError, match=r"Without a partner.*a1\.png"):
        make(load_recipe(write(tmp_path, text)), tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_share_of_the_pairs_is_held_back(tmp_path):
    write_pairs(tmp_path)
    source = "{kind: pairs, images: images, cells: masks, mpp: 0.5}"
    text = f"sources: [{source}, {{kind: synthetic}}]\nsplit: 0.4\nseed: 3"
    sources, (held,) = load_recipe(write(tmp_path, text)).open_all(tmp_path)
    assert len(sources) == 2
    assert len(sources[0]) == 3
    assert len(held) == 2
    assert not {p.name for p in sources[0].pairs} & {p.name for p in held.pairs}
