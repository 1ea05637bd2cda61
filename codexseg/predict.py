"""Segment one image without a configuration: label images and the table of the cells."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from codexseg.artifacts.manifest import RunManifest, read_manifest
from codexseg.backends.registry import spec_of
from codexseg.config.coerce import as_config
from codexseg.config.fields import image_stem
from codexseg.config.schema import Config, SegmentationConfig
from codexseg.errors import ConfigError, InputError, RunStateError
from codexseg.io.slides.base import COLOURS
from codexseg.io.slides.channels import GREY
from codexseg.pipeline import Pipeline, Result
from codexseg.run.directory import Run

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
"""Option of the command for each configuration key."""

MARKER = ".predict"
"""File in folders that predict creates and may delete."""


@dataclass(frozen=True)
class ImageOptions:
    """Segmentation options of one image.

    Attributes
    ----------
    nucleus : str, optional
        Name of the nuclear channel; in a picture the colour of the nuclei.
    wholecell : tuple of str
        Names of the whole-cell markers; in a picture the colour of the cells.
    mode : {"names", "auto", "L", "RGB"}, optional
        Type of the image, see `channels.mode`; by default "names" with `nucleus`, else
        "auto".
    backend : str, optional
        Name of the backend; by default that of the configuration.
    model : path, optional
        Weights.
    mpp : float, optional
        Micrometres per pixel; by default that of the image.
    panel : path, optional
        Table of channel names.
    diameter : float or "auto", optional
        Diameter of a typical cell, um; "auto" estimates it from the image.
    """

    nucleus: str | None = None
    wholecell: tuple[str, ...] = ()
    mode: str | None = None
    backend: str | None = None
    model: str | Path | None = None
    mpp: float | None = None
    panel: str | Path | None = None
    diameter: float | str | None = None

    def config(self, image: Path) -> Config:
        """Return the configuration of an image, with the outputs of `predict`.

        Raises
        ------
        ConfigError
            If an option is wrong, or the backend takes no weights.
        """
        backend = self.backend or SegmentationConfig().backend
        if self.model is not None and spec_of(backend).weights == "none":
            raise ConfigError(
                f"--model is {self.model}, but backend {backend} takes no weights. Add "
                f"the backend of these weights, such as --backend mesmer or --backend "
                f"panoptic, or omit --model."
            )
        segmentation = {
            "backend": backend,
            "model_path": _absolute(self.model),
            "diameter": _as_number(self.diameter),
        }
        return as_config(
            {
                "data": {
                    "file_name": str(image),
                    "image_mpp": self.mpp,
                    "antibodies_file": _absolute(self.panel),
                },
                "channels": self._channels(),
                "segmentation": {k: v for k, v in segmentation.items() if v is not None},
                "export": {"formats": ["csv", "ome_tiff"]},
            }
        )

    def _channels(self) -> dict[str, Any]:
        """Return the keys of the section channels."""
        mode = self.mode or ("auto" if self.nucleus is None else "names")
        keys: dict[str, Any] = {"mode": mode}
        if mode in ("names", "auto"):
            markers = list(self.wholecell) or None
            names = {"nuclear_channel": self.nucleus, "wholecell_channel": markers}
            keys |= {key: value for key, value in names.items() if value is not None}
        if mode == "names":
            return keys
        if len(self.wholecell) > 1 and mode != "auto":
            raise ConfigError(
                f"--wholecell is {','.join(self.wholecell)}, expected one colour with "
                f"--mode {mode}."
            )
        cell = next(iter(self.wholecell), None)
        for key, colour in (("nucleus", self.nucleus), ("cell", cell)):
            if colour is not None and (mode != "auto" or colour in (*COLOURS, GREY)):
                keys[key] = colour
        return keys


@dataclass(frozen=True)
class Predicted(Result):
    """Result of a prediction.

    Attributes
    ----------
    backend : str
        Name of the backend, with its weights if it has any.
    """

    backend: str = ""


@dataclass(frozen=True)
class Prediction:
    """Prediction of one image, ready to execute.

    Attributes
    ----------
    pipeline : Pipeline
        Pipeline with a run directory in `scratch`.
    out : Path
        Folder of the outputs.
    stem : str
        Prefix of the outputs: ``a.ome.tif`` gives ``a_cells.tif``.
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
        """Labels of the nuclei; a nucleus has the number of its cell."""
        return self.out / f"{self.stem}_nuclei.tif"

    @property
    def table(self) -> Path:
        """Table with one row per cell."""
        return self.out / f"{self.stem}_cells.csv"

    @property
    def scratch(self) -> Path:
        """Folder of intermediate files, beside the outputs."""
        return self.out / f".{self.stem}_predict"

    def execute(self, workers: int | None = None, *, overwrite: bool = False) -> Predicted:
        """Segment and measure the image, or resume an interrupted prediction.

        The scratch folder is deleted at the end. It is kept if patches failed, and the
        next call tries them again.

        Parameters
        ----------
        workers : int, optional
            Number of processes.
        overwrite : bool
            Replace existing outputs, which may be those of another image, or an image.

        Raises
        ------
        ConfigError, InputError, BackendUnavailable
            If image, channels or weights cannot be used, or an output exists; nothing is
            written.
        RunStateError
            If another process predicts this image, or the scratch folder was not made by
            predict.
        """
        self.pipeline.check()  # checks the input before anything is written
        self._check_targets(overwrite=overwrite)
        with _lock_scratch(self.scratch) as is_new:
            try:
                result = self.pipeline.execute(workers=workers, until="export")
            except InputError:  # pixels are checked last, when the folder exists
                if is_new:
                    shutil.rmtree(self.scratch)
                raise
            backend = self._publish(keep_run=bool(result.failed_patches))
        return Predicted(**vars(result), backend=backend)

    def _publish(self, *, keep_run: bool) -> str:
        """Put the outputs of the run in place, and return the name of the backend."""
        run = self.pipeline.out
        backend = _format_backend(read_manifest(self.pipeline.run))
        for source, target in (
            (run / "exports" / "cell.ome.tif", self.cells),
            (run / "exports" / "nucleus.ome.tif", self.nuclei),
            (run / "cells.csv", self.table),
        ):
            if keep_run:
                shutil.copyfile(source, target)
            else:
                source.replace(target)
        if not keep_run:
            shutil.rmtree(self.scratch)
        return backend

    def _check_targets(self, *, overwrite: bool) -> None:
        targets = (self.cells, self.nuclei, self.table)
        folders = [path for path in targets if path.is_dir()]
        present = [path.name for path in targets if path.exists()]
        resumes = (self.scratch / MARKER).exists()
        if folders:
            raise InputError(f"{folders[0]} is a folder. Choose another --out.")
        if present and not (overwrite or resumes):
            raise InputError(
                f"{self.out} already contains {', '.join(present)}. Use --overwrite to "
                f"replace them, or choose another --out."
            )


