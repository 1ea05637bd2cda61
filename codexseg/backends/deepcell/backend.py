"""The deepcell package, run in a separate Python 3.10.

A worker process (:mod:`codexseg.backends.deepcell.worker`) runs TensorFlow and Mesmer.
Pixels and labels are exchanged in memory-mapped ``.npy`` files. Each patch is an image of
its own for `Mesmer.predict`, also with slide normalisation.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import count
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np

from codexseg.arrays import Labels, Pixels
from codexseg.backends.base import SlideContext
from codexseg.backends.deepcell.environment import DEEPCELL_VERSION, find_deepcell
from codexseg.backends.deepcell.process import JsonProcess, ProcessEnded
from codexseg.backends.networks.contract import NETWORK_MPP, TILE_PX
from codexseg.backends.networks.weights import (
    KNOWN,
    TOKEN,
    Weights,
    deepcell_dir,
    resolve_weights,
)
from codexseg.backends.registry import BackendWarning
from codexseg.core.grid import Window
from codexseg.errors import BackendUnavailable, CodexsegError, ConfigError, WorkerDied
from codexseg.run.files import map_npy

log = logging.getLogger(__name__)

WEIGHTS = KNOWN["mesmer"]
"""Default weights of deepcell 0.12.10."""

_SCRIPT = Path(__file__).with_name("worker.py")
_HALO_PX, _CONTEXT_PX = 128, 64  # px of the network
_BATCH_TILES = 4  # Mesmer.predict's default


class Deepcell:
    """Mesmer as the deepcell package computes it.

    Parameters
    ----------
    config
        The segmentation section. Its `python` (the executable of a Python with deepcell),
        `model_path` (a SavedModel with Mesmer's contract; None: deepcell's own weights),
        `compartment` and `device` are read.
    slide : SlideContext
        `mpp` is the pixel size of the images.

    Raises
    ------
    BackendUnavailable
        If there is no Python with deepcell, or there are no weights.
    ConfigError
        If `model_path` is an ONNX file.
    InputError
        If `model_path` is neither the folder nor the tarball of a SavedModel.
    """

    name: ClassVar[str] = "deepcell"
    mpp: ClassVar[float | None] = NETWORK_MPP
    channels: ClassVar[tuple[str, ...]] = ("nucleus", "wholecell")
    paired: ClassVar[bool] = False
    bytes_per_px: ClassVar[int] = 180
    """151 measured, without the files."""

    def __init__(self, config: Any, slide: SlideContext) -> None:
        self._slide = slide
        self._compartment: str = config.compartment
        self._device: str = config.device
        self._python = find_deepcell(config.python)
        self._weights = _find_weights(config.model_path)
        self.halo_px = ceil(_HALO_PX * NETWORK_MPP / slide.mpp)
        self.context_px = ceil(_CONTEXT_PX * NETWORK_MPP / slide.mpp)
        self._worker: JsonProcess | None = None
        self._has_started, self._unavailable = False, ""

    @classmethod
    def warnings(cls, config: Any) -> Iterator[BackendWarning]:
        """Warn that `segmentation.normalization` has no effect."""
        if config.normalization == "slide":
            yield BackendWarning(
                "normalization_unused",
                config.normalization,
                "segmentation.normalization",
                "The backend 'deepcell' normalizes each patch as an image of its own, so "
                "cells at seams can differ. The backend 'mesmer' computes the same for the "
                "slide as a whole.",
            )

    @property
    def about(self) -> dict[str, str | None]:
        """Package, weights and licence, for the manifest of a run."""
        weights = self._weights
        return {
            "deepcell": DEEPCELL_VERSION,
            "python": str(self._python),
            "weights": weights.name if weights else WEIGHTS.title,
            "licence": weights.licence if weights else WEIGHTS.licence,
        }

    def fingerprint(self) -> str:
        """Return name, version and weights."""
        weights = self._weights.digest[:16] if self._weights else WEIGHTS.title
        return f"{self.name}-{DEEPCELL_VERSION}-{weights}"

    def predict(self, patches: Pixels, windows: Sequence[Window]) -> Labels:
        """Segment each patch as an image of its own.

        Parameters and result are those of :meth:`codexseg.backends.base.Backend.predict`;
        `windows` are not used. A compartment that `compartment` excludes is zero.

        Raises
        ------
        BackendUnavailable
            If the worker cannot be started.
        WorkerDied
            If the worker is killed twice.
        CodexsegError
            If deepcell fails.
        """
        del windows
        n, _, height, width = patches.shape
        if n == 0:
            return np.zeros(patches.shape, np.uint32)
        padded = self._padded((height, width))
        margin = ((0, padded[0] - height), (0, padded[1] - width))
        with TemporaryDirectory(prefix="deepcell-", dir=_beside(patches)) as folder:
            files = {name: Path(folder) / f"{name}.npy" for name in ("images", "labels")}
            shape = (n, *padded, 2)
            images = map_npy(files["images"], patches.dtype, shape)
            for image, patch in zip(images, patches, strict=True):
                image[...] = np.pad(np.moveaxis(patch, 0, -1), (*margin, (0, 0)), "reflect")
            labels = map_npy(files["labels"], np.dtype(np.uint32), shape)
            self._segment({name: str(path) for name, path in files.items()}, shape)
            planes = np.moveaxis(labels, -1, 1)[:, :, :height, :width]
            return np.array(planes, order="C")

    def _segment(self, files: dict[str, str], shape: tuple[int, ...]) -> None:
        """Let the worker segment the images of a file into the labels of another."""
        request = {
            **files,
            "mpp": self._slide.mpp,
            "compartment": self._compartment,
            "batch_size": _BATCH_TILES,
        }
        answer = self._ask(request)
        if "error" in answer:
            text = f"deepcell failed on images of shape {shape}: {answer['error']}"
            failure = CodexsegError(_clean(text))
            failure.add_note(_clean(answer["traceback"]))
            raise failure
        log.debug("deepcell: images of shape %s in %s s", shape, answer["seconds"])

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send a request to the worker; restart a worker that dies, once."""
        try:
            return self._begun().ask(request)
        except ProcessEnded as error:
            self._worker = None
            ended = _clean(str(error))
            log.warning("deepcell's worker %s\nThe batch is repeated once.", ended)
        except BaseException:
            self._worker = None
            raise
        try:
            return self._begun().ask(request)
        except ProcessEnded as error:
            self._worker = None
            raise WorkerDied(
                f"deepcell's worker {_clean(str(error))}\nThis was the second attempt. "
                f"SIGKILL usually means out of memory. Use smaller patches "
                f"(patching.patch_height, patch_width) or fewer workers (--workers)."
            ) from error

    def _begun(self) -> JsonProcess:
        """Return the worker; start it if there is none."""
        if self._unavailable:
            raise BackendUnavailable(self._unavailable)
        if self._worker is None:
            with nullcontext() if self._weights else _lock_own_weights():
                self._worker = self._start()
        return self._worker

    def _start(self) -> JsonProcess:
        """Start a worker and wait until it has loaded the network."""
        # not -I: deepcell may be in the user's site-packages
        command = [str(self._python), "-E", str(_SCRIPT)]
        if self._weights:
            command += ["--model", str(self._weights.path.absolute())]
        try:
            worker = JsonProcess(command, self._environment(), {"hello", "ok", "error"})
            answer = worker.receive()
        except ProcessEnded as error:
            raise self._refusal(f"deepcell's worker ({self._python}) {error}") from error
        if "hello" not in answer:
            worker.kill()
            raise self._refusal(
                f"deepcell's worker ({self._python}) cannot load deepcell: "
                f"{answer['error']}",
                answer["traceback"],
            )
        if self._device == "cuda" and not answer["gpus"]:
            worker.kill()
            raise self._refusal(
                f"segmentation.device is 'cuda', and deepcell's TensorFlow "
                f"{answer['hello']['tensorflow']} has no usable GPU. Set it to 'auto' or "
                f"'cpu', or use the backend 'mesmer'."
            )
        self._has_started = True
        log.info("deepcell's worker: %s", answer["hello"])
        return worker

    def _refusal(self, text: str, trace: str = "") -> BackendUnavailable:
        """Return the error of a worker that cannot start.

        If no worker has ever started, the error is kept, as each patch would wait for
        seconds.
        """
        refusal = BackendUnavailable(_clean(text))
        if not self._has_started:
            self._unavailable = str(refusal)
        if trace:
            refusal.add_note(_clean(trace))
        return refusal

    def _environment(self) -> dict[str, str]:
        env = dict(os.environ)
        env.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # errors only, which are shown
        # leaves memory to other programs
        env.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
        if self._device == "cpu":
            env["CUDA_VISIBLE_DEVICES"] = "-1"
        if self._weights:
            env.pop(TOKEN, None)
        return env

    def _padded(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Return a height and width that deepcell can process.

        If one axis is shorter than a tile and the other longer, deepcell pads both and
        fails (its issue 709). The short axis is reflected up to the size of a tile.
        """
        scale = self._slide.mpp / NETWORK_MPP
        sides = [int(side * scale) for side in shape]
        if not min(sides) < TILE_PX < max(sides):
            return shape
        side = next(n for n in count(int(TILE_PX / scale)) if int(n * scale) >= TILE_PX)
        return max(shape[0], side), max(shape[1], side)


def _clean(text: str) -> str:
    """Remove the token, which is part of deepcell's message about a wrong token."""
    token = os.environ.get(TOKEN)
    return text.replace(token, "***") if token else text


def _find_weights(model_path: Path | None) -> Weights | None:
    """Return the SavedModel of `model_path`.

    None: deepcell has its own weights, or can fetch them.
    """
    if model_path is not None:
        weights = resolve_weights(model_path)
        if weights.kind == "saved_model":
            return weights
        raise ConfigError(
            f"segmentation.model_path: {weights.path} is an ONNX file. The backend "
            f"'deepcell' expects a SavedModel (its folder or its tarball), or null for its "
            f"own weights. The backend 'mesmer' takes ONNX files."
        )
    archive = deepcell_dir() / WEIGHTS.file_name
    if not archive.is_file() and not os.environ.get(TOKEN):
        raise BackendUnavailable(
            f"deepcell has no weights: {archive} is missing, and {TOKEN} is not set. Set "
            f"it to a token from https://users.deepcell.org and run 'codexseg models fetch "
            f"mesmer', or set segmentation.model_path to the folder of a SavedModel."
        )
    return None


def _lock_own_weights() -> AbstractContextManager[object]:
    """Return a lock, so that one worker at a time loads deepcell's own weights.

    Mesmer() unpacks its archive each time, over files that another worker may be reading.
    """
    from filelock import FileLock

    deepcell_dir().mkdir(parents=True, exist_ok=True)
    return FileLock(deepcell_dir() / ".codexseg.lock")


def _beside(patches: Pixels) -> Path | None:
    """Return the folder of memory-mapped patches, which the run cleans up."""
    filename = getattr(patches, "filename", None)
    return None if filename is None else Path(filename).parent
