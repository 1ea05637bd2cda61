"""Cellpose: one model for cells and one for nuclei, of cellpose 3 or 4.

Stringer et al., Cellpose: a generalist algorithm for cellular segmentation, Nature
Methods 18, 2021; Stringer and Pachitariu, Cellpose3, Nature Methods 22, 2025; Pachitariu
et al., Cellpose-SAM, bioRxiv 2025.04.28.651001.
"""

import os
import re
from collections.abc import Mapping
from math import ceil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from codexseg.arrays import Float32, Labels
from codexseg.backends.base import CELL_UM, SlideContext
from codexseg.backends.networks.onnx import loading
from codexseg.backends.optional import (
    OPTIONS,
    check_options,
    check_torch,
    options_digest,
    package_version,
    require,
    torch_device,
)
from codexseg.backends.process_cache import file_hash, load_once
from codexseg.backends.registry import spec_of
from codexseg.backends.tiled.backend import Channels, Tiled
from codexseg.errors import BackendUnavailable, InputError

VERSION = 1

EVAL_OPTIONS: Mapping[str, tuple[type, ...]] = {
    "flow_threshold": (float,),
    "cellprob_threshold": (float,),
    "min_size": (int,),
    "niter": (int, type(None)),
    "batch_size": (int,),
    "augment": (bool,),
    "tile_overlap": (float,),
}
"""Options that are passed to `CellposeModel.eval`."""
OPTIONS_TAKEN = {"model": (str,), "nuclei_model": (str,), **EVAL_OPTIONS}
FASTER_ONLY = {"batch_size"}
"""Options without effect on labels."""

DEFAULTS = {3: ("cyto3", "nuclei"), 4: ("cpsam", "cpsam")}
"""Models of cells and of nuclei, by major version of cellpose."""
FILES = {"nuclei": "nucleitorch_0", "cyto": "cytotorch_0", "cyto2": "cyto2torch_0"}
"""File names that differ from the name of the model."""
LICENCES = {
    3: "the package is BSD-3-Clause; it states no licence of its models. "
    "https://github.com/MouseLand/cellpose",
    4: spec_of("cellpose").licence,
}
"""Licence of the models, by major version of cellpose."""
MODELS_DIR = "CELLPOSE_LOCAL_MODELS_PATH"


class Cellpose(Tiled):
    """Cells from both channels by one model, nuclei from the nuclear channel by another.

    With cellpose 3 these are `cyto3` and `nuclei`, with cellpose 4 `cpsam` twice. Without
    a whole-cell channel, cells are nuclei expanded by segmentation.watershed.expansion_um,
    and paired with them; otherwise the labels of cells and nuclei are independent.

    Models expect objects of a certain size: the image is scaled for cells of 10 um, and
    nuclei of segmentation.watershed.nucleus_diameter_um. The estimate of cellpose for each
    image is not used, as it depends on the patches. Cellpose is not local: its tiles, and
    with cellpose 3 their style, depend on the origin of the image. The fixed tile grid of
    :class:`codexseg.backends.tiled.backend.Tiled`, which also normalises, makes the result
    a function of the slide.

    Parameters
    ----------
    config
        The segmentation section. Model_path (weights for the cells), options, device,
        normalization, compartment and watershed are read. Options are `model` and
        `nuclei_model` (names, or paths of weights) and those of `EVAL_OPTIONS`.
    slide : SlideContext
        `mpp` sets the diameters in px.

    Raises
    ------
    ConfigError
        If an option is unknown or has another type.
    BackendUnavailable
        If cellpose is missing or of another version, or there are no weights. They are
        never downloaded by this backend.
    """

    name: ClassVar[str] = "cellpose"
    percents = (1.0, 99.0)

    def __init__(self, config: Any, slide: SlideContext) -> None:
        check_options(self.name, config.options, OPTIONS_TAKEN)
        require(self.name, "cellpose")
        self._major = major_version()
        check_torch(self.name, config.device)
        cells, nuclei = DEFAULTS[self._major]
        options = config.options
        self._eval_options = {k: v for k, v in options.items() if k in EVAL_OPTIONS}
        self._nuclei = weights_of(options.get("nuclei_model", nuclei), self._major)
        self._cells: Path | None = None
        if slide.has_wholecell:
            chosen = config.model_path or options.get("model", cells)
            self._cells = weights_of(chosen, self._major)
        else:
            self.planes = ((1,),)
            self.expansion_px = config.watershed.expansion_um / slide.mpp
        self._diameters = (
            CELL_UM / slide.mpp,
            config.watershed.nucleus_diameter_um / slide.mpp,
        )
        self.margin_px = 16 * ceil(2 * max(self._diameters) / 16)
        self.largest_px = ceil(3 * max(self._diameters))
        super().__init__(config, slide)
        if config.compartment == "nuclear":
            self.diameter_um = config.watershed.nucleus_diameter_um

    @property
    def about(self) -> dict[str, str | bool | None]:
        """Package, weights and licence, for the manifest of a run."""
        models = self._models()
        return {
            "cellpose": package_version("cellpose"),
            "weights": ", ".join(path.name for path in models),
            "weights_path": ", ".join(map(str, models)),
            "weights_digest": ", ".join(file_hash(path, "sha256") for path in models),
            "licence": LICENCES[self._major],
        }

    def fingerprint(self) -> str:
        """Return a name of the computation, the package, the weights and the options."""
        settings = {
            "weights": [file_hash(path, "sha256") for path in self._models()],
            "options": {
                k: v for k, v in self._eval_options.items() if k not in FASTER_ONLY
            },
            "diameters": self._diameters,
            "expansion_px": self.expansion_px,
        }
        package = package_version("cellpose")
        return f"{self.name}-{VERSION}-{package}-{options_digest(settings)}"

    def segment(self, channels: Channels) -> tuple[Labels, str]:
        """Segment a tile."""
        nucleus, wholecell = channels
        shape = next(channel.shape for channel in channels if channel is not None)
        labels = np.zeros((2, *shape), np.uint32)
        compartment, device = self._config.compartment, self._config.device
        if nucleus is not None and (compartment != "whole-cell" or self._cells is None):
            labels[1] = self._eval(self._nuclei, [nucleus], self._diameters[1])
        if self._cells is not None and compartment != "nuclear":
            # the nuclear channel alone, if the whole-cell channel has no contrast
            images = [channel for channel in (wholecell, nucleus) if channel is not None]
            labels[0] = self._eval(self._cells, images, self._diameters[0])
        return labels, torch_device(device)

    def _models(self) -> list[Path]:
        return [path for path in (self._cells, self._nuclei) if path is not None]

    def _eval(self, weights: Path, channels: list[Float32], diameter: float) -> Labels:
        """Run a model on one channel, or on whole cell and nucleus."""
        digest = file_hash(weights, "sha256")
        model = load_once(load_model, weights, self._config.device, content=digest)
        settings = {"diameter": diameter, "normalize": False, **self._eval_options}
        image, numbers = channels[0], [0, 0]
        if len(channels) == 2:
            image, numbers = np.stack(channels, axis=-1), [1, 2]
            settings["channel_axis"] = -1
        if self._major == 3:  # cellpose 4 warns about this argument
            settings["channels"] = numbers
        masks = np.asarray(model.eval(image, **settings)[0])
        if masks.size != channels[0].size or masks.dtype.kind not in "iu":
            raise InputError(
                f"cellpose {package_version('cellpose')} gives masks of {masks.dtype} and "
                f"shape {masks.shape}, expected integers of shape {channels[0].shape}. "
                f"Install a version of cellpose from 3.1 to 4."
            )
        return masks.reshape(channels[0].shape).astype(np.uint32)


