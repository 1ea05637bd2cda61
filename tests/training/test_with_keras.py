"""Training with keras: networks, loop, and a recipe run to a working backend."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from itertools import product

import numpy as np
import pytest

from codexseg.backends.base import ChannelStatistics, SlideContext
from codexseg.backends.networks.weights import EMBEDDED, resolve_weights
from codexseg.backends.panoptic.parameters import params_of
from codexseg.backends.unet.backend import Unet
from codexseg.backends.unet.spec import read_spec
from codexseg.config.schema import SegmentationConfig
from codexseg.core.grid import Window
from codexseg.core.intensity.background import channel_statistics
from codexseg.errors import BackendUnavailable, ConfigError, InputError, RunStateError
from codexseg.training.data.targets import INTERIOR
from tests.helpers.runs import ROOT
from tests.training.pictures import disc_labels, fluorescence, write_image, write_pairs

NEEDED = ("keras", "tensorflow", "tf2onnx", "onnx", "matplotlib")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"training needs {', '.join(MISSING)}"),
    pytest.mark.filterwarnings("default"),  # TensorFlow and tf2onnx warn
]
needs_embedded = pytest.mark.skipif(
    not EMBEDDED.exists(), reason="the package contains no network"
)

UNET = """\
preset: unet
images: images
nuclei: masks
widths: [4, 8]
height: 32
epochs: {epochs}
learning_rate: 0.01
{more}
"""


def write_recipe(folder, text):
    path = folder / "my.yaml"
    path.write_text(text)
    return path


def train(folder, text):
    """Train a recipe in a folder; return the network."""
    from codexseg.training.recipe.loader import load_recipe
    from codexseg.training.train import run_training

    return run_training(load_recipe(write_recipe(folder, text)), folder, folder / "out")


def rows(folder):
    """Read log.csv of the training in a folder."""
    lines = (folder / "out" / "log.csv").read_text().splitlines()
    return [dict(zip(lines[0].split(","), r.split(","), strict=True)) for r in lines[1:]]


def test_unet_has_the_specified_architecture():
    from codexseg.training.networks.unet import build_unet

    network = build_unet(3, 2, (4, 8, 16, 32, 64))
    kernels = [w.shape for w in network.trainable_variables if len(w.shape) == 4]
    assert [k[3] for k in kernels] == [
        *(4, 4, 8, 8, 16, 16, 32, 32, 64, 64),
        *(32, 32, 16, 16, 8, 8, 4, 4, 2),
    ]
    assert kernels[0] == (3, 3, 3, 4)
    assert kernels[10] == (3, 3, 64 + 32, 32)
    assert kernels[-1] == (1, 1, 4, 2)
    assert network(np.zeros((1, 48, 32, 3))).shape == (1, 48, 32, 2)


def test_unet_losses_are_cross_entropy_and_half_of_1_minus_dice():
    from codexseg.training.networks.unet import unet_loss

    truth = np.array([[[[1.0], [1.0], [0.0], [0.0]]]], np.float32)
    logits = np.array([[[[2.0], [-1.0], [0.5], [-3.0]]]], np.float32)
    p = 1 / (1 + np.exp(-logits))
    bce = -(truth * np.log(p) + (1 - truth) * np.log(1 - p)).mean()
    dice = (2 * (truth * p).sum() + 1) / (truth.sum() + p.sum() + 1)
    assert float(unet_loss("bce")(truth, logits)) == pytest.approx(bce, rel=1e-5)
    expected = bce + 0.5 * (1 - dice)
    assert float(unet_loss("bce_dice")(truth, logits)) == pytest.approx(expected, rel=1e-5)


def test_iou_and_dice_are_pooled_over_batches_and_weighted():
    from codexseg.training.scores import Overlap

    def parts(truth, maps):
        return truth[..., 0], maps[..., 0], truth[..., 1]

    iou, dice = Overlap("iou", parts), Overlap("dice", parts)
    for metric in (iou, dice):
        assert float(metric.result()) == 0
        metric.update_state(np.array([[1, 1], [1, 1], [0, 1]]), np.array([[1], [0], [1]]))
        metric.update_state(np.array([[1, 1], [1, 0]]), np.array([[1], [0]]))
    assert float(iou.result()) == pytest.approx(2 / 4)
    assert float(dice.result()) == pytest.approx(4 / 6)


def test_loss_ignores_a_compartment_of_weight_0():
    from codexseg.training.networks.panoptic import panoptic_loss

    rng = np.random.default_rng(0)
    truth = rng.uniform(0, 1, (1, 4, 4, 6)).astype(np.float32)
    truth[..., 1], truth[..., 3] = 1, 2
    maps, replaced = rng.normal(0, 1, (2, 1, 4, 4, 8)).astype(np.float32)
    for compartment, weights in ((0, (0, 1)), (1, (1, 0))):
        truth[..., 4:] = weights
        changed = maps.copy()
        changed[..., 4 * compartment : 4 * compartment + 4] = replaced[
            ..., 4 * compartment : 4 * compartment + 4
        ]
        assert float(panoptic_loss(truth, maps)) == float(panoptic_loss(truth, changed))
        assert float(panoptic_loss(truth, maps)) != float(panoptic_loss(truth, replaced))


def like_embedded():
    """Build a network with the architecture of the embedded one."""
    from codexseg.training.networks.panoptic import build_panoptic
    from codexseg.training.networks.pretrained import read_skips

    return build_panoptic(add=read_skips(EMBEDDED) == "add")


@needs_embedded
def test_network_with_weights_of_an_onnx_file_gives_equal_maps(tmp_path):
    import onnxruntime

    from codexseg.backends.panoptic.parameters import MESMER
    from codexseg.training.data.batches import make_batch
    from codexseg.training.data.examples import Synthetic
    from codexseg.training.networks.export import export_onnx
    from codexseg.training.networks.panoptic import with_heads
    from codexseg.training.networks.pretrained import load_init_weights
    from codexseg.training.networks.test_time import TestTime

    def tiles(number):
        return make_batch([Synthetic()], [1.0], 1, 5, number)

    network = like_embedded()
    load_init_weights(network, EMBEDDED, tiles)
    session = onnxruntime.InferenceSession(str(EMBEDDED))
    test_time = TestTime.of(session.get_modelmeta().custom_metadata_map)
    inputs = tiles(77)[0]
    theirs = session.run([f"semantic_{i}" for i in range(4)], {"input_0": inputs})
    for actual, desired in zip(with_heads(network, test_time)(inputs), theirs, strict=True):
        np.testing.assert_allclose(actual, desired, atol=2e-5)
    export_onnx(network, tmp_path / "again.onnx", MESMER, {}, test_time)
    again = onnxruntime.InferenceSession(str(tmp_path / "again.onnx"))
    outputs = again.run([f"semantic_{i}" for i in range(4)], {"input_0": inputs})
    for actual, desired in zip(outputs, theirs, strict=True):
        np.testing.assert_allclose(actual, desired, atol=2e-5)
    # Training uses the statistics of a batch: the network hardly differs.
    four = np.concatenate([tiles(i)[0] for i in range(4)])
    used, learning = (
        np.asarray(network(four, training=training)) for training in (False, True)
    )
    foreground = [maps[..., [3, 7]] < maps[..., [2, 6]] for maps in (learning, used)]
    assert (foreground[0] == foreground[1]).mean() > 0.9


def small_network(*, add=False):
    from codexseg.training.networks.panoptic import build_panoptic

    network = build_panoptic((8, 16), add=add)
    # the export leaves out biases of 0 and scales of 1
    rng = np.random.default_rng(0)
    network.set_weights(
        [w + (w.ndim == 1) * rng.uniform(0, 0.1, w.shape) for w in network.get_weights()]
    )
    return network


def noise(number):
    return np.random.default_rng(number).random((2, 256, 256, 2), np.float32), None


def heads_of(maps):
    power = np.exp(maps)
    return [
        maps[..., :1],
        power[..., 1:4] / power[..., 1:4].sum(axis=-1, keepdims=True),
        maps[..., 4:5],
        power[..., 5:] / power[..., 5:].sum(axis=-1, keepdims=True),
    ]


def test_network_with_flip_averages_two_passes_and_provides_weights(tmp_path):
    import onnxruntime

    from codexseg.backends.panoptic.parameters import MESMER
    from codexseg.training.networks.export import export_onnx
    from codexseg.training.networks.panoptic import build_panoptic
    from codexseg.training.networks.pretrained import load_init_weights
    from codexseg.training.networks.test_time import TestTime

    network = small_network()
    inputs, _ = noise(5)
    back = np.asarray(network(inputs[:, ::-1, ::-1]))[:, ::-1, ::-1]
    expected = heads_of((np.asarray(network(inputs)) + back) / 2)
    path = tmp_path / "twice.onnx"
    export_onnx(network, path, MESMER, {}, TestTime(flip=True))
    session = onnxruntime.InferenceSession(str(path))
    outputs = session.run([f"semantic_{i}" for i in range(4)], {"input_0": inputs})
    for head, true in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(head, true, atol=2e-5)
    again = build_panoptic((8, 16))
    load_init_weights(again, path, noise)  # compares maps
    np.testing.assert_allclose(network(inputs), again(inputs), atol=1e-4)


@pytest.mark.parametrize("skips", ["concat", "add"])
def test_network_with_upsampling_keeps_the_size_of_maps_and_provides_weights(
    tmp_path, skips
):
    import onnxruntime

    from codexseg.backends.panoptic.parameters import MESMER
    from codexseg.training.networks.export import export_onnx
    from codexseg.training.networks.panoptic import build_panoptic
    from codexseg.training.networks.pretrained import (
        load_init_weights,
        read_skips,
        read_test_time,
    )
    from codexseg.training.networks.test_time import TestTime

    network = small_network(add=skips == "add")
    path = tmp_path / "upsampled.onnx"
    export_onnx(network, path, MESMER, {}, TestTime(flip=True, upsample=1.25))
    outputs = onnxruntime.InferenceSession(str(path)).run(None, {"input_0": noise(6)[0]})
    assert [head.shape for head in outputs] == 2 * [(2, 256, 256, 1), (2, 256, 256, 3)]
    assert read_test_time(path) == TestTime(flip=True, upsample=1.25)
    assert read_skips(path) == skips
    again = build_panoptic((8, 16), add=skips == "add")
    load_init_weights(again, path, noise)  # compares maps
    np.testing.assert_allclose(network(noise(6)[0]), again(noise(6)[0]), atol=1e-4)


@needs_embedded
def test_upsampling_does_not_shift_maps():
    from codexseg.training.data.batches import make_batch
    from codexseg.training.data.examples import Synthetic
    from codexseg.training.networks.panoptic import with_heads
    from codexseg.training.networks.pretrained import load_init_weights
    from codexseg.training.networks.test_time import TestTime

    def tiles(number):
        return make_batch([Synthetic()], [1.0], 1, 5, number)

    network = like_embedded()
    load_init_weights(network, EMBEDDED, tiles)
    inputs = np.concatenate([tiles(i)[0] for i in range(4)])
    plain, upsampled = (
        np.asarray(with_heads(network, test_time)(inputs)[3])[:, 8:-8, 8:-8, INTERIOR]
        for test_time in (TestTime(), TestTime(flip=True, upsample=1.125))
    )
    moves = list(product((-1, 0, 1), repeat=2))
    agreement = [
        np.corrcoef(plain.ravel(), np.roll(upsampled, move, (1, 2)).ravel())[0, 1]
        for move in moves
    ]
    assert moves[int(np.argmax(agreement))] == (0, 0)
    assert max(agreement) > 0.9


def test_validation_tiles_are_magnified_as_in_the_exported_network():
    from codexseg.training.data.examples import Example
    from codexseg.training.data.targets import BACKGROUND
    from codexseg.training.train_panoptic import validation_tiles

    labels = np.zeros((400, 120), np.uint32)
    labels[180:220, 40:80] = 1
    image = (0.1 + 0.9 * (labels > 0)).astype(np.float32)

    class OneExample:
        def __len__(self):
            return 1

        def every(self):
            yield Example(image, image[None], labels, labels)

    for upsample, side, width in ((1.0, 40, 120), (1.25, 50, 150), (2.0, 80, 240)):
        tiles, targets = validation_tiles([OneExample()], upsample)
        square = targets[0, ..., 1] != BACKGROUND
        square[:, width:] = False  # outside of the image
        assert square.sum() == side**2
        assert targets[0, ..., 4].sum() == 256 * width
        bright = tiles[0, ..., 0] > tiles[0, ..., 0].max() / 2
        assert abs(bright.sum() - side**2) < 0.1 * side**2


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_normalisation_in_one_pass_equals_that_of_keras(dtype):
    import keras

    from codexseg.training.networks.panoptic import _BatchNormalization

    inputs = np.random.default_rng(0).normal(3, 2, (4, 16, 16, 5)).astype(np.float32)
    kinds = _BatchNormalization, keras.layers.BatchNormalization
    ours, theirs = (kind(momentum=0.9, epsilon=1e-5, dtype=dtype) for kind in kinds)
    for training in (True, False):
        outputs, expected = (
            np.asarray(keras.ops.cast(layer(inputs, training=training), "float32"))
            for layer in (ours, theirs)
        )
        # the stored variance is that of n - 1; bfloat16 rounds to 1 in 256
        near = 1e-2 if "b" in dtype else 1e-3
        np.testing.assert_allclose(outputs, expected, rtol=near, atol=near)
    for weight, expected in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(weight, expected, atol=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_upsampling_layer_and_its_gradient_equal_those_of_keras(dtype):
    import tensorflow

    from codexseg.training.networks.panoptic import _Doubling

    drawn = np.random.default_rng(1).normal(0, 3, (2, 6, 7, 4))
    inputs = tensorflow.cast(drawn, dtype.removeprefix("mixed_"))
    outputs = []
    for kind in (_Doubling, tensorflow.keras.layers.UpSampling2D):
        layer = kind(interpolation="bilinear", dtype=dtype)
        with tensorflow.GradientTape() as tape:
            tape.watch(inputs)
            larger = layer(inputs)
            square = tensorflow.reduce_sum(larger * larger)
        assert larger.shape == (2, 12, 14, 4)
        assert larger.dtype == inputs.dtype
        maps = larger, tape.gradient(square, inputs)
        outputs.append([np.asarray(tensorflow.cast(m, "float32")) for m in maps])
    for ours, theirs in zip(*outputs, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_loss_is_squared_error_plus_weighted_cross_entropy():
    from codexseg.training.networks.panoptic import panoptic_loss

    rng = np.random.default_rng(3)
    truth = rng.uniform(0, 1, (2, 4, 5, 6)).astype(np.float32)
    truth[..., [1, 3]] = rng.integers(0, 3, (2, 4, 5, 2))
    truth[0, ..., [0, 2]] = 0
    maps = rng.normal(0, 2, (2, 4, 5, 8)).astype(np.float32)
    expected = 0.0
    for c in range(2):
        distance, kind, weight = truth[..., 2 * c], truth[..., 2 * c + 1], truth[..., 4 + c]
        error = (maps[..., 4 * c] - distance) ** 2 * np.where(distance > 0, 5, 1)
        logits = maps[..., 4 * c + 1 : 4 * c + 4]
        share = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
        true = np.take_along_axis(share, kind[..., None].astype(int), -1)[..., 0]
        entropy = -np.log(true) * np.where(kind == 0, 2, 1)
        expected += (weight * (10 * error + entropy)).mean()
    assert float(panoptic_loss(truth, maps)) == pytest.approx(expected, rel=1e-4)


def test_network_trained_in_bfloat16_is_stored_in_single_precision(tmp_path):
    import keras

    more = "steps_per_epoch: 1\ntiles: 1\nchannels: [8, 16]\nsources: [{kind: synthetic}]\n"
    path = train(tmp_path, f"steps: 2\nprecision: bfloat16\nturned: true\n{more}")
    assert len(rows(tmp_path)) == 2
    network = keras.saving.load_model(path.parent / "network.keras", compile=False)
    assert {layer.compute_dtype for layer in network.layers} == {"float32"}
    assert {str(weight.dtype) for weight in network.weights} == {"float32"}
    assert keras.config.dtype_policy().name == "float32"


@needs_embedded
def test_initial_weights_of_another_network_are_refused(tmp_path):
    import onnx

    from codexseg.training.networks.panoptic import build_panoptic
    from codexseg.training.networks.pretrained import (
        init_weights_path,
        load_init_weights,
        read_skips,
    )
    from codexseg.training.networks.test_time import TEST_TIME
    from tests.helpers.mesmer import TOY

    def tiles(number):
        del number
        return np.zeros((1, 256, 256, 2), np.float32), None

    with pytest.raises(ConfigError, match=r"channels seem to be \[32, 64, 96, 128\]"):
        load_init_weights(build_panoptic((16, 32)), EMBEDDED, tiles)
    with pytest.raises((ConfigError, InputError), match=r"toy\.onnx"):
        load_init_weights(build_panoptic(), TOY, tiles)
    model = onnx.load(EMBEDDED)
    onnx.helper.set_model_props(model, {TEST_TIME: "{"})
    onnx.save(model, tmp_path / "bad.onnx")
    with pytest.raises(InputError, match=r"bad\.onnx .*codexseg_views.* cannot be read"):
        load_init_weights(like_embedded(), tmp_path / "bad.onnx", tiles)
    swapped = {"concat": "add", "add": "concat"}[read_skips(EMBEDDED)]
    for wrong in (f"skips: {swapped}", "channels: [8, 16]"):
        text = f"sources: [{{kind: synthetic}}]\nstart: embedded\nsteps: 1\n{wrong}"
        with pytest.raises(ConfigError, match="set channels and skips"):
            train(tmp_path, text)
        assert not (tmp_path / "out").exists()
    assert init_weights_path("embedded", tmp_path) == EMBEDDED
    with pytest.raises(InputError, match=r"no\.onnx"):
        init_weights_path("no.onnx", tmp_path)


def test_embedded_start_without_embedded_network_raises(tmp_path, monkeypatch):
    from codexseg.training.networks import pretrained

    monkeypatch.setattr(pretrained, "EMBEDDED", tmp_path / "none.onnx")
    with pytest.raises(BackendUnavailable, match="contains no network"):
        pretrained.init_weights_path("embedded", tmp_path)


@needs_embedded
def test_fine_tuning_on_pairs_exports_a_network_for_the_backend_panoptic(tmp_path):
    write_pairs(tmp_path, 4, (256, 256))
    more = "steps: 2\nsteps_per_epoch: 1\ntiles: 1\nlearning_rate: 0.0001"
    source = "{kind: pairs, images: images, nuclei: masks, mpp: 0.5}"
    path = train(
        tmp_path, f"sources: [{source}]\nsplit: 0.25\nstart: embedded\npatience: 2\n{more}"
    )
    assert [row["epoch"] for row in rows(tmp_path)] == ["0", "1"]
    assert {"val_iou", "val_dice", "val_loss", "iou", "dice"} <= set(rows(tmp_path)[0])
    cell, nucleus = params_of(resolve_weights(path))
    assert cell == params_of(resolve_weights(EMBEDDED))[0]  # cells have no labels
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert set(scores) == {"nucleus"}
    assert scores["nucleus"]["h"] == nucleus.h
    for name in ("curves.png", "samples.png", "network.keras"):
        assert (tmp_path / "out" / name).stat().st_size > 1000
    assert not list((tmp_path / "out").glob("checkpoint*"))


def test_start_recipe_is_trained_first_and_once(tmp_path):
    more = "steps_per_epoch: 1\ntiles: 1\nchannels: [8, 16]\nsources: [{kind: synthetic}]\n"
    (tmp_path / "first.yaml").write_text(f"steps: 2\n{more}")
    path = train(tmp_path, f"steps: 1\nstart: first.yaml\n{more}")
    start = path.parent / "start"
    assert (start / "log.csv").read_text().count("\n") == 3
    assert len(rows(tmp_path)) == 1
    assert not list(path.parent.rglob("part.*"))
    stamp = (start / "network.onnx").stat().st_mtime_ns
    train(tmp_path, f"steps: 1\nstart: first.yaml\n{more}")  # complete: nothing is repeated
    assert (start / "network.onnx").stat().st_mtime_ns == stamp
    assert len(rows(tmp_path)) == 1


def test_unet_is_trained_and_segments(tmp_path):
    write_pairs(tmp_path, 12)
    path = train(tmp_path, UNET.format(epochs=12, more="loss: bce_dice\nmpp: 0.5"))
    assert len(rows(tmp_path)) == 12
    assert float(rows(tmp_path)[-1]["val_iou"]) > 0.8
    _, spec = read_spec(path)
    assert spec.inputs == ("nucleus",)
    assert spec.outputs == ("nuclei",)
    assert spec.mpp == 1.5
    assert set(spec.objects) == {"nuclei"}
    image = fluorescence(disc_labels(99, (192, 200), 30))
    pair = np.stack([image, 0 * image])
    levels = ChannelStatistics(*channel_statistics(image))
    config = SegmentationConfig(backend="unet", model_path=path, compartment="nuclear")
    backend = Unet(config, SlideContext(image.shape, 0.5, levels))
    outputs = backend.predict(pair[None], [Window(0, 0, *image.shape)])[0, 1]
    truth = image > 90
    assert (truth & (outputs > 0)).sum() / (truth | (outputs > 0)).sum() > 0.6
    assert 10 < outputs.max() < 50


def test_early_stopping_uses_the_best_weights(tmp_path):
    import keras

    from codexseg.training.data.unet_images import UnetImages
    from codexseg.training.history import History
    from codexseg.training.recipe.loader import load_recipe

    write_pairs(tmp_path)
    text = UNET.format(epochs=30, more="patience: 2").replace("0.01", "0.5")
    train(tmp_path, text)  # overshoots at this rate
    history = History(tmp_path / "out" / "log.csv", 99)
    assert len(history.rows) < 30
    assert history.rows[-1]["epoch"] == history.best()["epoch"] + 2
    recipe = load_recipe(tmp_path / "my.yaml")
    _, validation = recipe.open(tmp_path)
    image, mask = UnetImages(validation, recipe).batch([0])
    network = keras.saving.load_model(tmp_path / "out" / "network.keras", compile=False)
    loss = keras.losses.binary_crossentropy(mask, network(image), from_logits=True)
    assert float(np.mean(loss)) == pytest.approx(history.best()["val_loss"], rel=1e-3)


def test_training_after_sigkill_resumes_and_completes_all_epochs(tmp_path):
    write_pairs(tmp_path)
    recipe = write_recipe(tmp_path, UNET.format(epochs=40, more="patience: 40"))
    arguments = [
        "-m",
        "codexseg",
        "train",
        recipe,
        "--data",
        tmp_path,
        "--out",
        tmp_path / "out",
    ]
    command = [sys.executable, *map(str, arguments)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE) as process:
        log, end = tmp_path / "out" / "log.csv", time.monotonic() + 120
        while time.monotonic() < end and process.poll() is None:
            if log.exists() and len(rows(tmp_path)) >= 3:
                break
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert (tmp_path / "out" / "checkpoint.weights.h5").exists()
    before = rows(tmp_path)
    assert 3 <= len(before) < 40
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert [int(row["epoch"]) for row in rows(tmp_path)] == list(range(40))
    assert rows(tmp_path)[: len(before) - 1] == before[:-1]
    assert "network.onnx (segmentation.backend: unet)" in done.stdout
    assert "it/s" not in done.stderr  # no progress bar without a terminal
    read_spec(tmp_path / "out" / "network.onnx")


def test_checkpoint_of_another_network_is_refused(tmp_path):
    from codexseg.training.loop import Batches, fit

    begun, different = small_network(), small_network(add=True)
    for network in (begun, different):
        network.compile("adam", loss="mse")
    batches = Batches(1, lambda number: (noise(number)[0], np.zeros((2, 256, 256, 8))))
    fit(begun, batches, None, tmp_path, epochs=1, patience=None)
    with pytest.raises(RunStateError, match=r"to another network.*--out"):
        fit(different, batches, None, tmp_path, epochs=2, patience=None)


def test_resumed_training_ends_with_equal_weights(tmp_path):
    import keras

    from codexseg.training.loop import Batches, fit

    numbers = []

    def make(number):
        numbers.append(number)
        rng = np.random.default_rng(number)
        return rng.random((4, 3), np.float32), rng.random((4, 1), np.float32)

    def train_until(out, *ends):
        out.mkdir()
        for epochs in ends:
            keras.utils.set_random_seed(4)
            network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
            network.compile(keras.optimizers.AdamW(0.1, use_ema=True), loss="mse")
            fit(network, Batches(6, make), None, out, epochs=epochs, patience=None)
        return network.get_weights()

    unbroken = train_until(tmp_path / "unbroken", 4)
    first = list(numbers)
    numbers.clear()
    for actual, desired in zip(
        unbroken, train_until(tmp_path / "broken", 2, 4), strict=True
    ):
        np.testing.assert_array_equal(actual, desired)
    # keras reads the first two before it starts, for their types
    assert first[2:] == list(range(24))
    assert numbers[2:14] == list(range(12))
    assert numbers[16:] == list(range(12, 24))


def test_error_of_a_batch_is_raised_unchanged(tmp_path):
    import keras

    from codexseg.training.loop import Batches, fit

    def make(number):
        if number == 5:
            raise InputError("a.png is damaged")
        return np.zeros((1, 1), np.float32), np.zeros((1, 1), np.float32)

    network = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    network.compile("sgd", loss="mse")
    with pytest.raises(InputError, match=r"^a\.png is damaged$"):
        fit(network, Batches(3, make), None, tmp_path, epochs=4, patience=None)


def test_too_few_validation_objects_raise_before_the_training(tmp_path):
    write_pairs(tmp_path, 4)
    for path in (tmp_path / "masks").iterdir():
        write_image(path, np.zeros((96, 128), np.uint16))
    source = "{kind: pairs, images: images, nuclei: masks, mpp: 0.5}"
    with pytest.raises(InputError, match="No validation image has"):
        train(tmp_path, f"split: 0.5\nsteps: 1\nsources: [{source}]\n")
    assert not (tmp_path / "out").exists()


def test_loss_of_nan_raises(tmp_path):
    import keras

    from codexseg.training.loop import Batches, fit

    network = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    network.compile(loss="mse")
    bad = Batches(1, lambda _: (np.full((1, 1), np.nan, np.float32), np.zeros((1, 1))))
    with pytest.raises(InputError, match="diverged"):
        fit(network, bad, None, tmp_path, epochs=2, patience=None)
    assert not (tmp_path / "checkpoint.weights.h5").exists()
