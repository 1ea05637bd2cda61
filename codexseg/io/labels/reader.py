"""Label images and probability maps in files, read window by window.

TIFF, npy and Zarr files are read lazily, PNG and npz files as a whole. Damaged data raise
an error instead of becoming background.
"""

import warnings
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from codexseg.arrays import Pixels
from codexseg.core.grid import Window
from codexseg.core.labels.operations import as_labels
from codexseg.errors import InputError
from codexseg.io.slides.base import READER_ERRORS, error_text
from codexseg.io.slides.ome_zarr import ngff_metadata, read_checked

SUFFIXES = (".tif", ".tiff", ".png", ".npy")
"""Suffixes of label images; other files in a folder are ignored."""

_ARRAYS = (".npy", ".npz")
_GREY_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")


@dataclass(frozen=True)
class LabelFile:
    """Location of a label image.

    Attributes
    ----------
    name : str
        Name for pairing and listing: the file's name without suffixes and without a final
        _masks, _labels, _mask or _label.
    path : Path
        The file, or the Zarr folder of the image.
    key : str
        Name of the array, for npz.
    index : int or None
        Index in a stack (n, y, x), for npy and npz.
    """

    name: str
    path: Path
    key: str = ""
    index: int | None = None

    def __str__(self) -> str:
        key = f":{self.key}" if self.key else ""
        return f"{self.path}{key}" + (f"[{self.index}]" if self.index is not None else "")


@dataclass(frozen=True)
class LabelImage:
    """An open label image or probability map.

    Attributes
    ----------
    title : str
        Name in messages.
    array : array
        numpy or zarr array; the last two axes are y and x, the others have length 1.
    """

    title: str
    array: Any

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width, px."""
        height, width = self.array.shape[-2:]
        return int(height), int(width)

    @property
    def is_probability(self) -> bool:
        """Whether the values are floating-point numbers."""
        return bool(self.array.dtype.kind == "f")

    @property
    def in_strips(self) -> bool:
        """Whether its chunks extend over the whole width."""
        chunks = getattr(self.array, "chunks", None)
        return chunks is not None and chunks[-1] >= self.shape[1] > chunks[-2]

    def read(self, window: Window, step: int = 1) -> Pixels:
        """Read a window, or every `step`-th pixel of it.

        Returns
        -------
        (y, x) array
            uint32 labels, or unchanged float probabilities.

        Raises
        ------
        InputError
            If the file is damaged there, or the values are no labels.
        """
        lead = (0,) * (self.array.ndim - 2)
        rows, columns = window.slices
        with _readable(self.title):
            pixels = np.array(self.array[(*lead, rows, columns)])[::step, ::step]
        if self.is_probability:
            return pixels
        if pixels.dtype == np.bool_:
            pixels = pixels.astype(np.uint8)
        return as_labels(pixels, self.title)


@contextmanager
def open_labels(file: LabelFile) -> Iterator[LabelImage]:
    """Open a label image for reading inside a `with` block.

    Raises
    ------
    InputError
        If it cannot be read or is not a single plane.
    """
    with ExitStack() as stack:
        with _readable(str(file)):
            array = _open(file, stack)
        if array.ndim < 2 or any(n != 1 for n in array.shape[:-2]) or 0 in array.shape:
            raise InputError(
                f"{file} has shape {tuple(array.shape)}, expected one plane (y, x). Pass "
                f"a label image instead of an image with several channels."
            )
        yield LabelImage(str(file), array)


def stack_length(file: LabelFile) -> int | None:
    """Return the length of an npy or npz stack (n, y, x); None for other files."""
    if file.path.suffix.lower() not in _ARRAYS:
        return None
    with _readable(str(file)):
        shape = _read_array(file).shape
    return int(shape[0]) if len(shape) == 3 and shape[0] > 1 else None


@contextmanager
def _readable(title: str) -> Iterator[None]:
    """Convert the errors of reading libraries to InputError."""
    try:
        yield
    except InputError:
        raise
    except (*READER_ERRORS, zipfile.BadZipFile) as error:
        raise InputError(
            f"{title} cannot be read ({error_text(error)}). It is damaged or not a label "
            f"image. Copy or export it again."
        ) from error


def _open(file: LabelFile, stack: ExitStack) -> Any:
    """Open a file by its type; raise one of `READER_ERRORS`."""
    path = file.path
    if path.is_dir():
        return _open_zarr(path)
    suffix = path.suffix.lower()
    if suffix in _ARRAYS:
        array = _read_array(file)
        return array if file.index is None else array[file.index]
    if suffix == ".png":
        return _read_png(path)
    if suffix in (".tif", ".tiff"):
        return _open_tiff(path, stack)
    raise InputError(
        f"Unsupported file type: {path}. Expected {', '.join(SUFFIXES)}, file.npz:key, or "
        f"a Zarr folder."
    )


def _open_zarr(path: Path) -> Any:
    import zarr

    node: Any = zarr.open(path, mode="r")
    if isinstance(node, zarr.Array):
        return _Checked(node)
    multiscales = ngff_metadata(node).get("multiscales")
    if not multiscales:
        raise InputError(
            f"{path} is a Zarr group without an image. Pass the folder of a label image, "
            f"such as RUN/segmentation.ome.zarr/labels/cell."
        )
    return _Checked(node[multiscales[0]["datasets"][0]["path"]])


class _Checked:
    """Zarr array that raises for truncated chunks, which Blosc does not detect."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self.shape, self.ndim, self.dtype = array.shape, array.ndim, array.dtype
        self.chunks = array.chunks

    def __getitem__(self, index: tuple[Any, ...]) -> Any:
        return read_checked(self._array, index)


def _open_tiff(path: Path, stack: ExitStack) -> Any:
    import tifffile
    import zarr

    try:
        tif = stack.enter_context(tifffile.TiffFile(path))
        if len(tif.series) != 1:
            raise InputError(
                f"{path} contains {len(tif.series)} images, expected one label image."
            )
        series = tif.series[0]
        if series.dataoffset is not None:  # contiguous: no need to decode
            dtype = series.dtype.newbyteorder(tif.byteorder)
            return np.memmap(path, dtype, "r", series.dataoffset, series.shape)
        store = series.aszarr(level=0)
        stack.callback(store.close)
        return zarr.open_array(store, mode="r")
    except tifffile.TiffFileError as error:  # no builtin type in older releases
        raise ValueError(str(error)) from error


def _read_array(file: LabelFile) -> Pixels:
    if file.path.suffix.lower() == ".npz":
        return _read_npz(file.path, file.key, file.path.stat().st_mtime_ns)
    array: Pixels = np.load(file.path, mmap_mode="r", allow_pickle=False)
    return array


@lru_cache(maxsize=2)  # a stack is read once, not for each of its images
def _read_npz(path: Path, key: str, _stamp: int) -> Pixels:
    with np.load(path, allow_pickle=False) as arrays:
        if key not in arrays:
            raise InputError(
                f"{path} has no array {key!r}. Pass {path}:KEY with one of the keys "
                f"{', '.join(arrays.files)}."
            )
        array: Pixels = arrays[key]
        return array


def _read_png(path: Path) -> Pixels:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if image.mode not in _GREY_MODES:
                    raise InputError(
                        f"{path} is a colour picture ({image.mode}). Expected labels: one "
                        f"grey value or palette index per object."
                    )
                return np.asarray(image)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise InputError(
            f"{path} is too large for a PNG ({error}). Convert it to TIFF, which is read "
            f"lazily."
        ) from error
