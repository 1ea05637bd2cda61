"""StarDist: nuclei as star-convex polygons; cells are expanded nuclei.

Schmidt et al., Cell Detection with Star-convex Polygons, MICCAI 2018.
"""

import os
from contextlib import redirect_stdout
from io import StringIO
from math import ceil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from codexseg.arrays import Labels
from codexseg.backends.base import SlideContext
from codexseg.backends.networks.onnx import loading
from codexseg.backends.optional import (
    OPTIONS,
    check_options,
    options_digest,
    package_version,
    require,
    tensorflow_device,
)
from codexseg.backends.process_cache import files_digest, load_once
from codexseg.backends.registry import spec_of
from codexseg.backends.tiled.backend import Channels, Tiled
from codexseg.errors import BackendUnavailable, InputError

VERSION = 1
MODEL = "2D_versatile_fluo"
OPTIONS_TAKEN = {"model": (str,), "prob_thresh": (float,), "nms_thresh": (float,)}
FILES = ("config.json", "weights_best.h5")


class Stardist(Tiled):
    """Nuclei from the nuclear channel; label i of cells and nuclei is one cell.

    Cells are nuclei expanded by segmentation.watershed.expansion_um; the whole-cell
    channel is not used. StarDist selects among all polygons of an image, and pools from
    the corner of the image. The fixed tile grid of
    :class:`codexseg.backends.tiled.backend.Tiled`, which also normalises, makes the result
    a function of the slide.

    Parameters
    ----------
    config
        The segmentation section. Model_path (the folder of a model), options (`model`, a
        published one; `prob_thresh` and `nms_thresh`, by default those of the model),
        device, normalization and watershed.expansion_um are read.
    slide : SlideContext
        `mpp` and `shape` set the image of 0.5 um per px that the network sees.

    Raises
    ------
    ConfigError
        If an option is unknown or has another type.
    BackendUnavailable
        If stardist or TensorFlow is missing, or there are no weights. They are never
        downloaded by this backend.
    InputError
        If `model_path` is not the folder of a model.
    """

    name: ClassVar[str] = "stardist"
    mpp = 0.5
    percents = (1.0, 99.8)
    tile_core_px = 1024
    margin_px = 96  # a multiple of 32, the pooling of the networks
    largest_px = 64
    planes = ((1,),)

    def __init__(self, config: Any, slide: SlideContext) -> None:
        check_options(self.name, config.options, OPTIONS_TAKEN)
        require(self.name, "stardist", "tensorflow")
        self._thresholds = dict(config.options)
        model = self._thresholds.pop("model", MODEL)
        self._folder = model_folder(config.model_path, model)
        self.expansion_px = config.watershed.expansion_um / self.mpp
        self.largest_px = Stardist.largest_px + 2 * ceil(self.expansion_px)
        super().__init__(config, slide)
        self.channels = ("nucleus",)

    @property
    def about(self) -> dict[str, str | bool | None]:
        """Package, weights and licence, for the manifest of a run."""
        is_published = self._config.model_path is None
        return {
            "stardist": package_version("stardist"),
            "weights": self._folder.name,
            "weights_path": str(self._folder),
            "weights_digest": folder_digest(self._folder),
            "licence": spec_of(self.name).licence if is_published else None,
        }

    def fingerprint(self) -> str:
        """Return a name of the computation, the package, the weights and the options."""
        settings = {
            "weights": folder_digest(self._folder),
            "options": self._thresholds,
            "expansion_px": self.expansion_px,
        }
        package = package_version("stardist")
        return f"{self.name}-{VERSION}-{package}-{options_digest(settings)}"

    def segment(self, channels: Channels) -> tuple[Labels, str]:
        """Segment a tile."""
        nucleus, _ = channels
        if nucleus is None:
            shape = next(channel.shape for channel in channels if channel is not None)
            return np.zeros((2, *shape), np.uint32), "none"
        digest = folder_digest(self._folder)
        model, device = load_once(
            _load_model, self._folder, self._config.device, content=digest
        )
        labels, _ = model.predict_instances(
            nucleus, show_tile_progress=False, **self._thresholds
        )
        nuclei = np.asarray(labels).astype(np.uint32)
        return np.stack([np.zeros_like(nuclei), nuclei]), device


def model_folder(model_path: Path | None, model: str) -> Path:
    """Return the folder of a model.

    Parameters
    ----------
    model_path : Path or None
        The folder. None: the cache of keras, to which stardist fetches models.
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
                f"segmentation.model_path: {folder} contains no "
                f"{' and no '.join(missing)}. Expected the folder of a StarDist2D model "
                f"with {', '.join(FILES)}."
            )
        return folder
    base = keras_dir() / "models" / "StarDist2D" / model
    # keras 2 unpacks next to the archive, keras 3 into a separate folder
    folders = [base, base / model, base / f"{model}_extracted"]
    for folder in folders:
        if not _missing(folder):
            return folder
    raise BackendUnavailable(
        f"The model {model!r} of stardist is not on this machine (searched "
        f"{', '.join(map(str, folders))}). Let stardist fetch it once on a machine with a "
        f'network (python -c "from stardist.models import StarDist2D; '
        f"StarDist2D.from_pretrained('{model}')\"), and copy {', '.join(FILES)} to "
        f"{base}. Or set segmentation.model_path to the folder of a model."
    )


def keras_dir() -> Path:
    """Return the cache folder of keras."""
    return Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")


def _missing(folder: Path) -> list[str]:
    return [name for name in FILES if not (folder / name).is_file()]


def folder_digest(folder: Path) -> str:
    """Return the sha256 of network, thresholds and weights of a model."""
    files = [folder / name for name in (*FILES, "thresholds.json")]
    return files_digest(folder, filter(Path.is_file, files))


def _load_model(folder: Path, device: str) -> tuple[Any, str]:
    """Load a model; return it and the device.

    Raises
    ------
    InputError
        If stardist cannot load it.
    BackendUnavailable
        If a GPU is requested, and TensorFlow has none.
    """
    chosen = tensorflow_device(device)
    from stardist.models import StarDist2D

    package, name = f"stardist {package_version('stardist')}", f"The model {folder}"
    expected = (
        f"the folder of a StarDist2D model. Fetch it again, or correct "
        f"segmentation.model_path or {OPTIONS}.model."
    )
    # stardist prints the thresholds
    with loading(name, package, expected), redirect_stdout(StringIO()):
        model = StarDist2D(None, name=folder.name, basedir=str(folder.parent))
    return model, chosen
