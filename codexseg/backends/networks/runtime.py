"""Networks with Mesmer's contract, run by onnxruntime or by TensorFlow."""

import importlib.util
import logging
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from codexseg.backends.networks.contract import (
    HEAD_CHANNELS,
    TILE_PX,
    check_contract,
    read_signature,
)
from codexseg.backends.networks.onnx import (
    OutOfMemory,
    Session,
    first_line,
    need_cuda,
    raise_out_of_memory,
    threads,
)
from codexseg.backends.networks.weights import Weights
from codexseg.errors import BackendUnavailable, InputError

log = logging.getLogger(__name__)

Floats = NDArray[np.float32]

BYTES_PER_TILE = 115 * 2**20
"""What Mesmer's network needs for a tile of a batch: measured with `mesmer_batching`."""
MOST_TILES = 64
"""No more tiles go to the network at once, however much memory there is."""
INTERIOR = 1
"""Channel of the pixelwise heads: boundary, interior, background."""


class Network(Protocol):
    """A network with its weights, ready to run.

    Attributes
    ----------
    runtime, device : str
        What runs it ("onnxruntime" or "tensorflow"), and where ("cpu" or "cuda").
    """

    runtime: str
    device: str

    def predict(self, tiles: Floats) -> Floats:
        """Predict a batch.

        Parameters
        ----------
        tiles : (n, 256, 256, 2) float32
            Preprocessed: nucleus, whole cell.

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
    """How many tiles go to the network at once; less once memory has run out.

    Parameters
    ----------
    memory_gb : float
        The budget of a worker.
    """

    def __init__(self, memory_gb: float) -> None:
        tiles = int(memory_gb * 2**30 / BYTES_PER_TILE)
        self.size = max(1, min(MOST_TILES, tiles))
        self.times_halved = 0

    def halve(self) -> None:
        """Go on with half as many tiles."""
        self.size = max(1, self.size // 2)
        self.times_halved += 1


def choose_runtime(weights: Weights, runtime: str, device: str = "auto") -> str:
    """Decide what runs the weights, without loading anything.

    Parameters
    ----------
    weights : Weights
    runtime : "auto", "onnxruntime" or "tensorflow"
        auto: onnxruntime where the weights are converted, else TensorFlow.
    device : "auto", "cpu" or "cuda"
        What onnxruntime has is looked at where it is to be cuda.

    Raises
    ------
    BackendUnavailable
        If the weights cannot be run so, or what is needed is not installed.
    """
    converted = weights.kind == "onnx" or weights.onnx is not None
    if runtime == "onnxruntime" and not converted:
        raise BackendUnavailable(
            f"{weights.path} is a SavedModel, and segmentation.runtime 'onnxruntime' needs "
            f"it converted: run 'codexseg models convert {weights.path}' once, or set "
            f"segmentation.runtime to 'tensorflow'."
        )
    if runtime == "tensorflow" and weights.kind == "onnx":
        raise BackendUnavailable(
            f"{weights.path} is an ONNX file, which TensorFlow does not run: set "
            f"segmentation.runtime to 'auto', or segmentation.model_path to the SavedModel."
        )
    chosen = runtime if runtime != "auto" else "onnxruntime" if converted else "tensorflow"
    if chosen == "tensorflow" and importlib.util.find_spec("tensorflow") is None:
        raise BackendUnavailable(
            f"{weights.path} is run by TensorFlow, which is not installed: "
            + (
                "set segmentation.runtime to 'auto', the weights are converted already."
                if converted
                else f"install the extra 'mesmer' (in a clone: pip install -c "
                f"constraints.txt '.[mesmer]'), and convert the weights once with "
                f"'codexseg models convert {weights.path}', after which TensorFlow is not "
                f"needed any more."
            )
        )
    if device == "cuda" and chosen == "onnxruntime":
        need_cuda()
    return chosen


@lru_cache(maxsize=1)
def open_network(weights: Weights, runtime: str = "auto", device: str = "auto") -> Network:
    """Load weights, once per process.

    Parameters
    ----------
    weights : Weights
    runtime : "auto", "onnxruntime" or "tensorflow"
    device : "auto", "cpu" or "cuda"
        auto: a GPU where the runtime sees one. cuda never falls back to the CPU.

    Raises
    ------
    BackendUnavailable
        If runtime or device cannot be had.
    InputError
        If the weights are not Mesmer's contract, or cannot be read.
    """
    chosen = choose_runtime(weights, runtime)
    network: Network
    if chosen == "onnxruntime":
        network = _OnnxRuntime(weights, device)
    else:
        network = _TensorFlow(weights, device)
    log.info("%s: %s on %s", weights.path, network.runtime, network.device)
    return network


def predict_tiles(
    network: Network, tiles: Sequence[Floats], batch: Batch
) -> Iterator[Floats]:
    """Predict tiles batch by batch; where memory runs out, in batches of half the size.

    Parameters
    ----------
    network : Network
    tiles : sequence of (2, 256, 256) float32
        Nucleus, whole cell. Views will do.
    batch : Batch
        Tiles at once.

    Yields
    ------
    maps : (4, 256, 256) float32
        Of each tile, in their order.

    Raises
    ------
    BackendUnavailable
        If there is not even memory for one tile.
    """
    done = 0
    while done < len(tiles):
        part = np.moveaxis(np.stack(tiles[done : done + batch.size]), 1, -1)
        try:
            maps = network.predict(np.ascontiguousarray(part))
        except OutOfMemory as error:
            if batch.size == 1:
                raise BackendUnavailable(
                    f"the memory of the device ({network.device}) does not suffice for a "
                    f"single tile: {error}. Use fewer workers (--workers, "
                    f"execution.workers), end what else uses the device, or set "
                    f"segmentation.device to 'cpu'."
                ) from error
            batch.halve()
            log.warning(
                "out of memory on %s: going on with batches of %d tiles "
                "(segmentation.batch_memory_gb sets the first size)",
                network.device,
                batch.size,
            )
            continue
        done += len(part)
        yield from maps


def _maps(outputs: list[Any]) -> Floats:
    """Keep the four maps that are used of the heads' eight, channels first."""
    shapes = [tuple(output.shape[1:]) for output in outputs]
    expected = [(TILE_PX, TILE_PX, channels) for channels in HEAD_CHANNELS]
    if shapes != expected:
        raise InputError(
            f"the network gives tiles of {shapes}, expected {expected} as it says of "
            f"itself: it is damaged or made wrongly; see 'codexseg models check'."
        )
    distance, pixelwise, nucleus_distance, nucleus_pixelwise = outputs
    return np.stack(
        [
            distance[..., 0],
            pixelwise[..., INTERIOR],
            nucleus_distance[..., 0],
            nucleus_pixelwise[..., INTERIOR],
        ],
        axis=1,
    )


