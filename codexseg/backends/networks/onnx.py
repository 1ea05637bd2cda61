"""Sessions of onnxruntime, and errors and threads of all runtimes."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codexseg.errors import BackendUnavailable, InputError, describe_error

log = logging.getLogger(__name__)

_CUDA = "CUDAExecutionProvider"
_OUT_OF_MEMORY = re.compile(
    r"out of memory|failed to allocate|bad.?alloc|ALLOC_FAILED|ResourceExhausted|\bOOM\b",
    re.IGNORECASE,
)


class OutOfMemory(Exception):
    """The runtime has not enough memory for a batch."""


class Session:
    """A loaded ONNX file.

    Parameters
    ----------
    path : Path
    device : {"auto", "cpu", "cuda"}
        auto: a GPU if onnxruntime can use one. cuda never falls back to the CPU.

    Attributes
    ----------
    device : str
        cpu or cuda.
    inputs : list of str
        Names of the inputs.

    Raises
    ------
    BackendUnavailable
        If the device is not available.
    InputError
        If the file cannot be loaded.
    """

    def __init__(self, path: Path, device: str) -> None:
        onnxruntime = _onnxruntime()
        wants_cuda = device != "cpu" and _CUDA in onnxruntime.get_available_providers()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads() or 0
        # spinning threads take a seventh of the CPU time and make nothing faster
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # TF32 rounds more than two runtimes may differ
        providers: list[Any] = [(_CUDA, {"use_tf32": "0"})] if wants_cuda else []
        with loading(path, "onnxruntime", "an ONNX network. Export or fetch it again."):
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=[*providers, "CPUExecutionProvider"]
            )
        self._session.disable_fallback()
        has_cuda = _CUDA in self._session.get_providers()
        if wants_cuda and not has_cuda and device == "auto":
            log.warning(
                "onnxruntime cannot use the GPU. Set segmentation.device to 'cuda' for the "
                "reason."
            )
        if device == "cuda" and not has_cuda:
            raise BackendUnavailable(
                "segmentation.device is 'cuda', and onnxruntime cannot use the GPU: its "
                "driver, CUDA or cuDNN is missing or of another version. See the CUDA page "
                "of onnxruntime, or set segmentation.device to 'cpu'."
            )
        self.device = "cuda" if has_cuda else "cpu"
        self.inputs = [tensor.name for tensor in self._session.get_inputs()]

    def run(
        self, outputs: list[str] | None, tensors: dict[str, NDArray[np.float32]]
    ) -> list[Any]:
        """Return the named outputs; all if None.

        Raises
        ------
        OutOfMemory
            If the batch is too large for the device.
        """
        try:
            return list(self._session.run(outputs, tensors))
        except Exception as error:
            raise_out_of_memory(error)
            raise


def _onnxruntime() -> Any:
    """Import onnxruntime with its telemetry switched off."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


def need_cuda() -> None:
    """Raise BackendUnavailable if this onnxruntime is built without CUDA."""
    available = _onnxruntime().get_available_providers()
    if _CUDA not in available:
        raise BackendUnavailable(
            f"segmentation.device is 'cuda', and this onnxruntime has "
            f"{', '.join(available)} only. Replace it by onnxruntime-gpu (pip uninstall "
            f"onnxruntime, then pip install onnxruntime-gpu), or set segmentation.device "
            f"to 'cpu'."
        )


def threads() -> int | None:
    """Return the number of threads of this process (OMP_NUM_THREADS); None: all cores."""
    text = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return int(text) if text.isdigit() and int(text) > 0 else None


@contextmanager
def loading(network: object, package: str, expected: str) -> Iterator[None]:
    """Raise InputError with the reason if a package cannot load a network.

    Parameters
    ----------
    network : object
        Path for the message.
    package : str
        Package, and its version if the network depends on it.
    expected : str
        Expectation and remedy: the end of the message.
    """
    try:
        yield
    except Exception as error:
        raise InputError(
            f"{network} cannot be loaded by {package} ({first_line(error)}). Expected "
            f"{expected}"
        ) from error


def raise_out_of_memory(error: Exception) -> None:
    """Raise OutOfMemory if an error of a runtime means that."""
    if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(describe_error(error)):
        raise OutOfMemory(first_line(error)) from error


def first_line(error: Exception) -> str:
    """Return the first line of an error, at most 300 characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
