"""One image, no configuration: labels of cells and nuclei, and the table of the cells."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from codexseg.config.coerce import as_config
from codexseg.config.fields import image_stem
from codexseg.config.schema import OWN_WEIGHTS
from codexseg.errors import ConfigError, InputError, RunStateError
from codexseg.pipeline import Pipeline, Result
from codexseg.run.directory import Run
from codexseg.stages.channels import COLOURS, GREY

OPTIONS = {
    "channels.nuclear_channel": "--nucleus",
    "channels.wholecell_channel": "--wholecell",
    "channels.nucleus": "--nucleus",
    "channels.cell": "--wholecell",
    "channels.mode": "--mode",
    "data.image_mpp": "--mpp",
    "data.antibodies_file": "--panel",
    "segmentation.backend": "--backend",
    "segmentation.model_path": "--model",
    "segmentation.diameter": "--diameter",
}
"""Which option of the command stands for a key of the configuration."""

MARKER = ".predict"
"""The file that says of a folder that predict made it, and may remove it."""


@dataclass(frozen=True)
class Predicted(Result):
    """What there is to show, and what made it.

    Attributes
    ----------
    backend : str
        The backend, and its weights if it has some.
    """

    backend: str = ""


@dataclass(frozen=True)
class Prediction:
    """What :meth:`Prediction.execute` does for one image.

    Attributes
    ----------
    pipeline : Pipeline
        Does the work, in a run directory of its own in `scratch`.
    out : Path
        Where the outputs go.
    stem : str
        What they are called after: ``a.ome.tif`` gives ``a_cells.tif``.
    """

    pipeline: Pipeline
    out: Path
    stem: str

    @property
    def cells(self) -> Path:
        """Labels of the cells, (y, x) uint32 OME-TIFF."""
        return self.out / f"{self.stem}_cells.tif"

    @property
    def nuclei(self) -> Path:
        """Labels of the nuclei; a nucleus has its cell's number."""
        return self.out / f"{self.stem}_nuclei.tif"

    @property
    def table(self) -> Path:
        """One row per cell."""
        return self.out / f"{self.stem}_cells.csv"

    @property
    def scratch(self) -> Path:
        """The folder, beside the outputs, in which the work is done."""
        return self.out / f".{self.stem}_predict"

    def execute(self, workers: int | None = None, *, overwrite: bool = False) -> Predicted:
        """Segment and measure; running it again goes on where it was stopped.

        The scratch folder goes once all is done. Where patches failed it stays, and the
        next call does them again.

        Parameters
        ----------
        workers : int, optional
            Processes.
        overwrite : bool
            Replace files that have the names of the outputs: they may be those of
            another image, or an image themselves.

        Raises
        ------
        ConfigError, InputError, BackendUnavailable
            If image, channels or weights cannot be used, or an output is there already;
            nothing was written.
        RunStateError
            If another process predicts this image, or the scratch folder is somebody
            else's; it is left as it is.
        """
        self.pipeline.source()  # what is wrong is said before anything is made
        self._check_targets(overwrite=overwrite)
        with _claimed(self.scratch) as is_new:
            try:
                result = self.pipeline.execute(workers=workers, until="export")
            except InputError:  # of pixels, which are looked at last
                if is_new:
                    shutil.rmtree(self.scratch)
                raise
            run = self.pipeline.out
            backend = _words(self.pipeline.run.read_manifest().get("backend", {}))
            for source, target in (
                (run / "exports" / "cell.ome.tif", self.cells),
                (run / "exports" / "nucleus.ome.tif", self.nuclei),
                (run / "cells.csv", self.table),
            ):
                if result.failed_patches:
                    shutil.copyfile(source, target)
                else:
                    source.replace(target)
            if not result.failed_patches:
                shutil.rmtree(self.scratch)
        return Predicted(**vars(result), backend=backend)

    def _check_targets(self, *, overwrite: bool) -> None:
        targets = (self.cells, self.nuclei, self.table)
        folders = [path for path in targets if path.is_dir()]
        present = [path.name for path in targets if path.exists()]
        goes_on = (self.scratch / MARKER).exists()
        if folders:
            raise InputError(f"{folders[0]} is a folder: choose another --out.")
        if present and not (overwrite or goes_on):
            raise InputError(
                f"{self.out} holds {', '.join(present)} already, expected no file of that "
                f"name: replace what is there with --overwrite, or choose another --out."
            )


