"""Networks with Mesmer's contract, run by onnxruntime or TensorFlow."""

import importlib.util
import logging
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from codexseg.arrays import Float32
from codexseg.backends.networks.contract import (
    HEAD_CHANNELS,
    MAP_CHANNELS,
    TILE_PX,
    check_contract,
)
from codexseg.backends.networks.onnx import (
    OutOfMemory,
    Session,
    loading,
    need_cuda,
    raise_out_of_memory,
    threads,
)
from codexseg.backends.networks.signature import read_signature
from codexseg.backends.networks.weights import Weights
from codexseg.backends.optional import tensorflow_device
from codexseg.backends.process_cache import load_once
from codexseg.errors import BackendUnavailable, InputError

log = logging.getLogger(__name__)

BYTES_PER_TILE = 115 * 2**20
"""Memory of Mesmer's network per tile of a batch, measured with `mesmer_batching`."""
MAX_TILES = 64
"""Maximum number of tiles in a batch."""
EXTRA = (
    "Install the extra 'mesmer' (in a clone: pip install -c constraints.txt '.[mesmer]')"
)
"""Remedy if TensorFlow is missing."""


class Network(Protocol):
    """A loaded network.

    Attributes
    ----------
    runtime : {"onnxruntime", "tensorflow"}
    device : {"cpu", "cuda"}
    """

    runtime: str
    device: str

    def predict(self, tiles: Float32) -> Float32:
        """Predict a batch.

        Parameters
        ----------
        tiles : (n, 256, 256, 2) float32
            Preprocessed nucleus and whole cell.

        Returns
        -------
        maps : (n, 4, 256, 256) float32
            Inner distance and interior of the cells, then of the nuclei.

        Raises
        ------
        OutOfMemory
            If the batch is too large for the device.
        """


class Batch:
    """Number of tiles that a network predicts at once.

    Parameters
    ----------
    memory_gb : float
        Memory of a worker, GB.

    Attributes
    ----------
    size : int
        Tiles per batch.
    times_halved : int
        How often memory has run out.
    """

    def __init__(self, memory_gb: float) -> None:
        tiles = int(memory_gb * 2**30 / BYTES_PER_TILE)
        self.size = max(1, min(MAX_TILES, tiles))
        self.times_halved = 0


def choose_runtime(weights: Weights, runtime: str, device: str = "auto") -> str:
    """Choose the runtime for weights, without loading it.

    Parameters
    ----------
    weights : Weights
    runtime : {"auto", "onnxruntime", "tensorflow"}
        auto: onnxruntime if the weights are converted, else TensorFlow.
    device : {"auto", "cpu", "cuda"}
        cuda: the providers of onnxruntime are checked.

    Returns
    -------
    {"onnxruntime", "tensorflow"}

    Raises
    ------
    BackendUnavailable
        If the runtime cannot run the weights, or is not installed.
    """
    converted = weights.kind == "onnx" or weights.onnx is not None
    if runtime == "onnxruntime" and not converted:
        raise BackendUnavailable(
            f"{weights.path} is a SavedModel, and segmentation.runtime 'onnxruntime' needs "
            f"an ONNX file. Run 'codexseg models convert {weights.path}' once, or set "
            f"segmentation.runtime to 'tensorflow'."
        )
    if runtime == "tensorflow" and weights.kind == "onnx":
        raise BackendUnavailable(
            f"{weights.path} is an ONNX file, which TensorFlow does not run. Set "
            f"segmentation.runtime to 'auto', or segmentation.model_path to the SavedModel."
        )
    chosen = runtime if runtime != "auto" else "onnxruntime" if converted else "tensorflow"
    if chosen == "tensorflow" and importlib.util.find_spec("tensorflow") is None:
        remedy = (
            "The weights are converted already. Set segmentation.runtime to 'auto'."
            if converted
            else f"{EXTRA} and run 'codexseg models convert {weights.path}' once. "
            f"TensorFlow is no longer needed then."
        )
        raise BackendUnavailable(
            f"{weights.path} needs TensorFlow, which is not installed. {remedy}"
        )
    if device == "cuda" and chosen == "onnxruntime":
        need_cuda()
    return chosen


def open_network(weights: Weights, runtime: str = "auto", device: str = "auto") -> Network:
    """Load weights, once per process.

    Parameters
    ----------
    weights : Weights
    runtime : {"auto", "onnxruntime", "tensorflow"}
    device : {"auto", "cpu", "cuda"}
        auto: a GPU if the runtime can use one. cuda never falls back to the CPU.

    Raises
    ------
    BackendUnavailable
        If runtime or device is not available.
    InputError
        If the weights break Mesmer's contract, or cannot be read.
    """
    return load_once(_open_network, weights, runtime, device)


