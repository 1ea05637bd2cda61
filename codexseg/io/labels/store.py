"""Label images of a slide over a coarse picture of it, as one OME-Zarr.

::

    segmentation.ome.zarr/
        0 1 2 ...                  (c, y, x) the two segmentation channels, coarse
        labels/cell/0 1 2 ...      (y, x) uint32, full resolution first
        labels/nucleus ...

Many processes write at the same time, each its own windows. Chunks divide the cores of
the grid, so that no two cores share a chunk, on every level on which a core still fills
whole chunks. Coarser levels are built afterwards. Zarr writes a chunk aside and renames
it (since version 3.1.3; with earlier versions a killed writer may leave half a chunk,
which the next write of the window replaces).
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import zarr

from codexseg.arrays import Labels
from codexseg.core.grid import Window
from codexseg.errors import InputError, RunStateError
from codexseg.io.labels import ngff
from codexseg.io.labels.chunks import level_chunks, require_whole_chunks
from codexseg.io.slides.ome_zarr import ngff_metadata

LABEL_NAMES = ("cell", "nucleus", "cell_original", "nucleus_original")

LabelTask = tuple[str, Window]
"""One chunk of one label image: name and window, px of the level."""

_DOCUMENTS = (".zarray", "zarr.json")


@dataclass(frozen=True)
class LabelLevel:
    """One pyramid level of one label image."""

    store: "LabelStore"
    name: str
    level: int

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width, px of this level."""
        return self.store.shape(self.level)

    def read(self, window: Window) -> Labels:
        """Return the labels in a window, px of this level."""
        return self.store.read(self.name, window, self.level)


