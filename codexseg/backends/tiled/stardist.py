"""StarDist: nuclei as star-convex polygons; cells are the nuclei, grown.

Schmidt et al., Cell Detection with Star-convex Polygons, MICCAI 2018.
"""

import hashlib
import logging
import os
from contextlib import redirect_stdout
from functools import lru_cache
from io import StringIO
from math import ceil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from codexseg.backends.base import Labels, SlideContext
from codexseg.backends.networks.archive import file_hash
from codexseg.backends.networks.onnx import first_line
from codexseg.backends.optional import (
    OPTIONS,
    check_options,
    options_digest,
    require,
    version_of,
)
from codexseg.backends.tiled.backend import Channels, Tiled
from codexseg.errors import BackendUnavailable, InputError

log = logging.getLogger(__name__)

VERSION = 1
MODEL = "2D_versatile_fluo"
LICENCE = (
    "the package is BSD-3-Clause, its models lie beside it. "
    "https://github.com/stardist/stardist-models"
)
OPTIONS_TAKEN = {"model": (str,), "prob_thresh": (float,), "nms_thresh": (float,)}
FILES = ("config.json", "weights_best.h5")


class Stardist(Tiled):
    """Nuclei from the nuclear channel; label i of cells and nuclei is one cell.

    Cells are the nuclei, grown by segmentation.watershed.expansion_um; the whole-cell
    channel is not looked at. StarDist suppresses rivals among all polygons of an image,
    and pools from the image's corner: tiles that are fixed on the slide make it a
    function of the slide; see :class:`codexseg.backends.tiled.backend.Tiled`, also for
    normalisation.

    Parameters
    ----------
    config
        The segmentation section: model_path (the folder of a model), options (`model`, a
        published one; `prob_thresh` and `nms_thresh`, else the model's own), device,
        normalization and watershed.expansion_um are read.
    slide : SlideContext
        `mpp` and `shape` set the image of 0.5 um per px that the network sees.

    Raises
    ------
    ConfigError
        If an option is unknown, or of another type than expected.
    BackendUnavailable
        If stardist or TensorFlow is missing, or there are no weights. They are never
        downloaded from here.
    InputError
        If `model_path` is not the folder of a model.
    """

    name: ClassVar[str] = "stardist"
    mpp = 0.5
    percents = (1.0, 99.8)
    tile_core_px = 1024
    margin_px = 96  # a multiple of 32, in which networks pool
    largest_px = 64
    planes = ((1,),)

    def __init__(self, config: Any, slide: SlideContext) -> None:
        check_options(self.name, config.options, OPTIONS_TAKEN)
        require(self.name, "stardist", "tensorflow")
        self._folder = model_folder(config.model_path, config.options.get("model", MODEL))
        growth_um = config.watershed.expansion_um
        self.expansion_px = growth_um / self.mpp
        self.largest_px = Stardist.largest_px + 2 * ceil(self.expansion_px)
        super().__init__(config, slide)
        self.channels = ("nucleus",)

    @property
    def about(self) -> dict[str, str | bool | None]:
        """What the manifest says of package and weights."""
        return {
            "stardist": version_of("stardist"),
            "weights": self._folder.name,
            "weights_path": str(self._folder),
            "weights_digest": folder_digest(self._folder),
            "licence": LICENCE if self._config.model_path is None else None,
        }

    def fingerprint(self) -> str:
        """Name the computation, the package, the weights and the options."""
        settings = {
            "weights": folder_digest(self._folder),
            "options": {k: v for k, v in self._config.options.items() if k != "model"},
            "expansion_px": self.expansion_px,
        }
        package = version_of("stardist")
        return f"{self.name}-{VERSION}-{package}-{options_digest(settings)}"

    def segment(self, channels: Channels) -> tuple[Labels, str]:
        """Segment a tile; see :class:`codexseg.backends.tiled.backend.Tiled`."""
        nucleus, wholecell = channels
        if nucleus is None:
            shape = (2, *wholecell.shape) if wholecell is not None else (2, 0, 0)
            return np.zeros(shape, np.uint32), "none"
        model = load_model(self._folder, folder_digest(self._folder), self._config.device)
        settings = {k: v for k, v in self._config.options.items() if k != "model"}
        found, _ = model.predict_instances(nucleus, show_tile_progress=False, **settings)
        nuclei = np.asarray(found).astype(np.uint32)
        return np.stack([np.zeros_like(nuclei), nuclei]), _device(self._config.device)