def major_version() -> int:
    """Return the major version of cellpose, 3 or 4.

    Raises
    ------
    BackendUnavailable
        If the version is not from 3.1 to 4.
    """
    text = package_version("cellpose")
    match = re.match(r"(\d+)\.(\d+)", text)
    numbers = (int(match[1]), int(match[2])) if match else (0, 0)
    if not (3, 1) <= numbers < (5, 0):
        raise BackendUnavailable(
            f"cellpose {text} is installed, and the backend 'cellpose' needs 3.1 to 4. Run "
            f"pip install 'cellpose>=3.1,<5'."
        )
    return numbers[0]


def cellpose_dir() -> Path:
    """Return the folder of cellpose's models."""
    return Path(os.environ.get(MODELS_DIR) or Path.home() / ".cellpose" / "models")


def weights_of(model: str | Path, major: int) -> Path:
    """Return the path of the weights of a model, given its name or path.

    Raises
    ------
    BackendUnavailable
        If they are not on this machine.
    """
    path = Path(model).expanduser()
    if len(path.parts) < 2 and not path.is_file():
        path = cellpose_dir() / FILES.get(str(model), str(model))
    if path.is_file():
        return path
    argument = "pretrained_model" if major > 3 else "model_type"
    raise BackendUnavailable(
        f"The weights of cellpose's model '{model}' are not on this machine ({path} is "
        f"missing). Let cellpose {major} fetch a model of its own once on a machine with a "
        f'network (python -c "from cellpose.models import CellposeModel; '
        f"CellposeModel({argument}='{model}')\"), and copy the file to {cellpose_dir()}. "
        f"Or set {OPTIONS}.model, {OPTIONS}.nuclei_model to names or paths of existing "
        f"models. Licence: {LICENCES[major]}"
    )


def load_model(weights: Path, device: str) -> Any:
    """Load a model.

    Raises
    ------
    InputError
        If cellpose cannot load it.
    """
    from cellpose.models import CellposeModel

    expected = (
        f"the weights of a model of that version. Fetch it again, or correct "
        f"{OPTIONS}.model, {OPTIONS}.nuclei_model or segmentation.model_path."
    )
    is_gpu = torch_device(device) == "cuda"
    with loading(weights, f"cellpose {package_version('cellpose')}", expected):
        return CellposeModel(gpu=is_gpu, pretrained_model=str(weights))
