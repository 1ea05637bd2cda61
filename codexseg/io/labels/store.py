"""The label images of a slide, and a coarse picture under them, as one OME-Zarr.

::

    segmentation.ome.zarr/
        0 1 2 ...                  (c, y, x) the two segmentation channels, from coarse on
        labels/cell/0 1 2 ...      (y, x) uint32, from full size on
        labels/nucleus ...

Many processes write at once: each its own windows, and the chunks are such that no two
cores share one, from the full size up to the coarsest level of which a core still fills
some chunks; what is coarser is made of that one, later. Zarr writes a chunk aside and
renames it (from 3.1.3 on; before that, a killed writer may leave half a chunk, which
writing the window again replaces).
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import zarr
from numpy.typing import NDArray

from codexseg.core.grid import Window
from codexseg.errors import InputError, RunStateError
from codexseg.io.labels import ngff
from codexseg.io.labels.chunks import level_chunks, require_whole_chunks

LABEL_NAMES = ("cell", "nucleus", "cell_original", "nucleus_original")

LabelTask = tuple[str, Window]
"""One chunk of one label image: its name, and the window in pixels of its level."""


@dataclass(frozen=True)
class LabelLevel:
    """One level of the pyramid of one label image."""

    store: "LabelStore"
    name: str
    level: int

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width, px of this level."""
        return self.store.shape(self.level)

    def read(self, window: Window) -> NDArray[np.uint32]:
        """Return the labels of a window, in pixels of this level."""
        return self.store.read(self.name, window, self.level)


@dataclass(frozen=True)
class LabelStore:
    """The OME-Zarr of a run. Holds a path and nothing else, so it travels to workers.

    One process calls `create`, `write_image` and `finish`; any number of them `write`
    (windows of whole chunks), `build_level` and `read`.
    """

    path: Path

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
        """Make an empty store, or open the one that is there and keep its chunks.

        Parameters
        ----------
        path : Path
            The folder; it appears complete or not at all.
        shape : (int, int)
            Height and width of the slide, px.
        step : (int, int)
            Height and width of a core, px; a core is written in whole chunks.
        mpp : float
            Micrometres per pixel.
        names : sequence of str
            The label images.
        version : {"0.4", "0.5"}
            Of NGFF.
        overwrite : bool
            Start empty, whatever is there.

        Raises
        ------
        InputError
            Where the version is unknown or the chunks would be too large.
        RunStateError
            Where there is a store of another slide, grid or version.
        """
        if version not in get_args(ngff.Version):
            raise InputError(
                f"NGFF version {version!r} cannot be written; use one of "
                f"{', '.join(get_args(ngff.Version))}."
            )
        chunks = level_chunks(shape, step)
        new, old = (path.with_name(f"{path.name}.{end}") for end in ("new", "old"))
        for leftover in (new, old):
            shutil.rmtree(leftover, ignore_errors=True)
        _write_skeleton(new, shape, chunks, mpp, names, version)
        if path.exists() and not overwrite:
            _require_same(new, path)
            shutil.rmtree(new)
            return cls(path)
        if path.exists():
            path.rename(old)
        new.rename(path)
        shutil.rmtree(old, ignore_errors=True)
        return cls(path)

    @property
    def names(self) -> tuple[str, ...]:
        """The label images, in the order in which viewers list them."""
        return tuple(ngff.read_metadata(self.path / "labels")["labels"])

    @property
    def n_levels(self) -> int:
        """Number of levels of every label image."""
        return len(ngff.level_shapes(self.shape()))

    def shape(self, level: int = 0) -> tuple[int, int]:
        """Height and width of a level, px of this level."""
        height, width = self._array(self.names[0], level).shape
        return int(height), int(width)

    def levels(self, name: str) -> list[LabelLevel]:
        """Return the pyramid of a label image, the full size first."""
        return [LabelLevel(self, name, level) for level in range(self.n_levels)]

    def read(self, name: str, window: Window, level: int = 0) -> NDArray[np.uint32]:
        """Return the labels of any window, in pixels of `level`: (y, x) uint32."""
        return np.asarray(self._array(name, level)[window.slices], dtype=np.uint32)

    def write(
        self, name: str, window: Window, labels: NDArray[np.uint32], levels: int = 0
    ) -> None:
        """Replace the labels of a window of the full size, and of coarser levels.

        A chunk without labels is not stored, and removed where it was. A coarser level
        holds every second pixel of the one below it.

        Parameters
        ----------
        name : str
            The label image.
        window : Window
            Whole chunks, so that no other process writes into the same ones.
        labels : (y, x) uint32
            Of the window's shape.
        levels : int
            How many coarser levels are written too: at most :func:`core_levels`.

        Raises
        ------
        InputError
            Where the window cuts a chunk, or the labels do not fit it.
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
            for part in ngff.blocks(window.shape, array.chunks):
                y0, x0 = window.y0 + part.y0, window.x0 + part.x0
                chunk = Window(y0, x0, y0 + part.shape[0], x0 + part.shape[1])
                self._write_chunk(name, level, chunk, labels[part.slices])

    def level_tasks(self, level: int) -> list[LabelTask]:
        """Return what `build_level` has to be called with to fill a level (1 or more)."""
        names = self.names
        array = self._array(names[0], level)
        windows = list(ngff.blocks(array.shape, array.chunks))
        return [(name, window) for name in names for window in windows]

    def build_level(self, level: int, task: LabelTask) -> None:
        """Fill one chunk of a level with every second pixel of the level below it.

        The tasks of a level may run in any order and at the same time, once the level
        below is complete.
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
        *,
        origin_px: float | None = None,
    ) -> None:
        """Write the picture under the labels, with coarser levels of itself.

        Parameters
        ----------
        overview : (c, y, x), any integer or float dtype
            The slide's segmentation channels, made smaller; read block by block.
        factor : int
            Pixels of the slide, along one axis, in a pixel of `overview`.
        channel_names : sequence of str
            One per channel.
        mpp : float
            Micrometres per pixel of the slide.
        origin_px : float, optional
            Where the centre of the first pixel of `overview` lies from that of the
            slide, px of the slide. The default is that of block means,
            (factor - 1) / 2; where every n-th pixel was taken it is 0.

        Raises
        ------
        InputError
            Where the count of names is not that of the channels.
        """
        if len(overview.shape) != 3 or overview.shape[0] != len(channel_names):
            raise InputError(
                f"an overview is (c, y, x) with one name per channel, got shape "
                f"{overview.shape} and the names {list(channel_names)}."
            )
        version = ngff.version_of(self.path)
        arrays = ngff.write_image_levels(self.path, version, overview)
        first = (factor - 1) / 2 if origin_px is None else origin_px
        scales = [mpp * factor * 2**k for k in range(len(arrays))]
        origins = [mpp * (first + factor * (2**k - 1) / 2) for k in range(len(arrays))]
        metadata: dict[str, Any] = {
            "multiscales": ngff.multiscales("image", "cyx", scales, origins, "local mean"),
            "omero": ngff.omero(arrays[-1][:], channel_names),
        }
        ngff.write_metadata(self.path, version, metadata)

    def finish(self) -> None:
        """Remove what killed writers left beside the chunks; nobody may be writing."""
        for leftover in self.path.rglob("*.partial"):
            leftover.unlink(missing_ok=True)

    def _array(self, name: str, level: int) -> Any:
        folder = self.path / "labels" / name / str(level)
        for document in (".zarray", "zarr.json"):
            if (folder / document).exists():
                stamp = (folder / document).stat()
                return _open(folder, (stamp.st_ino, stamp.st_mtime_ns))
        raise RunStateError(
            f"{self.path} holds no level {level} of a label image {name!r}; run the stage "
            f"that writes it first."
        )

    def _write_chunk(
        self, name: str, level: int, window: Window, labels: NDArray[np.uint32]
    ) -> None:
        # The check for empty chunks is ours: zarr's costs as much as the compression.
        array = self._array(name, level)
        if labels.any():
            array[window.slices] = labels
            return
        place = window.y0 // array.chunks[0], window.x0 // array.chunks[1]
        key = array.metadata.encode_chunk_key(place)
        (self.path / "labels" / name / str(level) / key).unlink(missing_ok=True)


