"""Semantic U-Net: architecture, loss and ONNX export."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
from keras import layers, ops

from codexseg.backends.networks.contract import TILE_PX
from codexseg.backends.networks.weights import UNET
from codexseg.backends.unet.spec import UnetSpec
from codexseg.training.networks.export import write_onnx

_DICE_SHARE, _SMOOTH = 0.5, 1.0


def build_unet(
    channels_in: int, channels_out: int, widths: Sequence[int] = (64, 128, 256, 512, 1024)
) -> keras.Model:
    """Build a padded U-Net (Ronneberger et al. 2015) without normalisation.

    Two 3 x 3 convolutions with ReLU per level, 2 x 2 max pooling, bilinear upsampling with
    concatenated skip connections, and a final 1 x 1 convolution.

    Parameters
    ----------
    channels_in, channels_out : int
        Channels of the images and number of maps.
    widths : sequence of int
        Channels of the levels.

    Returns
    -------
    keras.Model
        From (n, y, x, channels_in) to logits (n, y, x, channels_out); height and width are
        multiples of 2 ** (levels - 1).
    """
    image = keras.Input((None, None, channels_in), name="image")
    x: Any = image
    skips = []
    for level, width in enumerate(widths):
        x = _convolve_twice(layers.MaxPooling2D()(x) if level else x, width)
        skips.append(x)
    for width, skip in zip(widths[-2::-1], skips[-2::-1], strict=True):
        x = layers.UpSampling2D(interpolation="bilinear")(x)
        x = _convolve_twice(layers.Concatenate()([x, skip]), width)
    return keras.Model(image, layers.Conv2D(channels_out, 1)(x), name="codexseg_unet")


def with_sigmoid(network: keras.Model) -> keras.Model:
    """Return the network for inference: probabilities instead of logits."""
    maps = layers.Activation("sigmoid", name="foreground")(network.output)
    return keras.Model(network.input, maps)


def unet_loss(kind: Literal["bce", "bce_dice"]) -> Any:
    """Return a loss of (truth, logits), (n, y, x, c) each.

    bce is binary cross-entropy. bce_dice adds half of 1 - Dice of the probabilities, over
    the batch, smoothed by 1 px.
    """

    def bce(truth: Any, logits: Any) -> Any:
        return ops.mean(keras.losses.binary_crossentropy(truth, logits, from_logits=True))

    def bce_dice(truth: Any, logits: Any) -> Any:
        probabilities = ops.sigmoid(logits)
        overlap = ops.sum(truth * probabilities, axis=(0, 1, 2))
        total = ops.sum(truth, axis=(0, 1, 2)) + ops.sum(probabilities, axis=(0, 1, 2))
        dice = (2 * overlap + _SMOOTH) / (total + _SMOOTH)
        return bce(truth, logits) + _DICE_SHARE * ops.mean(1 - dice)

    return bce if kind == "bce" else bce_dice


def export_unet(network: keras.Model, path: Path, spec: UnetSpec) -> None:
    """Write a U-Net as ONNX, with the metadata of the backend `unet`.

    The file takes tiles of 256 px, the tile size of the backend.
    """
    sides = TILE_PX, TILE_PX, network.input.shape[-1]
    tiles = keras.Input(sides, name="image")  # keras cannot export open sides
    fixed = with_sigmoid(keras.Model(tiles, network(tiles)))
    write_onnx(fixed, path, {UNET: spec.to_json()})


def _convolve_twice(x: Any, width: int) -> Any:
    for _ in range(2):
        # He initialisation keeps the variance through ReLU, down to the lowest level
        x = layers.Conv2D(width, 3, padding="same", kernel_initializer="he_normal")(x)
        x = layers.ReLU()(x)
    return x
