"""The network: an encoder-decoder with Mesmer's contract, small enough for two cores.

A U-Net (Ronneberger et al. 2015) at half the resolution: pixels are folded into channels
on the way in and unfolded on the way out, which halves the time of training.
"""

import os
from typing import TYPE_CHECKING, Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
from keras import layers, ops

from codexseg.backends.contract import TILE_PX

if TYPE_CHECKING:
    from collections.abc import Sequence

MAPS = 8
"""Per compartment, cell then nucleus: inner distance, boundary, interior, background."""
OUTPUTS = ("semantic_0", "semantic_1", "semantic_2", "semantic_3")


def build(channels: "Sequence[int]" = (32, 64, 96, 128)) -> keras.Model:
    """Build the network as it is trained.

    Parameters
    ----------
    channels : sequence of int
        Channels of the levels, from half the resolution on.

    Returns
    -------
    keras.Model
        From (n, 256, 256, 2) to (n, 256, 256, 8): for cells and for nuclei the inner
        distance, and logits of boundary, interior and background.
    """
    tiles = keras.Input((TILE_PX, TILE_PX, 2), name="input_0")
    x = _fold(tiles, TILE_PX, 2)
    seen = []
    for level, width in enumerate(channels):
        x = _twice(layers.MaxPooling2D()(x) if level else x, width)
        seen.append(x)
    for width, skip in zip(channels[-2::-1], seen[-2::-1], strict=True):
        x = layers.UpSampling2D(interpolation="bilinear")(x)
        x = _twice(layers.Concatenate()([x, skip]), width)
    x = layers.Conv2D(4 * MAPS, 3, padding="same")(x)
    return keras.Model(tiles, _unfold(x, TILE_PX // 2, MAPS), name="codexseg_panoptic")


def with_heads(network: keras.Model) -> keras.Model:
    """Return the network as it is used: four heads, classes as probabilities."""
    maps = network.output
    heads = []
    for compartment in (0, 4):
        heads += [
            maps[..., compartment : compartment + 1],
            ops.softmax(maps[..., compartment + 1 : compartment + 4], axis=-1),
        ]
    named = [
        layers.Identity(name=name)(head) for name, head in zip(OUTPUTS, heads, strict=True)
    ]
    return keras.Model(network.input, named)


def loss(truth: Any, maps: Any) -> Any:
    """Compare maps with targets: squared error of distances, cross-entropy of classes.

    Parameters
    ----------
    truth : (n, y, x, 6) float32
        Inner distance and class of cells, of nuclei; and the weights of both shares,
        0 where nobody has drawn them.
    maps : (n, y, x, 8) float32
        What the network gives.
    """
    total = 0.0
    for compartment in range(2):
        weight = truth[..., 4 + compartment]
        distance, classes = truth[..., 2 * compartment], truth[..., 2 * compartment + 1]
        found = maps[..., 4 * compartment : 4 * compartment + 4]
        inside = 1 + 4 * ops.cast(distance > 0, "float32")
        error = ops.square(found[..., 0] - distance) * inside
        one_hot = ops.one_hot(ops.cast(classes, "int32"), 3)
        log = ops.log_softmax(found[..., 1:], axis=-1)
        # Boundaries are thin, and are what keeps neighbours apart.
        entropy = -ops.sum(one_hot * log * ops.array([2.0, 1.0, 1.0]), axis=-1)
        total += ops.mean(weight * (10 * error + entropy))
    return total


def _twice(x: Any, width: int) -> Any:
    for _ in range(2):
        x = layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization(momentum=0.98, epsilon=1e-5)(x)
        x = layers.ReLU()(x)
    return x


def _fold(x: Any, side: int, channels: int) -> Any:
    """Fold squares of 2 px into channels."""
    x = layers.Reshape((side // 2, 2, side // 2, 2, channels))(x)
    x = layers.Permute((1, 3, 2, 4, 5))(x)
    return layers.Reshape((side // 2, side // 2, 4 * channels))(x)


def _unfold(x: Any, side: int, channels: int) -> Any:
    """Unfold channels into squares of 2 px."""
    x = layers.Reshape((side, side, 2, 2, channels))(x)
    x = layers.Permute((1, 3, 2, 4, 5))(x)
    return layers.Reshape((2 * side, 2 * side, channels))(x)