def _open_network(weights: Weights, runtime: str, device: str) -> Network:
    uses_onnx = choose_runtime(weights, runtime) == "onnxruntime"
    network = _OnnxRuntime(weights, device) if uses_onnx else _TensorFlow(weights, device)
    log.info("%s: %s on %s", weights.path, network.runtime, network.device)
    return network


def predict_tiles(
    network: Network, tiles: Sequence[Float32], batch: Batch
) -> Iterator[Float32]:
    """Predict tiles in batches, which are halved when memory runs out.

    Parameters
    ----------
    network : Network
    tiles : sequence of (2, 256, 256) float32
        Nucleus, whole cell; views are allowed.
    batch : Batch
        Number of tiles at once.

    Yields
    ------
    maps : (4, 256, 256) float32
        Maps of each tile, in order.

    Raises
    ------
    BackendUnavailable
        If memory does not suffice for one tile.
    """
    done = 0
    while done < len(tiles):
        images = np.moveaxis(np.stack(tiles[done : done + batch.size]), 1, -1)
        try:
            maps = network.predict(np.ascontiguousarray(images))
        except OutOfMemory as error:
            if batch.size == 1:
                raise BackendUnavailable(
                    f"Out of memory on {network.device} even with one tile: {error}. Use "
                    f"fewer workers (--workers, execution.workers), close other programs "
                    f"that use the device, or set segmentation.device to 'cpu'."
                ) from error
            batch.size //= 2
            batch.times_halved += 1
            log.warning(
                "Out of memory on %s. Continuing with batches of %d tiles; "
                "segmentation.batch_memory_gb sets the initial size.",
                network.device,
                batch.size,
            )
            continue
        done += len(images)
        yield from maps


def _maps(outputs: list[Any]) -> Float32:
    """Return the four maps that are used from the eight of the heads, channels first."""
    shapes = [tuple(output.shape[1:]) for output in outputs]
    expected = [(TILE_PX, TILE_PX, channels) for channels in HEAD_CHANNELS]
    if shapes != expected:
        raise InputError(
            f"The network gives tiles of {shapes}, and its signature declares {expected}. "
            f"It is damaged or was exported wrongly. Run 'codexseg models check'."
        )
    used = zip(outputs, MAP_CHANNELS, strict=True)
    return np.stack([output[..., channel] for output, channel in used], axis=1)


class _OnnxRuntime:
    runtime = "onnxruntime"

    def __init__(self, weights: Weights, device: str) -> None:
        path = weights.onnx or weights.path
        contract = check_contract(read_signature(path), path)
        self._session = Session(path, device)
        self.device = self._session.device
        self._input, self._outputs = contract.input_name, list(contract.output_names)

    def predict(self, tiles: Float32) -> Float32:
        return _maps(self._session.run(self._outputs, {self._input: tiles}))


class _TensorFlow:
    runtime = "tensorflow"

    def __init__(self, weights: Weights, device: str) -> None:
        self._contract = check_contract(read_signature(weights.path), weights.path)
        self.device = tensorflow_device(device)
        import tensorflow

        gpus = tensorflow.config.list_physical_devices("GPU")
        try:
            for gpu in gpus if self.device == "cuda" else []:
                tensorflow.config.experimental.set_memory_growth(gpu, True)  # noqa: FBT003
            tensorflow.config.experimental.enable_tensor_float_32_execution(False)  # noqa: FBT003
            tensorflow.config.threading.set_intra_op_parallelism_threads(threads() or 0)
        except RuntimeError:
            log.info("TensorFlow is in use already; its threads stay as set")
        self._tensorflow = tensorflow
        package = f"TensorFlow {tensorflow.__version__}"
        with loading(weights.path, package, "a SavedModel. Fetch it again."):
            self._model = tensorflow.saved_model.load(str(weights.path))
            self._function = self._model.signatures["serving_default"]

    def predict(self, tiles: Float32) -> Float32:
        batch = {self._contract.input_name: self._tensorflow.constant(tiles)}
        try:
            outputs = self._function(**batch)
        except Exception as error:
            raise_out_of_memory(error)
            raise
        return _maps([outputs[name].numpy() for name in self._contract.output_names])