def prepare(
    image: str | Path,
    *,
    nucleus: str | None = None,
    wholecell: Sequence[str] = (),
    out: str | Path,
    mode: str | None = None,
    backend: str | None = None,
    model_path: str | Path | None = None,
    mpp: float | None = None,
    panel: str | Path | None = None,
    diameter: float | str | None = None,
) -> Prediction:
    """Say what is to be done with one image.

    Parameters
    ----------
    image : path
        OME-TIFF, qptiff, TIFF or OME-Zarr; png, jpg or bmp.
    nucleus : str, optional
        Name of the nuclear channel; of a picture the colour that shows nuclei.
    wholecell : sequence of str
        Names of the whole-cell markers; of a picture the colour that shows cells.
    out : path
        Folder of the outputs; made where it is missing.
    mode : {"names", "auto", "L", "RGB"}, optional
        What the channels are, as `channels.mode`; by default "names" where `nucleus` is
        given, else "auto".
    backend : str, optional
        The default backend where not given.
    model_path : path, optional
        Weights.
    mpp : float, optional
        Micrometres per pixel; where not given, the image says it.
    panel : path, optional
        Table of channel names.
    diameter : float or "auto", optional
        Diameter of a typical cell, um; "auto": found from the image.

    Raises
    ------
    ConfigError, InputError
        If something of it is wrong, such as weights for a backend that has none.
    """
    path, folder = Path(image).absolute(), Path(out).absolute()
    if not path.exists():
        raise InputError(
            f"there is no image {path}, expected an OME-TIFF, a qptiff, an OME-Zarr, or a "
            f"picture."
        )
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file, expected a folder; choose another --out.")
    segmentation = {
        "backend": backend,
        "model_path": None if model_path is None else str(Path(model_path).absolute()),
        "diameter": _number(diameter),
    }
    settings = as_config(
        {
            "data": {
                "file_name": str(path),
                "image_mpp": mpp,
                "antibodies_file": None if panel is None else str(Path(panel).absolute()),
            },
            "channels": _channels(mode, nucleus, wholecell),
            "segmentation": {k: v for k, v in segmentation.items() if v is not None},
            "export": {"formats": ["csv", "ome_tiff"]},
        }
    )
    backend_name = settings.segmentation.backend
    if model_path is not None and backend_name in OWN_WEIGHTS:
        raise ConfigError(
            f"--model {model_path} is given, and the backend is {backend_name}, which "
            f"takes none: add the backend that these weights are for, --backend mesmer or "
            f"--backend panoptic for instance, or leave --model away."
        )
    name = image_stem(path)
    # below the scratch folder: what is not of the run has a place beside it
    run = folder / f".{name}_predict" / "run"
    return Prediction(Pipeline(settings, run, trusts_config_mpp=True), folder, name)


def _channels(
    mode: str | None, nucleus: str | None, wholecell: Sequence[str]
) -> dict[str, Any]:
    """Return the section of the configuration that the options stand for."""
    mode = mode or ("auto" if nucleus is None else "names")
    keys: dict[str, Any] = {"mode": mode}
    if mode in ("names", "auto"):
        named = {"nuclear_channel": nucleus, "wholecell_channel": list(wholecell) or None}
        keys |= {key: value for key, value in named.items() if value is not None}
    if mode != "names":
        colours = (*COLOURS, GREY)
        if len(wholecell) > 1 and mode != "auto":
            raise ConfigError(
                f"--wholecell {','.join(wholecell)}: expected one colour with "
                f"--mode {mode}."
            )
        for key, colour in (("nucleus", nucleus), ("cell", next(iter(wholecell), None))):
            if colour is not None and (mode != "auto" or colour in colours):
                keys[key] = colour
    return keys


def _number(text: float | str | None) -> float | str | None:
    """Return the number that a text is, else the text."""
    try:
        return text if text is None else float(text)
    except ValueError:
        return text


def _words(backend: Mapping[str, Any]) -> str:
    """Say what the manifest of a run says of its backend."""
    words = str(backend.get("name", ""))
    if backend.get("weights"):
        words += f", weights {backend['weights']}"
    if backend.get("weights_path"):
        words += f" ({backend['weights_path']})"
    return words


@contextmanager
def _claimed(folder: Path) -> Iterator[bool]:
    """Hold a scratch folder for this process; make it where it is missing, and say so.

    Raises
    ------
    RunStateError
        If another process holds it, or predict did not make it.
    InputError
        If it cannot be made.
    """
    is_new = not folder.exists()
    if is_new:
        try:
            _make(folder)
        except OSError as error:
            raise InputError(
                f"{folder.parent} cannot be written ({error.strerror}), expected a "
                f"writable place; choose another --out."
            ) from error
    if not (folder / MARKER).is_file():
        raise RunStateError(
            f"{folder} was not made by predict (it holds no {MARKER}), which works there "
            f"and removes it when it is done: choose another --out, or move it away."
        )
    with Run(folder).locked():
        yield is_new


def _make(folder: Path) -> None:
    """Make a scratch folder; it appears with its marker or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".predict-", dir=folder.parent) as name:
        new = Path(name) / "new"
        new.mkdir()
        (new / MARKER).write_text("codexseg predict works here, and removes this folder.\n")
        try:
            new.rename(folder)
        except OSError:  # another predict has made it meanwhile
            if not folder.is_dir():
                raise