class _OnnxRuntime:
    runtime = "onnxruntime"

    def __init__(self, weights: Weights, device: str) -> None:
        path = weights.onnx or weights.path
        contract = check_contract(read_signature(path), path)
        self._session = Session(path, device)
        self.device = self._session.device
        self._input, self._outputs = contract.input_name, contract.output_names

    def predict(self, tiles: Floats) -> Floats:
        return _maps(self._session.run(self._outputs, {self._input: tiles}))


class _TensorFlow:
    runtime = "tensorflow"

    def __init__(self, weights: Weights, device: str) -> None:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        import tensorflow

        self._contract = check_contract(read_signature(weights.path), weights.path)
        gpus = tensorflow.config.list_physical_devices("GPU")
        if device == "cuda" and not gpus:
            raise BackendUnavailable(
                "segmentation.device is 'cuda', and TensorFlow sees no GPU: install "
                "tensorflow[and-cuda] in an environment of its own, or set "
                "segmentation.device to 'cpu'."
            )
        self.device = "cuda" if gpus and device != "cpu" else "cpu"
        try:
            if self.device == "cpu":
                tensorflow.config.set_visible_devices([], "GPU")
            for gpu in gpus if self.device == "cuda" else []:
                tensorflow.config.experimental.set_memory_growth(gpu, True)  # noqa: FBT003
            tensorflow.config.experimental.enable_tensor_float_32_execution(False)  # noqa: FBT003
            tensorflow.config.threading.set_intra_op_parallelism_threads(threads() or 0)
        except RuntimeError:
            log.info("TensorFlow was in use before: its devices and threads stay as set")
        self._tensorflow = tensorflow
        try:
            self._model = tensorflow.saved_model.load(str(weights.path))
            self._function = self._model.signatures["serving_default"]
        except Exception as error:
            raise InputError(
                f"{weights.path} cannot be loaded by TensorFlow {tensorflow.__version__} "
                f"({first_line(error)}), expected a SavedModel; fetch it again."
            ) from error

    def predict(self, tiles: Floats) -> Floats:
        batch = {self._contract.input_name: self._tensorflow.constant(tiles)}
        try:
            outputs = self._function(**batch)
        except Exception as error:
            raise_out_of_memory(error)
            raise
        return _maps([outputs[name].numpy() for name in self._contract.output_names])