def prepare(
    image: str | Path, out: str | Path, options: ImageOptions | None = None
) -> Prediction:
    """Prepare the prediction of one image; nothing is written.

    Parameters
    ----------
    image : path
        OME-TIFF, QPTIFF, TIFF or OME-Zarr; png, jpg or bmp.
    out : path
        Folder of the outputs; created if missing.
    options : ImageOptions, optional
        Channels, backend and pixel size.

    Raises
    ------
    ConfigError, InputError
        If an option is wrong, the image is missing or `out` is a file.
    """
    path, folder = Path(image).absolute(), Path(out).absolute()
    if not path.exists():
        raise InputError(
            f"Image {path} not found. Expected an OME-TIFF, QPTIFF, OME-Zarr or a picture."
        )
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file, expected a folder. Choose another --out.")
    config = (options or ImageOptions()).config(path)
    name = image_stem(path)
    # a folder below the scratch folder, which also contains the marker and the lock
    run = folder / f".{name}_predict" / "run"
    return Prediction(Pipeline(config, run, override_mpp=True), folder, name)


def _absolute(path: str | Path | None) -> str | None:
    return None if path is None else str(Path(path).absolute())


def _as_number(text: float | str | None) -> float | str | None:
    """Return the number that a text contains, else the text."""
    try:
        return text if text is None else float(text)
    except ValueError:
        return text


def _format_backend(manifest: RunManifest) -> str:
    """Format the backend of a manifest: name, weights and their path."""
    backend = manifest.result["backend"]
    text = str(backend["name"])
    if backend.get("weights"):
        text += f", weights {backend['weights']}"
    if path := manifest.execution.get("weights_path"):
        text += f" ({path})"
    return text


@contextmanager
def _lock_scratch(folder: Path) -> Iterator[bool]:
    """Lock a scratch folder, created if missing, and yield whether it is new.

    Raises
    ------
    RunStateError
        If another process has locked it, or predict did not create it.
    InputError
        If it cannot be created.
    """
    is_new = not folder.exists()
    if is_new:
        try:
            _create_scratch(folder)
        except OSError as error:
            raise InputError(
                f"{folder.parent} cannot be written ({error.strerror}). Choose a writable "
                f"folder, with another --out."
            ) from error
    if not (folder / MARKER).is_file():
        raise RunStateError(
            f"{folder} was not made by predict, which deletes this folder at the end: it "
            f"has no {MARKER}. Choose another --out, or move the folder away."
        )
    with Run(folder).locked():
        yield is_new


def _create_scratch(folder: Path) -> None:
    """Create a scratch folder and its marker atomically."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".predict-", dir=folder.parent) as name:
        new = Path(name) / "new"
        new.mkdir()
        (new / MARKER).write_text("codexseg predict works here, and deletes this folder.\n")
        try:
            new.rename(folder)
        except OSError:  # another process has created it meanwhile
            if not folder.is_dir():
                raise
