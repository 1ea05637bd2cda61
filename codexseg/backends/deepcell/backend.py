"""The deepcell package itself, in a Python 3.10 of its own.

A worker process (:mod:`codexseg.backends.deepcell.worker`) has TensorFlow and Mesmer;
pixels and labels go through memory-mapped ``.npy`` files. Each patch is an image of its
own, as `Mesmer.predict` treats it, also where the slide is normalised as a whole for
other backends.
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

from codexseg.backends.base import Labels, Pixels, SlideContext
from codexseg.backends.deepcell.environment import DEEPCELL_VERSION, find_deepcell
from codexseg.backends.deepcell.process import JsonProcess, ProcessEnded
from codexseg.backends.networks.contract import NETWORK_MPP, TILE_PX
from codexseg.backends.networks.weights import KNOWN, TOKEN, Weights, deepcell_dir, resolve
from codexseg.backends.registry import BackendWarning
from codexseg.config.schema import SegmentationConfig
from codexseg.core.grid import Window
from codexseg.errors import BackendUnavailable, CodexsegError, ConfigError, WorkerDied
from codexseg.run.files import map_npy

log = logging.getLogger(__name__)

WEIGHTS = KNOWN["mesmer"]
"""The weights that deepcell 0.12.10 takes by itself."""

_SCRIPT = Path(__file__).with_name("worker.py")
_HALO_PX, _CONTEXT_PX = 128, 64  # px of the network
_BATCH_TILES = 4  # Mesmer.predict's default


class Deepcell:
    """Mesmer as the deepcell package computes it.

    Parameters
    ----------
    config
        The segmentation section: `python` (the executable of a Python with deepcell),
        `model_path` (a SavedModel with Mesmer's contract; None: deepcell's own weights),
        `compartment` and `device` are read.
    slide : SlideContext
        `mpp` is what the images are resized from.

    Raises
    ------
    BackendUnavailable
        If there is no Python with deepcell, or there are no weights.
    ConfigError
        If `model_path` is an ONNX file.
    InputError
        If it is neither the folder nor the tarball of a SavedModel.
    """

    name: ClassVar[str] = "deepcell"
    mpp: ClassVar[float | None] = NETWORK_MPP
    channels: ClassVar[tuple[str, ...]] = ("nucleus", "wholecell")
    paired: ClassVar[bool] = False
    bytes_per_px: ClassVar[int] = 180
    """Measured were 151, without those of the files."""

    def __init__(self, config: Any, slide: SlideContext) -> None:
        self._slide = slide
        self._compartment: str = config.compartment
        self._device: str = config.device
        self._python = find_deepcell(config.python)
        self._weights: Weights | None = None
        if config.model_path is not None:
            self._weights = _checked(resolve(config.model_path))
        else:
            _check_own_weights()
        self.halo_px = ceil(_HALO_PX * NETWORK_MPP / slide.mpp)
        self.context_px = ceil(_CONTEXT_PX * NETWORK_MPP / slide.mpp)
        self._worker: JsonProcess | None = None
        self._has_started, self._unavailable = False, ""

    @classmethod
    def warnings(cls, config: SegmentationConfig) -> Iterator[BackendWarning]:
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
        """What the manifest says of the package and the weights."""
        mine = self._weights
        return {
            "deepcell": DEEPCELL_VERSION,
            "python": str(self._python),
            "weights": mine.name if mine else WEIGHTS.title,
            "licence": mine.licence if mine else WEIGHTS.licence,
        }

    def fingerprint(self) -> str:
        """Name, version, and the weights."""
        weights = self._weights.digest[:16] if self._weights else WEIGHTS.title
        return f"{self.name}-{DEEPCELL_VERSION}-{weights}"

    def predict(self, patches: Pixels, windows: Sequence[Window]) -> Labels:
        """Segment patches of one shape, each on its own.

        Where one axis has less than a tile and the other more, deepcell fails (its issue
        709): the short axis is reflected first.

        Parameters
        ----------
        patches : (n, 2, y, x) uint8, uint16 or float32
            Channel 0 nucleus, channel 1 whole cell (zeros where there is none).
        windows : sequence of n windows
            Not needed: nothing depends on where a patch lies.

        Returns
        -------
        labels : (n, 2, y, x) uint32
            Compartment 0 cells, 1 nuclei; zeros in one that `compartment` excludes.

        Raises
        ------
        BackendUnavailable
            If the worker cannot be started.
        WorkerDied
            If the worker was killed, and killed once more when it was tried again.
        CodexsegError
            If deepcell fails.
        """
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
            found = np.moveaxis(labels, -1, 1)[:, :, :height, :width]
            return np.array(found, order="C")

    def _segment(self, files: dict[str, str], shape: tuple[int, ...]) -> None:
        """Have the images in a file segmented into the labels in another."""
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
        """Ask the worker; one that dies is started again, once."""
        try:
            return self._begun().ask(request)
        except ProcessEnded as error:
            self._worker = None
            ended = _clean(str(error))
            log.warning("deepcell's worker %s\nThe batch is tried once more.", ended)
        except BaseException:
            self._worker = None
            raise
        try:
            return self._begun().ask(request)
        except ProcessEnded as error:
            self._worker = None
            raise WorkerDied(
                f"deepcell's worker {_clean(str(error))}\nIt was tried twice. If memory "
                f"ran out, which is most likely after SIGKILL, take smaller patches "
                f"(patching.patch_height, patch_width) or fewer workers (--workers)."
            ) from error

    def _begun(self) -> JsonProcess:
        """Return the worker; start it where there is none."""
        if self._unavailable:
            raise BackendUnavailable(self._unavailable)
        if self._worker is None:
            with nullcontext() if self._weights else _lock_own_weights():
                self._worker = self._start()
        return self._worker

    def _start(self) -> JsonProcess:
        """Start a worker and wait until it has loaded the network."""
        # not -I: deepcell may be among the packages that the user installed for himself
        command = [str(self._python), "-E", str(_SCRIPT)]
        if self._weights:
            command += ["--model", str(self._weights.path.absolute())]
        try:
            worker = JsonProcess(command, self._environment(), {"hello", "ok", "error"})
            answer = worker.hear()
        except ProcessEnded as error:
            raise self._refusal(f"deepcell's worker ({self._python}) {error}") from error
        if "hello" not in answer:
            worker.kill()
            raise self._refusal(
                f"deepcell's worker ({self._python}) cannot load it: {answer['error']}",
                answer["traceback"],
            )
        if self._device == "cuda" and not answer["gpus"]:
            worker.kill()
            raise self._refusal(
                f"segmentation.device is 'cuda', but deepcell's TensorFlow "
                f"{answer['hello']['tensorflow']} finds no GPU that it can use: set it to "
                f"'auto' or 'cpu', or take the backend mesmer."
            )
        self._has_started = True
        log.info("deepcell's worker: %s", answer["hello"])
        return worker

    def _refusal(self, text: str, trace: str = "") -> BackendUnavailable:
        """Make the error of a worker that cannot start.

        It is remembered if none ever did: each of many patches would wait for seconds.
        """
        refusal = BackendUnavailable(_clean(text))
        if not self._has_started:
            self._unavailable = str(refusal)
        if trace:
            refusal.add_note(_clean(trace))
        return refusal

    def _environment(self) -> dict[str, str]:
        env = dict(os.environ)
        env.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # errors only: they are shown
        env.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # others want memory, too
        if self._device == "cpu":
            env["CUDA_VISIBLE_DEVICES"] = "-1"
        if self._weights:
            env.pop(TOKEN, None)
        return env

    def _padded(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Return the height and width that deepcell can take.

        Where one axis has less than a tile and the other more it pads both, and fails
        (its issue 709): the short axis is reflected until it holds a tile.
        """
        scale = self._slide.mpp / NETWORK_MPP
        sides = [int(side * scale) for side in shape]
        if not min(sides) < TILE_PX < max(sides):
            return shape
        least = next(n for n in count(int(TILE_PX / scale)) if int(n * scale) >= TILE_PX)
        return max(shape[0], least), max(shape[1], least)