@lru_cache(maxsize=64)
def _open(folder: Path, _stamp: tuple[int, int]) -> Any:
    """Open an array once per process; the stamp tells one that was made anew."""
    with zarr.config.set({"array.write_empty_chunks": True}):
        return zarr.open_array(folder, mode="r+")


def _write_skeleton(
    path: Path,
    shape: tuple[int, int],
    chunks: Sequence[tuple[int, int]],
    mpp: float,
    names: Sequence[str],
    version: ngff.Version,
) -> None:
    """Write the groups and empty arrays of the labels, with their metadata."""
    for group in (path, path / "labels"):
        ngff.create_group(group, version)
    ngff.write_metadata(path / "labels", version, {"labels": list(names)})
    shapes = ngff.level_shapes(shape)
    scales = [mpp * 2**k for k in range(len(shapes))]
    origins = [0.0] * len(shapes)  # every second pixel is taken, so the first one stays
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
        ngff.write_metadata(folder, version, metadata)


def _require_same(new: Path, path: Path) -> None:
    """Compare what two stores say of their labels."""
    for name in (".zattrs", ".zarray", "zarr.json"):
        for document in sorted((new / "labels").rglob(name)):
            there = path / document.relative_to(new)
            if not there.exists() or _essence(there) != _essence(document):
                raise RunStateError(
                    f"{path} was made for another slide, grid, pixel size or NGFF "
                    f"version ({there.relative_to(path)} differs); do the stage again "
                    f"with --force, or choose another --out."
                )


def _essence(document: Path) -> dict[str, Any]:
    """Return what a document of Zarr says, but for what another zarr may say otherwise."""
    content: dict[str, Any] = json.loads(document.read_bytes())
    if document.name == ".zattrs":
        return content
    keys = ("shape", "chunks", "chunk_grid", "attributes")
    return {key: content.get(key) for key in keys}
