"""ONNX files in onnxruntime, and what all runtimes of networks share."""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codexseg.errors import BackendUnavailable, InputError

log = logging.getLogger(__name__)

_CUDA = "CUDAExecutionProvider"
_OUT_OF_MEMORY = re.compile(
    r"out of memory|failed to allocate|bad.?alloc|ALLOC_FAILED|ResourceExhausted|\bOOM\b",
    re.IGNORECASE,
)


class OutOfMemory(Exception):
    """The runtime could not get the memory for a batch."""


class Session:
    """An ONNX file, loaded.

    Parameters
    ----------
    path : Path
    device : "auto", "cpu" or "cuda"
        auto: a GPU where onnxruntime sees one. cuda never falls back to the CPU.

    Attributes
    ----------
    device : str
        cpu or cuda.
    inputs : list of str
        Their names.

    Raises
    ------
    BackendUnavailable
        If the device cannot be had.
    InputError
        If the file cannot be loaded.
    """

    def __init__(self, path: Path, device: str) -> None:
        onnxruntime = _onnxruntime()
        wants_cuda = device != "cpu" and _CUDA in onnxruntime.get_available_providers()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads() or 0
        # Threads that wait in a loop take a seventh of the CPU time, and save no time.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # TF32 would round more than the networks of two runtimes may differ.
        providers: list[Any] = [(_CUDA, {"use_tf32": "0"})] if wants_cuda else []
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=[*providers, "CPUExecutionProvider"]
            )
        except Exception as error:
            raise InputError(
                f"{path} cannot be loaded by onnxruntime ({first_line(error)}), expected "
                f"an ONNX network; make or fetch it again."
            ) from error
        self._session.disable_fallback()
        has_cuda = _CUDA in self._session.get_providers()
        if wants_cuda and not has_cuda and device == "auto":
            log.warning("onnxruntime cannot use the GPU; with device 'cuda' it says why")
        if device == "cuda" and not has_cuda:
            raise BackendUnavailable(
                "segmentation.device is 'cuda', and onnxruntime cannot use the GPU: its "
                "driver, CUDA or cuDNN are missing or of another version. See the page of "
                "onnxruntime on CUDA, or set segmentation.device to 'cpu'."
            )
        self.device = "cuda" if has_cuda else "cpu"
        self.inputs = [tensor.name for tensor in self._session.get_inputs()]

    def run(
        self, outputs: Sequence[str] | None, tensors: Mapping[str, NDArray[np.float32]]
    ) -> list[Any]:
        """Return the outputs of these names, all if None.

        Raises
        ------
        OutOfMemory
            If the batch is too large for the device.
        """
        try:
            names = None if outputs is None else list(outputs)
            found: list[Any] = self._session.run(names, dict(tensors))
        except Exception as error:
            raise_out_of_memory(error)
            raise
        return found


def _onnxruntime() -> Any:
    """Import onnxruntime, which would write and send a record of the machine otherwise."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


def need_cuda() -> None:
    """Raise BackendUnavailable where this onnxruntime knows no GPU."""
    available = _onnxruntime().get_available_providers()
    if _CUDA not in available:
        raise BackendUnavailable(
            f"segmentation.device is 'cuda', and this onnxruntime has "
            f"{', '.join(available)} only: put onnxruntime-gpu in its place (pip uninstall "
            f"onnxruntime, then pip install onnxruntime-gpu), or set segmentation.device "
            f"to 'cpu'."
        )


def threads() -> int | None:
    """Return how many threads this process may use (OMP_NUM_THREADS); None: all cores."""
    text = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return int(text) if text.isdigit() and int(text) > 0 else None


def raise_out_of_memory(error: Exception) -> None:
    """Raise OutOfMemory if that is what an error of a runtime says."""
    if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(
        f"{type(error).__name__}: {error}"
    ):
        raise OutOfMemory(first_line(error)) from error


def first_line(error: Exception) -> str:
    """Return what an error says in its first line, at most 300 characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
