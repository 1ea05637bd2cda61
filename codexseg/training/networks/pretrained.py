"""Beginning with the weights of an ONNX file that ``codexseg train`` made.

The export folds each BatchNormalization into the convolution before it, so the file has a
kernel and a bias where the network has a kernel and four vectors. Any choice of these that
multiplies out to the same is the same network where it is used; but while it trains the
layer scales by the statistics of the batch, not by those that it has stored, and a choice
such as mean 0 and variance 1 would be another network at the first step. Freezing the
layer would avoid that, and train a network without normalisation, with other rates than
the recipe's. So the statistics are measured: with `mean` and `variance` of what the
convolution gives on the images that are to be learnt from, gamma = sqrt(variance + eps)
and beta = bias + mean undo them exactly, and a batch of these images is hardly scaled
otherwise. The maps stay those of the file, and the layer can be trained on.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
from numpy.typing import NDArray

from codexseg.backends.networks.contract import TILE_PX, check_contract
from codexseg.backends.networks.signature import read_signature
from codexseg.backends.networks.weights import EMBEDDED
from codexseg.errors import BackendUnavailable, ConfigError, InputError
from codexseg.training.networks.panoptic import with_heads
from codexseg.training.networks.test_time import VIEWS, Views

Floats = NDArray[np.float32]
Folded = tuple[Floats, Floats]

CALIBRATION_BATCHES = 8
_TOLERANCE = 1e-4
"""Rounding is a hundredth of that."""


def start_path(start: str | Path, data: Path) -> Path:
    """Return the ONNX file that a recipe names under `start`.

    Raises
    ------
    BackendUnavailable
        If the package holds no network.
    InputError
        If there is no such file.
    """
    if start == "embedded":
        if not EMBEDDED.exists():
            raise BackendUnavailable(
                "start is 'embedded', and this package ships no network: name an ONNX file "
                "that 'codexseg train' made, or set start to null."
            )
        return EMBEDDED
    path = data / start
    check_contract(read_signature(path), path)
    return path


def views_of(path: Path) -> Views:
    """Say how an ONNX file that ``codexseg train`` made looks at a tile.

    Raises
    ------
    InputError
        If it says nonsense.
    """
    try:
        return Views.of(read_signature(path).metadata)
    except (ValueError, TypeError, RecursionError) as error:
        raise _no_export(path, f"{VIEWS!r} in it cannot be read: {error}") from error


def skips_of(path: Path) -> Literal["joined", "added"]:
    """Say how the network of an ONNX file that ``codexseg train`` made takes its skips.

    Raises
    ------
    InputError
        If it is none.
    """
    is_added = any(kernel.shape[:2] == (1, 1) for kernel, _ in read_convolutions(path))
    return "added" if is_added else "joined"


def need_fit(network: keras.Model, path: Path) -> None:
    """Check that a network has the convolutions of an ONNX file.

    Raises
    ------
    ConfigError
        If the file's network has other channels or skips.
    InputError
        If it is no export of ``codexseg train``.
    """
    theirs = [kernel.shape for kernel, _ in read_convolutions(path)]
    shapes = [tuple(layer.kernel.shape) for layer, _ in _convolutions(network)]
    if shapes == theirs:
        return
    level = [shape[3] for shape in theirs if shape[:2] != (1, 1)]
    level = level[: (len(level) + 3) // 2][1::2]
    raise ConfigError(
        f"{path} has the weights of another network ({len(theirs)} convolutions, "
        f"expected {len(shapes)}; {_difference(shapes, theirs)}): its channels seem to "
        f"be {level}, set channels and skips in the recipe to what it was trained with."
    )


def load_start(
    network: keras.Model, path: Path, batch: Callable[[int], tuple[Floats, Any]]
) -> None:
    """Give a network the weights of an ONNX file, and check that it has its maps.

    Parameters
    ----------
    network : keras.Model
        From :func:`codexseg.training.networks.panoptic.build`, with the channels of the
        file's.
    path : Path
        The file.
    batch : callable
        Returns a batch of what is to be learnt from, by its number.

    Raises
    ------
    ConfigError
        If the file's network has other channels.
    InputError
        If it is no export of ``codexseg train``.
    """
    tiles = np.concatenate([batch(i)[0] for i in range(CALIBRATION_BATCHES)])
    need_fit(network, path)
    _give(network, read_convolutions(path))
    calibrate(network, tiles)
    _check(network, path, tiles[:2])


def read_convolutions(path: Path) -> list[Folded]:
    """Read kernels (y, x, in, out) and biases (out,) in the order of the graph.

    Raises
    ------
    InputError
        If the file is no ONNX file, or its convolutions have no fixed weights.
    """
    import onnx

    try:
        graph = onnx.load(path).graph
    except Exception as error:
        raise InputError(f"{path} cannot be read as an ONNX file: {error}") from error
    weights = {w.name: w for w in graph.initializer}
    found = []
    for node in graph.node:
        if node.op_type != "Conv":
            continue
        if len(node.input) != 3 or not all(name in weights for name in node.input[1:]):
            raise _no_export(path, f"the convolution {node.name} has no weights and bias")
        kernel, bias = (onnx.numpy_helper.to_array(weights[n]) for n in node.input[1:])
        found.append((np.transpose(kernel, (2, 3, 1, 0)).copy(), bias.copy()))
    return found


def _convolutions(network: keras.Model) -> list[tuple[Any, Any]]:
    """List the convolutions in their order, each with the normalisation behind it."""
    layers = network.layers
    found = []
    for layer, following in zip(layers, [*layers[1:], None], strict=True):
        if isinstance(layer, keras.layers.Conv2D):
            is_norm = isinstance(following, keras.layers.BatchNormalization)
            found.append((layer, following if is_norm else None))
    return found


def _give(network: keras.Model, folded: Sequence[Folded]) -> None:
    """Give kernels and biases to the network; normalisations add the bias alone."""
    for (layer, norm), (kernel, bias) in zip(_convolutions(network), folded, strict=True):
        if norm is None:
            layer.set_weights([kernel, bias])
            continue
        layer.set_weights([kernel])
        one = np.ones_like(bias)
        norm.set_weights([one, bias, 0 * one, (1 - norm.epsilon) * one])


def _difference(own: Sequence[Any], theirs: Sequence[Any]) -> str:
    for number, (one, other) in enumerate(zip(own, theirs, strict=False)):
        if one != other:
            return f"number {number} has a kernel of {other}, expected {one}"
    return "the first ones agree"


def calibrate(network: keras.Model, tiles: Floats) -> None:
    """Store in all normalisations what the convolutions give; the maps stay as they are.

    Parameters
    ----------
    network : keras.Model
        Its normalisations only add a bias: gamma is 1, mean 0, variance 1 - epsilon.
    tiles : (n, 256, 256, 2) float32
        What the statistics are measured on.
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


def _check(network: keras.Model, path: Path, tiles: Floats) -> None:
    """Compare the maps of the network with those of the file."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    signature = read_signature(path)
    contract = check_contract(signature, path)
    theirs = session.run(list(contract.output_names), {contract.input_name: tiles})
    views = views_of(path)
    own = with_heads(network, views)(tiles, training=False)
    # The classes of a tile seen twice were averaged in another order before VIEWS was said.
    is_old = views.turned and VIEWS not in signature.metadata
    compared = slice(None, None, 2 if is_old else 1)
    for one, other in zip(own[compared], theirs[compared], strict=True):
        difference = float(np.abs(np.asarray(one) - other).max())
        if not difference < _TOLERANCE:
            raise _no_export(path, f"its maps are others, by up to {difference:.3g}")


def _no_export(path: Path, reason: str) -> InputError:
    return InputError(
        f"{path} is no network that 'codexseg train' exported with preset panoptic "
        f"({reason}), expected one, of tiles of {TILE_PX} px: name another one under start."
    )
