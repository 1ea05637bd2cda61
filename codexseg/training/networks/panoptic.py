"""Panoptic network: an encoder-decoder with Mesmer's contract, small enough for two cores.

A U-Net (Ronneberger et al. 2015) at half resolution: pixels are folded into channels at the
input and unfolded at the output, which halves the time of training.
"""

import os
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
from keras import layers, ops

from codexseg.backends.networks.contract import TILE_PX
from codexseg.training.data.targets import BOUNDARY
from codexseg.training.networks.test_time import SINGLE_PASS, TestTime

MAPS = 8
"""Cell, then nucleus, each: inner distance, boundary, interior, background."""
OUTPUTS = ("semantic_0", "semantic_1", "semantic_2", "semantic_3")


def build_panoptic(
    channels: Sequence[int] = (32, 64, 96, 128),
    precision: str = "float32",
    *,
    add: bool = False,
) -> keras.Model:
    """Build the network for training.

    Parameters
    ----------
    channels : sequence of int
        Channels of the levels, from half resolution on.
    precision : str
        A keras dtype policy. "mixed_bfloat16" keeps weights in single precision.
    add : bool
        Add skip connections, as in a feature pyramid (Lin et al. 2017), instead of
        concatenating them: 25 % faster.

    Returns
    -------
    keras.Model
        From (n, 256, 256, 2) to (n, 256, 256, 8): for cells and for nuclei the inner
        distance, and logits of boundary, interior and background.
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        return _build(channels, TILE_PX, add=add)
    finally:
        keras.config.set_dtype_policy(before)


def _build(channels: Sequence[int], side: int, *, add: bool) -> keras.Model:
    tiles = keras.Input((side, side, 2), name="input_0")
    x = _fold(tiles, side, 2)
    skips = []
    for level, width in enumerate(channels):
        x = _convolve_twice(layers.MaxPooling2D()(x) if level else x, width)
        skips.append(x)
    for width, skip in zip(channels[-2::-1], skips[-2::-1], strict=True):
        if add:
            x = layers.Conv2D(width, 1)(x)  # before upsampling, while x is small
        x = _Doubling(interpolation="bilinear")(x)
        x = layers.Add()([x, skip]) if add else layers.Concatenate()([x, skip])
        x = _convolve_twice(x, width)
    x = layers.Conv2D(4 * MAPS, 3, padding="same")(x)
    return keras.Model(tiles, _unfold(x, side // 2, MAPS), name="codexseg_panoptic")


def with_heads(network: keras.Model, test_time: TestTime = SINGLE_PASS) -> keras.Model:
    """Return the network for inference: four heads, classes as probabilities.

    Parameters
    ----------
    network : keras.Model
        From :func:`build_panoptic`.
    test_time : TestTime
        `flip` removes detections of a single view, for twice the time. `upsample` refines
        outlines, which the network predicts at half resolution.

    Returns
    -------
    keras.Model
        From (n, 256, 256, 2) to the four heads, for any test-time augmentation.
    """
    if test_time == SINGLE_PASS:
        return keras.Model(network.input, _heads(network.output))
    tiles = keras.Input((TILE_PX, TILE_PX, 2), name="input_0")
    x = _resized(tiles, test_time.side_px)
    if test_time.flip:
        # one pass with twice the tiles: two passes would store all weights twice
        x = ops.concatenate([x, x[:, ::-1, ::-1]], axis=0)
    maps = _with_side(network, test_time.side_px)(x)
    if test_time.flip:
        upright, flipped = ops.split(maps, 2, axis=0)
        maps = 0.5 * (upright + flipped[:, ::-1, ::-1])
    return keras.Model(tiles, _heads(_resized(maps, TILE_PX)))


def _resized(maps: Any, side: int) -> Any:
    return maps if maps.shape[1] == side else ops.image.resize(maps, (side, side))


def _with_side(network: keras.Model, side: int) -> keras.Model:
    """Return a network with the same weights for tiles of another size."""
    if side == TILE_PX:
        return network
    convolutions = [layer for layer in network.layers if isinstance(layer, layers.Conv2D)]
    widths = [layer.filters for layer in convolutions if layer.kernel_size != (1, 1)]
    # two convolutions on each level of the encoder and of the decoder, and the last one
    levels = (len(widths) + 3) // 4
    larger = _build(widths[: 2 * levels : 2], side, add=len(widths) < len(convolutions))
    larger.set_weights(network.get_weights())
    return larger


def _heads(maps: Any) -> list[Any]:
    heads = []
    for first in (0, 4):
        classes = ops.softmax(maps[..., first + 1 : first + 4], axis=-1)
        heads += [maps[..., first : first + 1], classes]
    named = zip(OUTPUTS, heads, strict=True)
    return [layers.Identity(name=name)(head) for name, head in named]


def panoptic_loss(truth: Any, maps: Any) -> Any:
    """Return the squared error of distances plus the cross-entropy of classes.

    Parameters
    ----------
    truth : (n, y, x, 6) float32
        Inner distance and class of cells, inner distance and class of nuclei, and the
        weights of cells and nuclei, 0 where they are not annotated.
    maps : (n, y, x, 8) float32
        Output of the network.
    """
    total = 0.0
    # One map at a time: operations along the last axis, a few numbers long, are slow.
    known, predicted = unstack_maps(truth), unstack_maps(maps)
    for compartment in range(2):
        weight = known[4 + compartment]
        distance, kind = known[2 * compartment : 2 * compartment + 2]
        estimate, *logits = predicted[4 * compartment : 4 * compartment + 4]
        error = ops.square(estimate - distance) * (
            1 + 4 * ops.cast(distance > 0, "float32")
        )
        # Log-sum-exp: the maximum cancels out, and so does its gradient.
        highest = ops.stop_gradient(ops.maximum(ops.maximum(*logits[:2]), logits[2]))
        total_exp = sum(ops.exp(logit - highest) for logit in logits)
        true_logit = sum(
            ops.cast(kind == number, "float32") * logit
            for number, logit in enumerate(logits)
        )
        # Boundaries are thin but separate neighbours, so they count twice.
        share = 1 + ops.cast(kind == BOUNDARY, "float32")
        entropy = share * (ops.log(total_exp) + highest - true_logit)
        total += ops.mean(weight * (10 * error + entropy))
    return total


def unstack_maps(maps: Any) -> list[Any]:
    """Split (n, y, x, maps) into its maps, in single precision."""
    first = ops.transpose(ops.cast(maps, "float32"), (3, 0, 1, 2))
    unstacked: list[Any] = ops.unstack(first, axis=0)
    return unstacked


@keras.saving.register_keras_serializable("codexseg")
class _Doubling(layers.UpSampling2D):  # type: ignore[misc]
    """Upsampling layer that avoids TensorFlow's bfloat16 clipping.

    A mean of pixels cannot be out of range, and the check takes as long as the upsampling.
    """

    def call(self, inputs: Any) -> Any:
        if self.compute_dtype != "bfloat16" or keras.backend.backend() != "tensorflow":
            return super().call(inputs)
        from tensorflow import image

        height, width = inputs.shape[1:3]
        return ops.cast(image.resize(inputs, (2 * height, 2 * width)), inputs.dtype)


@keras.saving.register_keras_serializable("codexseg")
class _BatchNormalization(layers.BatchNormalization):  # type: ignore[misc]
    """Batch normalisation that computes means and variances in one pass.

    keras computes them in several passes in single precision; with bfloat16 that takes
    twice as long.
    """

    def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        if not training or keras.backend.backend() != "tensorflow":
            return super().call(inputs, training=training, mask=mask)
        from tensorflow.compat.v1.nn import fused_batch_norm

        normal, mean, variance = fused_batch_norm(
            inputs,
            ops.cast(self.gamma, "float32"),
            ops.cast(self.beta, "float32"),
            epsilon=self.epsilon,
            is_training=True,
        )
        for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(self.momentum * moving + (1 - self.momentum) * value)
        return normal


def _convolve_twice(x: Any, width: int) -> Any:
    for _ in range(2):
        x = layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
        x = _BatchNormalization(momentum=0.98, epsilon=1e-5)(x)
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
