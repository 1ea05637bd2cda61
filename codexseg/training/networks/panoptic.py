"""The network: an encoder-decoder with Mesmer's contract, small enough for two cores.

A U-Net (Ronneberger et al. 2015) at half the resolution: pixels are folded into channels
on the way in and unfolded on the way out, which halves the time of training.
"""

import os
from typing import TYPE_CHECKING, Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
from keras import layers, ops

from codexseg.backends.networks.contract import TILE_PX
from codexseg.training.data.targets import BOUNDARY
from codexseg.training.networks.test_time import AS_IT_IS, Views

if TYPE_CHECKING:
    from collections.abc import Sequence

MAPS = 8
"""Per compartment, cell then nucleus: inner distance, boundary, interior, background."""
OUTPUTS = ("semantic_0", "semantic_1", "semantic_2", "semantic_3")


def build(
    channels: "Sequence[int]" = (32, 64, 96, 128),
    precision: str = "float32",
    *,
    added: bool = False,
) -> keras.Model:
    """Build the network as it is trained.

    Parameters
    ----------
    channels : sequence of int
        Channels of the levels, from half the resolution on.
    precision : str
        That of the arithmetic, a policy of keras: "mixed_bfloat16" keeps the weights in
        single precision.
    added : bool
        What comes up is brought to the channels of the level above and added to what was
        seen there, as in a feature pyramid (Lin et al. 2017), not joined with it: a
        quarter less time.

    Returns
    -------
    keras.Model
        From (n, 256, 256, 2) to (n, 256, 256, 8): for cells and for nuclei the inner
        distance, and logits of boundary, interior and background.
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        return _build(channels, TILE_PX, added=added)
    finally:
        keras.config.set_dtype_policy(before)


def _build(channels: "Sequence[int]", side: int, *, added: bool) -> keras.Model:
    tiles = keras.Input((side, side, 2), name="input_0")
    x = _fold(tiles, side, 2)
    seen = []
    for level, width in enumerate(channels):
        x = _twice(layers.MaxPooling2D()(x) if level else x, width)
        seen.append(x)
    for width, skip in zip(channels[-2::-1], seen[-2::-1], strict=True):
        if added:
            x = layers.Conv2D(width, 1)(x)  # while x is small
        x = _Doubling(interpolation="bilinear")(x)
        x = layers.Add()([x, skip]) if added else layers.Concatenate()([x, skip])
        x = _twice(x, width)
    x = layers.Conv2D(4 * MAPS, 3, padding="same")(x)
    return keras.Model(tiles, _unfold(x, side // 2, MAPS), name="codexseg_panoptic")


def with_heads(network: keras.Model, views: Views = AS_IT_IS) -> keras.Model:
    """Return the network as it is used: four heads, classes as probabilities.

    Parameters
    ----------
    network : keras.Model
        From :func:`build`.
    views : Views
        Turned: better by what the network finds in one view only, for twice the time.
        Enlarged: outlines, which it draws at half the resolution, are finer.

    Returns
    -------
    keras.Model
        From (n, 256, 256, 2) to the four heads, for any views.
    """
    if views == AS_IT_IS:
        return keras.Model(network.input, _named(_heads(network.output)))
    tiles = keras.Input((TILE_PX, TILE_PX, 2), name="input_0")
    shown = _sized(tiles, views.side_px)
    if views.turned:
        # One pass of twice the tiles: two would put all weights into the file twice.
        shown = ops.concatenate([shown, shown[:, ::-1, ::-1]], axis=0)
    maps = _of_side(network, views.side_px)(shown)
    if views.turned:
        seen, turned_back = ops.split(maps, 2, axis=0)
        maps = 0.5 * (seen + turned_back[:, ::-1, ::-1])
    return keras.Model(tiles, _named(_heads(_sized(maps, TILE_PX))))


def _sized(maps: Any, side: int) -> Any:
    return maps if maps.shape[1] == side else ops.image.resize(maps, (side, side))


def _of_side(network: keras.Model, side: int) -> keras.Model:
    """Return a network of the same weights for tiles of another size."""
    if side == TILE_PX:
        return network
    found = [layer for layer in network.layers if isinstance(layer, layers.Conv2D)]
    widths = [layer.filters for layer in found if layer.kernel_size != (1, 1)]
    levels = (len(widths) + 3) // 4  # two convolutions a level, down and up, and the last
    larger = _build(widths[: 2 * levels : 2], side, added=len(widths) < len(found))
    larger.set_weights(network.get_weights())
    return larger


def _heads(maps: Any) -> list[Any]:
    heads = []
    for compartment in (0, 4):
        heads += [
            maps[..., compartment : compartment + 1],
            ops.softmax(maps[..., compartment + 1 : compartment + 4], axis=-1),
        ]
    return heads


def _named(heads: list[Any]) -> list[Any]:
    return [
        layers.Identity(name=name)(head) for name, head in zip(OUTPUTS, heads, strict=True)
    ]


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
    # One map at a time: what runs along the last axis, a few numbers long, is slow.
    known, seen = planes(truth), planes(maps)
    for compartment in range(2):
        weight = known[4 + compartment]
        distance, kind = known[2 * compartment : 2 * compartment + 2]
        found, *logits = seen[4 * compartment : 4 * compartment + 4]
        error = ops.square(found - distance) * (1 + 4 * ops.cast(distance > 0, "float32"))
        # It cancels out, and so does its gradient.
        highest = ops.stop_gradient(ops.maximum(ops.maximum(*logits[:2]), logits[2]))
        total_exp = sum(ops.exp(logit - highest) for logit in logits)
        true = sum(
            ops.cast(kind == number, "float32") * logit
            for number, logit in enumerate(logits)
        )
        # Boundaries are thin, and are what keeps neighbours apart.
        share = 1 + ops.cast(kind == BOUNDARY, "float32")
        entropy = share * (ops.log(total_exp) + highest - true)
        total += ops.mean(weight * (10 * error + entropy))
    return total


def planes(maps: Any) -> list[Any]:
    """Take maps (n, y, x, maps) apart, in single precision."""
    first = ops.transpose(ops.cast(maps, "float32"), (3, 0, 1, 2))
    apart: list[Any] = ops.unstack(first, axis=0)
    return apart


@keras.saving.register_keras_serializable("codexseg")
class _Doubling(layers.UpSampling2D):  # type: ignore[misc]
    """Enlargement of which TensorFlow does not clip what it rounds to bfloat16.

    A mean of pixels cannot be out of range; looking takes as long as the enlargement.
    """

    def call(self, inputs: Any) -> Any:
        if self.compute_dtype != "bfloat16" or keras.backend.backend() != "tensorflow":
            return super().call(inputs)
        from tensorflow import image

        height, width = inputs.shape[1:3]
        return ops.cast(image.resize(inputs, (2 * height, 2 * width)), inputs.dtype)


@keras.saving.register_keras_serializable("codexseg")
class _BatchNormalization(layers.BatchNormalization):  # type: ignore[misc]
    """Normalisation whose means and variances TensorFlow takes in one pass.

    keras takes them in several, in single precision: with bfloat16 half of the time.
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
        for moving, seen in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(self.momentum * moving + (1 - self.momentum) * seen)
        return normal


def _twice(x: Any, width: int) -> Any:
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