def _clean(text: str) -> str:
    """Remove the token, which deepcell's message about a wrong one would show."""
    token = os.environ.get(TOKEN)
    return text.replace(token, "***") if token else text


def _check_own_weights() -> None:
    """Check that deepcell can have its own weights: it has them, or fetches them."""
    archive = deepcell_dir() / WEIGHTS.file_name
    if not archive.is_file() and not os.environ.get(TOKEN):
        raise BackendUnavailable(
            f"deepcell has no weights: {archive} is missing, and {TOKEN} is not set to "
            f"fetch it. Set it to a token from https://users.deepcell.org and run "
            f"'codexseg models fetch mesmer', or set segmentation.model_path to the folder "
            f"of a SavedModel."
        )


def _lock_own_weights() -> AbstractContextManager[object]:
    """Let one worker at a time load deepcell's own weights.

    Mesmer() unpacks its archive each time, over what another one may be reading.
    """
    from filelock import FileLock

    deepcell_dir().mkdir(parents=True, exist_ok=True)
    return FileLock(deepcell_dir() / ".codexseg.lock")


def _checked(weights: Weights) -> Weights:
    if weights.kind == "saved_model":
        return weights
    raise ConfigError(
        f"segmentation.model_path: {weights.path} is an ONNX file, which deepcell "
        f"does not read; the backend deepcell expects a SavedModel (its folder or its "
        f"tarball), or null for its own weights. The backend mesmer takes ONNX files."
    )


def _beside(patches: Pixels) -> Path | None:
    """Return the folder of patches that are a mapped file: a run tidies it up."""
    filename = getattr(patches, "filename", None)
    return None if filename is None else Path(filename).parent
