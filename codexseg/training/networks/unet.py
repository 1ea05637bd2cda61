"""The semantic U-Net, its loss, and its ONNX file."""

import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
from keras import layers, ops

from codexseg.backends.networks.contract import TILE_PX
from codexseg.backends.networks.weights import UNET
from codexseg.backends.unet.spec import UnetSpec
from codexseg.run.files import replacing

_OPSET = 17
_DICE_SHARE, _SMOOTH = 0.5, 1.0


def build_unet(
    channels_in: int, channels_out: int, widths: Sequence[int] = (64, 128, 256, 512, 1024)
) -> keras.Model:
    """Build a U-Net (Ronneberger et al. 2015) without normalisation, padded.

    Two 3 x 3 convolutions and ReLU on each level; maxima of 2 px on the way down; bilinear
    interpolation and the level's maps on the way up; a 1 x 1 convolution at the end.

    Parameters
    ----------
    channels_in, channels_out : int
        Channels of the images, maps of the network.
    widths : sequence of int
        Channels of the levels.

    Returns
    -------
    keras.Model
        From (n, y, x, channels_in) to logits (n, y, x, channels_out); sides are multiples
        of 2 for each level but the first.
    """
    image = keras.Input((None, None, channels_in), name="image")
    x: Any = image
    seen = []
    for level, width in enumerate(widths):
        x = _twice(layers.MaxPooling2D()(x) if level else x, width)
        seen.append(x)
    for width, skip in zip(widths[-2::-1], seen[-2::-1], strict=True):
        x = layers.UpSampling2D(interpolation="bilinear")(x)
        x = _twice(layers.Concatenate()([x, skip]), width)
    return keras.Model(image, layers.Conv2D(channels_out, 1)(x), name="codexseg_unet")


def with_sigmoid(network: keras.Model) -> keras.Model:
    """Return the network as it is used: probabilities."""
    maps = layers.Activation("sigmoid", name="foreground")(network.output)
    return keras.Model(network.input, maps)


def unet_loss(kind: Literal["bce", "bce_dice"]) -> Any:
    """Return a loss of (truth, logits), (n, y, x, c) each.

    bce: binary cross-entropy; bce_dice: that, and half of 1 - Dice of the probabilities,
    smoothed by 1 px, over the batch.
    """

    def bce(truth: Any, logits: Any) -> Any:
        return ops.mean(keras.losses.binary_crossentropy(truth, logits, from_logits=True))

    def bce_dice(truth: Any, logits: Any) -> Any:
        found = ops.sigmoid(logits)
        both = ops.sum(truth * found, axis=(0, 1, 2))
        total = ops.sum(truth, axis=(0, 1, 2)) + ops.sum(found, axis=(0, 1, 2))
        dice = (2 * both + _SMOOTH) / (total + _SMOOTH)
        return bce(truth, logits) + _DICE_SHARE * ops.mean(1 - dice)

    return bce if kind == "bce" else bce_dice


def export_unet(network: keras.Model, path: Path, spec: UnetSpec) -> None:
    """Write a U-Net as ONNX, with what the backend `unet` needs to know of it.

    The file takes tiles of 256 px, which is what the backend cuts a slide into.
    """
    import onnx

    sides = TILE_PX, TILE_PX, network.input.shape[-1]
    tiles = keras.Input(sides, name="image")  # keras exports no sides that are left open
    fixed = with_sigmoid(keras.Model(tiles, network(tiles)))
    with TemporaryDirectory() as folder:
        exported = Path(folder) / "network.onnx"
        signature = keras.InputSpec(shape=(None, *sides), dtype="float32", name="image")
        fixed.export(
            exported,
            format="onnx",
            verbose=False,
            input_signature=[signature],
            opset_version=_OPSET,
        )
        model = onnx.load(exported)
    onnx.helper.set_model_props(model, {UNET: spec.to_json()})
    onnx.checker.check_model(model)
    with replacing(path) as part:
        onnx.save(model, part)


def _twice(x: Any, width: int) -> Any:
    for _ in range(2):
        # He: what ReLU halves is made up for, so that signals reach the lowest level
        x = layers.Conv2D(width, 3, padding="same", kernel_initializer="he_normal")(x)
        x = layers.ReLU()(x)
    return x