def model_folder(model_path: Path | None, model: str) -> Path:
    """Find the folder of a model.

    Parameters
    ----------
    model_path : Path or None
        The folder. None: where keras keeps what stardist fetched.
    model : str
        Name of a published model.

    Raises
    ------
    BackendUnavailable
        If the published model is not on this machine.
    InputError
        If `model_path` is not the folder of a model.
    """
    if model_path is not None:
        folder = model_path.expanduser()
        if missing := _missing(folder):
            raise InputError(
                f"segmentation.model_path: {folder} holds no {' and no '.join(missing)}, "
                f"expected the folder of a StarDist2D model with {', '.join(FILES)}."
            )
        return folder
    base = keras_dir() / "models" / "StarDist2D" / model
    # keras 2 unpacks beside the archive, keras 3 into a folder of its own
    places = [base, base / model, base / f"{model}_extracted"]
    for folder in places:
        if not _missing(folder):
            return folder
    raise BackendUnavailable(
        f"there is no model {model!r} of stardist on this machine (looked for in "
        f"{', '.join(map(str, places))}). Have stardist fetch it once, where there is a "
        f'network (python -c "from stardist.models import StarDist2D; '
        f"StarDist2D.from_pretrained('{model}')\"), and copy {', '.join(FILES)} to "
        f"{base}; or set segmentation.model_path to the folder of a model."
    )


def keras_dir() -> Path:
    """Return the folder in which keras keeps what it fetched."""
    return Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")


def _missing(folder: Path) -> list[str]:
    return [name for name in FILES if not (folder / name).is_file()]


def folder_digest(folder: Path) -> str:
    """Name the content of a model: its network, thresholds and weights."""
    total = hashlib.sha256()
    for name in (*FILES, "thresholds.json"):
        if (folder / name).is_file():
            total.update(f"{name} {file_hash(folder / name, 'sha256')}\n".encode())
    return total.hexdigest()


@lru_cache(maxsize=1)
def load_model(folder: Path, digest: str, device: str) -> Any:
    """Load a model, once per process and content.

    Raises
    ------
    InputError
        If stardist cannot load it.
    """
    del digest
    _device(device)
    from stardist.models import StarDist2D

    try:
        with redirect_stdout(StringIO()):  # it tells the terminal what it loads
            return StarDist2D(None, name=folder.name, basedir=str(folder.parent))
    except Exception as error:
        raise InputError(
            f"the model {folder} cannot be loaded by stardist {version_of('stardist')} "
            f"({first_line(error)}), expected the folder of a StarDist2D model: fetch it "
            f"again, or correct segmentation.model_path or {OPTIONS}.model."
        ) from error


@lru_cache(maxsize=1)
def _device(device: str) -> str:
    """Tell TensorFlow where to compute; return where that is.

    Raises
    ------
    BackendUnavailable
        If it sees no GPU, and one was asked for.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow

    gpus = tensorflow.config.list_physical_devices("GPU")
    if device == "cuda" and not gpus:
        raise BackendUnavailable(
            "segmentation.device is 'cuda', and TensorFlow sees no GPU: install "
            "tensorflow[and-cuda] in an environment of its own, or set "
            "segmentation.device to 'cpu'."
        )
    if device == "cpu" and gpus:
        try:
            tensorflow.config.set_visible_devices([], "GPU")
        except RuntimeError:
            log.info("TensorFlow was in use before: its devices stay as set")
    return "cuda" if gpus and device != "cpu" else "cpu"