@dataclass(frozen=True)
class LabelStore:
    """Whole-slide label images of a run, as OME-Zarr.

    One process calls `create`, `clear`, `write_image` and `finish`. Any number of
    processes call `write` (windows of whole chunks), `build_level` and `read`. Only the
    path is pickled; each object opens an array once.
    """

    path: Path
    _arrays: dict[tuple[str, int], tuple[tuple[int, int], Any]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __reduce__(self) -> tuple[type["LabelStore"], tuple[Path]]:
        return LabelStore, (self.path,)

    @classmethod
    def create(
        cls,
        path: Path,
        shape: tuple[int, int],
        step: tuple[int, int],
        mpp: float,
        names: Sequence[str] = LABEL_NAMES,
        version: ngff.Version = "0.4",
        *,
        overwrite: bool = False,
    ) -> "LabelStore":
        """Create an empty store, or open an existing one and keep its chunks.

        Parameters
        ----------
        path : Path
            Folder of the store; it appears complete or not at all.
        shape : (int, int)
            Height and width of the slide, px.
        step : (int, int)
            Height and width of a core, px; cores are written in whole chunks.
        mpp : float
            Micrometres per pixel.
        names : sequence of str
            Names of the label images.
        version : {"0.4", "0.5"}
            NGFF version.
        overwrite : bool
            Start with an empty store even if one exists.

        Raises
        ------
        InputError
            If the version is unknown or the chunks would be too large.
        RunStateError
            If the existing store has another slide, grid or version.
        """
        if version not in get_args(ngff.Version):
            raise InputError(
                f"Unsupported NGFF version {version!r}. Use one of "
                f"{', '.join(get_args(ngff.Version))}."
            )
        new, old = (path.with_name(f"{path.name}.{end}") for end in ("new", "old"))
        shutil.rmtree(old, ignore_errors=True)
        _write_skeleton(new, shape, step, mpp, names, version)
        if path.exists() and not overwrite:
            _require_same(new, path)
            shutil.rmtree(new)
            return cls(path)
        if path.exists():
            path.rename(old)
        new.rename(path)
        shutil.rmtree(old, ignore_errors=True)
        return cls(path)

    def check(self, names: Sequence[str]) -> None:
        """Open every level of label images.

        Raises
        ------
        RunStateError
            If a level is missing or its metadata are damaged.
        """
        levels = len(ngff.level_shapes(self._array(self.names[-1], 0).shape))
        for name in names:
            for level in range(levels):
                try:
                    self._array(name, level)
                except (OSError, ValueError, KeyError) as error:
                    folder = self.path / "labels" / name / str(level)
                    raise RunStateError(f"{folder} is damaged ({error}).") from error

    def restore(
        self,
        names: Sequence[str],
        shape: tuple[int, int],
        step: tuple[int, int],
        mpp: float,
        version: ngff.Version,
    ) -> None:
        """Replace label images by empty ones; see `create` for the parameters."""
        new = self.path.with_name(f"{self.path.name}.new")
        _write_skeleton(new, shape, step, mpp, names, version)
        for name in names:
            folder = self.path / "labels" / name
            shutil.rmtree(folder, ignore_errors=True)
            (new / "labels" / name).rename(folder)
        shutil.rmtree(new)

    def clear(self, names: Sequence[str]) -> None:
        """Remove all labels of the named label images; keep their metadata.

        Afterwards these label images are as `create` made them. No other process may be
        writing them.

        Raises
        ------
        RunStateError
            If a label image does not exist.
        """
        for name in names:
            for level in range(self.n_levels):
                for chunk in self._level_folder(name, level).iterdir():
                    if chunk.is_dir():
                        shutil.rmtree(chunk)

    def files(self, names: Sequence[str]) -> list[str]:
        """List the files of the named label images, metadata and chunks.

        Returns
        -------
        list of str
            Paths relative to the store, with forward slashes, sorted.

        Raises
        ------
        RunStateError
            If a label image does not exist.
        """
        folders = [self._level_folder(name, 0).parent for name in names]
        return sorted(
            path.relative_to(self.path).as_posix()
            for folder in folders
            for path in folder.rglob("*")
            if path.is_file()
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the label images, in the order in which viewers list them."""
        group = zarr.open_group(self.path / "labels", mode="r")
        return tuple(ngff_metadata(group)["labels"])

    @property
    def n_levels(self) -> int:
        """Number of pyramid levels of every label image."""
        return len(ngff.level_shapes(self.shape()))

    def shape(self, level: int = 0) -> tuple[int, int]:
        """Height and width of a level, px of this level."""
        height, width = self._array(self.names[0], level).shape
        return int(height), int(width)

    def levels(self, name: str) -> list[LabelLevel]:
        """Return the pyramid levels of a label image, full resolution first."""
        return [LabelLevel(self, name, level) for level in range(self.n_levels)]

    def read(self, name: str, window: Window, level: int = 0) -> Labels:
        """Return the labels in any window, px of `level`: (y, x) uint32."""
        return np.asarray(self._array(name, level)[window.slices], dtype=np.uint32)

    def write(self, name: str, window: Window, labels: Labels, levels: int = 0) -> None:
        """Replace the labels in a window at full resolution and on coarser levels.

        Chunks without labels are not stored; existing ones are removed. A coarser level
        consists of every second pixel of the next finer one.

        Parameters
        ----------
        name : str
            Name of the label image.
        window : Window
            Whole chunks, so that no other process writes into the same ones.
        labels : (y, x) uint32
            Labels in the window.
        levels : int
            Number of coarser levels to write, at most :func:`core_levels`.

        Raises
        ------
        InputError
            If the window cuts a chunk or the labels do not fit the window.
        """
        if labels.shape != window.shape or labels.dtype != np.uint32:
            raise InputError(
                f"{window} takes uint32 labels of shape {window.shape}, got "
                f"{labels.dtype} of shape {labels.shape}."
            )
        for level in range(levels + 1):
            if level:
                labels = np.ascontiguousarray(labels[::2, ::2])
                y0, x0 = window.y0 // 2, window.x0 // 2
                window = Window(y0, x0, y0 + labels.shape[0], x0 + labels.shape[1])
            array = self._array(name, level)
            require_whole_chunks(window, array.shape, array.chunks)
            for block in ngff.blocks(window.shape, array.chunks):
                y0, x0 = window.y0 + block.y0, window.x0 + block.x0
                chunk = Window(y0, x0, y0 + block.shape[0], x0 + block.shape[1])
                self._write_chunk(name, level, chunk, labels[block.slices])

    def level_tasks(
        self, level: int, names: Sequence[str] | None = None
    ) -> list[LabelTask]:
        """Return the arguments of the `build_level` calls that fill a level (1 or more).

        Parameters
        ----------
        level : int
            The pyramid level.
        names : sequence of str, optional
            Label images to build; all by default.
        """
        names = self.names if names is None else names
        array = self._array(self.names[0], level)
        windows = list(ngff.blocks(array.shape, array.chunks))
        return [(name, window) for name in names for window in windows]

    def build_level(self, level: int, task: LabelTask) -> None:
        """Fill one chunk of a level with every second pixel of the next finer level.

        The tasks of a level may run in any order and at the same time, once the finer
        level is complete.
        """
        name, window = task
        rows, columns = (slice(2 * s.start, 2 * s.stop, 2) for s in window.slices)
        self._write_chunk(name, level, window, self._array(name, level - 1)[rows, columns])

    def write_image(
        self,
        overview: ngff.Overview,
        factor: int,
        channel_names: Sequence[str],
        mpp: float,
    ) -> None:
        """Write the picture under the labels as a pyramid.

        Parameters
        ----------
        overview : (c, y, x), any integer or float dtype
            Segmentation channels of the slide, downsampled; read block by block.
        factor : int
            Downsampling factor of `overview`, which consists of block means.
        channel_names : sequence of str
            One name per channel.
        mpp : float
            Micrometres per pixel of the slide.

        Raises
        ------
        InputError
            If the number of names differs from the number of channels.
        """
        if len(overview.shape) != 3 or overview.shape[0] != len(channel_names):
            raise InputError(
                f"An overview is (c, y, x) with one name per channel, got shape "
                f"{overview.shape} and the names {list(channel_names)}."
            )
        version = ngff.detect_version(self.path)
        arrays = ngff.write_image_levels(self.path, version, overview)
        first = (factor - 1) / 2  # centre of the first block of pixels
        scales = [mpp * factor * 2**k for k in range(len(arrays))]
        origins = [mpp * (first + factor * (2**k - 1) / 2) for k in range(len(arrays))]
        metadata: dict[str, Any] = {
            "multiscales": ngff.multiscales("image", "cyx", scales, origins, "local mean"),
            "omero": ngff.omero(arrays[-1][:], channel_names),
        }
        ngff.write_group_metadata(self.path, version, metadata)

    def finish(self) -> None:
        """Remove partial files that killed writers left; no process may be writing."""
        for leftover in self.path.rglob("*.partial"):
            leftover.unlink(missing_ok=True)

    def _level_folder(self, name: str, level: int) -> Path:
        return self._document(name, level).parent

    def _document(self, name: str, level: int) -> Path:
        """Return the metadata file of a level."""
        folder = self.path / "labels" / name / str(level)
        for document in _DOCUMENTS:
            if (folder / document).exists():
                return folder / document
        raise RunStateError(
            f"{self.path} has no level {level} of a label image {name!r}. Run the stage "
            f"that writes it first."
        )

    def _array(self, name: str, level: int) -> Any:
        """Return the array of a level, reopened if it was created anew."""
        document = self._document(name, level)
        stat = document.stat()
        stamp = stat.st_ino, stat.st_mtime_ns
        opened = self._arrays.get((name, level))
        if opened is None or opened[0] != stamp:
            with zarr.config.set({"array.write_empty_chunks": True}):
                opened = stamp, zarr.open_array(document.parent, mode="r+")
            self._arrays[name, level] = opened
        return opened[1]

    def _write_chunk(self, name: str, level: int, window: Window, labels: Labels) -> None:
        # The check for empty chunks is ours: zarr's costs as much as the compression.
        array = self._array(name, level)
        if labels.any():
            array[window.slices] = labels
            return
        row, column = window.y0 // array.chunks[0], window.x0 // array.chunks[1]
        key = array.metadata.encode_chunk_key((row, column))
        (self.path / "labels" / name / str(level) / key).unlink(missing_ok=True)


def _write_skeleton(
    path: Path,
    shape: tuple[int, int],
    step: tuple[int, int],
    mpp: float,
    names: Sequence[str],
    version: ngff.Version,
) -> None:
    """Write groups and empty arrays of the labels, with their metadata."""
    chunks = level_chunks(shape, step)
    shutil.rmtree(path, ignore_errors=True)
    for group in (path, path / "labels"):
        ngff.create_group(group, version)
    ngff.write_group_metadata(path / "labels", version, {"labels": list(names)})
    shapes = ngff.level_shapes(shape)
    scales = [mpp * 2**k for k in range(len(shapes))]
    origins = [0.0] * len(shapes)  # every level keeps the first pixel of the finer one
    for name in names:
        folder = path / "labels" / name
        ngff.create_group(folder, version)
        for k, size in enumerate(shapes):
            array = folder / str(k)
            ngff.create_array(array, version, size, chunks[k], np.dtype(np.uint32))
        metadata: dict[str, Any] = {
            "multiscales": ngff.multiscales(name, "yx", scales, origins, "nearest"),
            "image-label": {"source": {"image": "../../"}},
        }
        ngff.write_group_metadata(folder, version, metadata)


def _require_same(new: Path, path: Path) -> None:
    """Raise RunStateError if the labels of two stores have different metadata."""
    for name in (".zattrs", *_DOCUMENTS):
        for document in sorted((new / "labels").rglob(name)):
            existing = path / document.relative_to(new)
            if not existing.exists() or _essence(existing) != _essence(document):
                raise RunStateError(
                    f"{path} belongs to another slide, grid, pixel size or NGFF version "
                    f"({existing.relative_to(path)} differs). Repeat the stage with "
                    f"--force, or choose another --out."
                )


def _essence(document: Path) -> dict[str, Any]:
    """Return the metadata that do not depend on the version of zarr."""
    content: dict[str, Any] = json.loads(document.read_bytes())
    if document.name == ".zattrs":
        return content
    keys = ("shape", "chunks", "chunk_grid", "attributes")
    return {key: content.get(key) for key in keys}
