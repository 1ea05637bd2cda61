"""Initial weights from an ONNX file that ``codexseg train`` exported.

The export folds each BatchNormalization into the preceding convolution, so the file has a
kernel and a bias where the network has a kernel and four vectors. Any choice of these with
the same product gives the same network at inference. In training, however, the layer scales
by the statistics of the batch instead of the stored ones, so a choice such as mean 0 and
variance 1 changes the network at the first step. Freezing the layer would avoid that, but
trains a network without normalisation, at other rates than the recipe's. Therefore the
statistics are measured. With mean and variance of the convolution's output on training
images, gamma = sqrt(variance + eps) and beta = bias + mean cancel them exactly, and a batch
of these images is hardly scaled otherwise. The maps stay those of the file, and the layer
remains trainable.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from codexseg.arrays import Float32
from codexseg.backends.networks.contract import TILE_PX, check_contract
from codexseg.backends.networks.signature import read_signature
from codexseg.backends.networks.weights import EMBEDDED
from codexseg.errors import BackendUnavailable, ConfigError, InputError
from codexseg.training.networks.panoptic import with_heads
from codexseg.training.networks.test_time import TEST_TIME, TestTime

Folded = tuple[Float32, Float32]
"""Kernel (y, x, in, out) and bias (out,) of a convolution."""

CALIBRATION_BATCHES = 8
_TOLERANCE = 1e-4
"""A hundred times the rounding errors."""


def init_weights_path(start: str | Path, data: Path) -> Path:
    """Return the ONNX file that a recipe names under `start`.

    Raises
    ------
    BackendUnavailable
        If the package contains no network.
    InputError
        If the file does not exist.
    """
    if start == "embedded":
        if not EMBEDDED.exists():
            raise BackendUnavailable(
                "start is 'embedded', but this package contains no network. Name an ONNX "
                "file that 'codexseg train' exported, or set start to null."
            )
        return EMBEDDED
    path = data / start
    check_contract(read_signature(path), path)
    return path


def read_test_time(path: Path) -> TestTime:
    """Read the test-time augmentation of an ONNX file that ``codexseg train`` exported.

    Raises
    ------
    InputError
        If its metadata are invalid.
    """
    try:
        return TestTime.of(read_signature(path).metadata)
    except (ValueError, TypeError, RecursionError) as error:
        reason = f"its entry {TEST_TIME!r} cannot be read: {error}"
        raise _not_exported(path, reason) from error


def read_skips(path: Path) -> Literal["concat", "add"]:
    """Return the kind of skip connections of an ONNX file that was exported.

    Raises
    ------
    InputError
        If the file is not an export of ``codexseg train``.
    """
    is_added = any(kernel.shape[:2] == (1, 1) for kernel, _ in read_convolutions(path))
    return "add" if is_added else "concat"


def check_architecture(network: keras.Model, path: Path) -> None:
    """Check that a network has the convolutions of an ONNX file.

    Raises
    ------
    ConfigError
        If channels or skip connections differ.
    InputError
        If the file is not an export of ``codexseg train``.
    """
    theirs = [kernel.shape for kernel, _ in read_convolutions(path)]
    shapes = [tuple(layer.kernel.shape) for layer, _ in _convolutions(network)]
    if shapes == theirs:
        return
    level = [shape[3] for shape in theirs if shape[:2] != (1, 1)]
    level = level[: (len(level) + 3) // 2][1::2]
    raise ConfigError(
        f"{path} has the weights of another network ({len(theirs)} convolutions, "
        f"expected {len(shapes)}; {_difference(shapes, theirs)}). Its channels seem to "
        f"be {level}; set channels and skips in the recipe to those of that network."
    )


def load_init_weights(
    network: keras.Model, path: Path, batch: Callable[[int], tuple[Float32, Any]]
) -> None:
    """Load the weights of an ONNX file, and check that the maps are equal.

    Parameters
    ----------
    network : keras.Model
        From :func:`codexseg.training.networks.panoptic.build_panoptic`, with the channels
        and skip connections of the file.
    path : Path
        The ONNX file.
    batch : callable
        Returns a training batch by its number.

    Raises
    ------
    ConfigError
        If the network of the file has other channels.
    InputError
        If the file is not an export of ``codexseg train``.
    """
    tiles = np.concatenate([batch(i)[0] for i in range(CALIBRATION_BATCHES)])
    check_architecture(network, path)
    _set_weights(network, read_convolutions(path))
    calibrate(network, tiles)
    _check_maps(network, path, tiles[:2])


def read_convolutions(path: Path) -> list[Folded]:
    """Read kernels (y, x, in, out) and biases (out,) in the order of the graph.

    Raises
    ------
    InputError
        If the file is not ONNX, or its convolutions have no fixed weights.
    """
    import onnx

    try:
        graph = onnx.load(path).graph
    except Exception as error:
        raise InputError(f"{path} cannot be read as an ONNX file: {error}") from error
    weights = {w.name: w for w in graph.initializer}
    convolutions = []
    for node in graph.node:
        if node.op_type != "Conv":
            continue
        if len(node.input) != 3 or not all(name in weights for name in node.input[1:]):
            raise _not_exported(path, f"the convolution {node.name} has no fixed weights")
        kernel, bias = (onnx.numpy_helper.to_array(weights[n]) for n in node.input[1:])
        convolutions.append((np.transpose(kernel, (2, 3, 1, 0)).copy(), bias.copy()))
    return convolutions


def _convolutions(network: keras.Model) -> list[tuple[Any, Any]]:
    """List the convolutions in order, each with the normalisation that follows it."""
    convolutions = []
    for layer, following in pairwise([*network.layers, None]):
        if isinstance(layer, keras.layers.Conv2D):
            is_norm = isinstance(following, keras.layers.BatchNormalization)
            convolutions.append((layer, following if is_norm else None))
    return convolutions


def _set_weights(network: keras.Model, folded: Sequence[Folded]) -> None:
    """Set kernels and biases; normalisations only add the bias."""
    for (layer, norm), (kernel, bias) in zip(_convolutions(network), folded, strict=True):
        if norm is None:
            layer.set_weights([kernel, bias])
            continue
        layer.set_weights([kernel])
        ones = np.ones_like(bias)
        norm.set_weights([ones, bias, 0 * ones, (1 - norm.epsilon) * ones])


def _difference(expected: Sequence[Any], theirs: Sequence[Any]) -> str:
    for number, (mine, shape) in enumerate(zip(expected, theirs, strict=False)):
        if mine != shape:
            return f"number {number} has a kernel of {shape}, expected {mine}"
    return "the first ones agree"


def calibrate(network: keras.Model, tiles: Float32) -> None:
    """Store the statistics of the convolutions in all normalisations; maps stay equal.

    Parameters
    ----------
    network : keras.Model
        Its normalisations only add a bias: gamma is 1, mean 0, variance 1 - epsilon.
    tiles : (n, 256, 256, 2) float32
        Images on which the statistics are measured.
    """
    pairs = [(layer, norm) for layer, norm in _convolutions(network) if norm is not None]
    probe = keras.Model(network.input, [layer.output for layer, _ in pairs])
    sums = [np.zeros((2, layer.filters)) for layer, _ in pairs]
    for tile in tiles:  # one at a time: the maps of all layers are large
        for total, maps in zip(sums, probe(tile[None], training=False), strict=True):
            values = np.asarray(maps, np.float64)
            total += values.mean((0, 1, 2)), (values**2).mean((0, 1, 2))
    for (_, norm), total in zip(pairs, sums, strict=True):
        mean, square = total / len(tiles)
        variance = np.maximum(square - mean**2, 0)
        _, bias, _, _ = norm.get_weights()
        norm.set_weights([np.sqrt(variance + norm.epsilon), bias + mean, mean, variance])


def _check_maps(network: keras.Model, path: Path, tiles: Float32) -> None:
    """Compare the maps of the network with those of the file."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    signature = read_signature(path)
    contract = check_contract(signature, path)
    theirs = session.run(list(contract.output_names), {contract.input_name: tiles})
    test_time = read_test_time(path)
    maps = with_heads(network, test_time)(tiles, training=False)
    # Files without TEST_TIME average probabilities over the two passes, not logits.
    is_old = test_time.flip and TEST_TIME not in signature.metadata
    compared = slice(None, None, 2 if is_old else 1)
    for mine, expected in zip(maps[compared], theirs[compared], strict=True):
        difference = float(np.abs(np.asarray(mine) - expected).max())
        if not difference < _TOLERANCE:
            raise _not_exported(path, f"its maps differ by up to {difference:.3g}")


def _not_exported(path: Path, reason: str) -> InputError:
    return InputError(
        f"{path} is not a network that 'codexseg train' exported with preset panoptic "
        f"({reason}), expected one for tiles of {TILE_PX} px. Name another file under "
        f"start."
    )
