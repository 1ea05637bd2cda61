"""Images and labels in folders, zips and npz files: PNG, TIFF and OME-TIFF.

Files are listed first and read on demand, so a folder may be larger than memory. Shape and
dtype come from the header, without reading pixels.
"""

import io
import re
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np

from codexseg.arrays import Labels, Pixels
from codexseg.core.labels.operations import as_labels
from codexseg.errors import InputError
from codexseg.io.slides.base import READER_ERRORS, error_text

SUFFIXES = (".png", ".tif", ".tiff")
_LABEL_WORD = re.compile(r"(?<=.)_(masks?|labels?)$", re.IGNORECASE)
_COLOUR_BANDS = {"LA": 1, "RGB": 3, "RGBA": 3, "CMYK": 3, "YCbCr": 3}
_MAX_COLOURS = 4
_MAX_LISTED = 5


@dataclass(frozen=True)
class NpzArray:
    """Array of an npz file, read on first use and shared by the images in it."""

    path: Path
    key: str

    @cached_property
    def values(self) -> Pixels:
        """The whole array."""
        with np.load(self.path, allow_pickle=False) as arrays:
            array: Pixels = arrays[self.key]
        return array


@dataclass(frozen=True)
class ImageFile:
    """Image or label image that is read on demand.

    Attributes
    ----------
    name : str
        Name for pairing: without suffixes, for labels also without _masks or _labels.
    path : Path
        The file, the zip or the npz.
    member : str
        Name of the file in the zip.
    stack : NpzArray or None
        Array of the npz that contains the image.
    index : int
        Index of the image in that array.
    """

    name: str
    path: Path
    member: str = ""
    stack: NpzArray | None = None
    index: int = 0

    def __str__(self) -> str:
        if self.stack is not None:
            return f"{self.path}:{self.stack.key}[{self.index}]"
        return f"{self.path}:{self.member}" if self.member else str(self.path)

    @property
    def short(self) -> str:
        """Name within the folder, with suffix."""
        if self.stack is not None:
            return f"[{self.index}]"
        return PurePosixPath(self.member).name or self.path.name

    def header(self) -> Pixels:
        """Return an array (c, y, x) of the shape and dtype of the image.

        Pixels of files are not decoded, so its values have no meaning.

        Raises
        ------
        InputError
            If the file is unreadable, or not a single plane.
        """
        return self._read(decode=False)

    def pixels(self) -> Pixels:
        """Read an image: (c, y, x) uint8, uint16 or float32, at least 0.

        Raises
        ------
        InputError
            If the file is unreadable, or contains negative or non-finite values.
        """
        pixels = self._read()
        if pixels.dtype == np.bool_:
            pixels = pixels.astype(np.uint8)
        if pixels.dtype.newbyteorder("=").name in ("uint8", "uint16"):
            return np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("="))
        pixels = np.ascontiguousarray(pixels, np.float32)
        if not (np.isfinite(pixels).all() and pixels.min(initial=0) >= 0):
            raise InputError(
                f"{self} contains values below 0, NaN or infinity, expected intensities of "
                f"at least 0. Export it again as uint8, uint16 or float."
            )
        return pixels

    def labels(self) -> Labels:
        """Read a label image: (y, x) uint32, 0 is background.

        Raises
        ------
        InputError
            If the file is unreadable, or not a label image.
        """
        planes = self._read()
        if planes.shape[0] != 1:
            raise InputError(
                f"{self} has shape {planes.shape}, expected labels of one plane (y, x), "
                f"one number per object. Export it as a grey image of integers."
            )
        plane = planes[0].astype(np.uint8) if planes.dtype == np.bool_ else planes[0]
        return as_labels(plane, str(self))

    def _read(self, *, decode: bool = True) -> Pixels:
        """Read an image (c, y, x); without `decode` only its shape and dtype are valid."""
        with _readable(self):
            if self.stack is not None:
                return _channels_first(self, self.stack.values[self.index], None)
            is_png = (self.member or self.path.name).lower().endswith(".png")
            with self._open() as file:
                if is_png:
                    return _read_png(file, decode=decode)
                return _read_tiff(self, file, decode=decode)

    @contextmanager
    def _open(self) -> Iterator[BinaryIO]:
        if self.member:
            with zipfile.ZipFile(self.path) as archive:
                yield io.BytesIO(archive.read(self.member))
        else:
            with self.path.open("rb") as file:
                yield file


def list_images(path: Path, keys: Sequence[str], *, labels: bool) -> list[ImageFile]:
    """List the images of a path, sorted by name.

    Parameters
    ----------
    path : Path
        Folder or zip of PNG and TIFF files, ``file.npz``, or ``file.npz:key``.
    keys : sequence of str
        Names of the npz array that are tried where no key is given.
    labels : bool
        Whether to list label images. A folder may contain images and labels side by side:
        files that end in _masks, _mask, _labels or _label are then the labels, and all
        others the images.

    Raises
    ------
    InputError
        If there is no image, or two files have the same name.
    """
    file, colon, key = str(path).rpartition(".npz:")
    if colon:
        return _list_npz(Path(f"{file}.npz"), (key,))
    if not path.exists():
        raise InputError(
            f"{path} does not exist, expected a folder, a zip or an npz of images. Correct "
            f"the path in the recipe, or name the folder of the data with --data."
        )
    if path.suffix.lower() == ".npz":
        return _list_npz(path, keys)
    if path.is_dir():
        files = [ImageFile(_stem(p.name), p) for p in sorted(path.iterdir()) if p.is_file()]
    else:
        files = _list_zip(path)
    files = [f for f in files if f.short.lower().endswith(SUFFIXES) and f.short[0] != "."]
    return _with_unique_names(path, _of_kind(files, labels=labels))


def abbreviate(names: Sequence[str]) -> str:
    """Join the first five names, and count the others."""
    more = len(names) - _MAX_LISTED
    joined = ", ".join(names[:_MAX_LISTED]) or "none"
    return f"{joined} and {more} more" if more > 0 else joined


def _stem(name: str) -> str:
    name = re.sub(r"\.(tiff?|png)$", "", name, flags=re.IGNORECASE)
    return re.sub(r"(?<=.)\.ome$", "", name, flags=re.IGNORECASE)


def _of_kind(files: Sequence[ImageFile], *, labels: bool) -> list[ImageFile]:
    """Select label images, without their suffix, or images, by the end of the name."""
    marked = [f for f in files if _LABEL_WORD.search(f.name)]
    if labels:
        chosen = marked or files
        return [ImageFile(_LABEL_WORD.sub("", f.name), f.path, f.member) for f in chosen]
    return [f for f in files if not _LABEL_WORD.search(f.name)] or list(files)


def _with_unique_names(path: Path, files: Sequence[ImageFile]) -> list[ImageFile]:
    if not files:
        raise InputError(
            f"{path} contains no image, expected files {', '.join(SUFFIXES)} (subfolders "
            f"are not searched). Correct the path in the recipe."
        )
    by_name: dict[str, ImageFile] = {}
    for file in files:
        if file.name in by_name:
            raise InputError(
                f"{by_name[file.name].short} and {file.short} in {path} are both named "
                f"{file.name!r}, expected one file of each name. Remove one of them."
            )
        by_name[file.name] = file
    return list(by_name.values())


def _list_zip(path: Path) -> list[ImageFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(n for n in archive.namelist() if not n.startswith("__MACOSX"))
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} is neither a folder nor a readable zip ({error}), expected a folder, "
            f"a zip or an npz of images. Correct the path, or copy the file again."
        ) from error
    return [ImageFile(_stem(PurePosixPath(name).name), path, name) for name in names]


def _list_npz(path: Path, keys: Sequence[str]) -> list[ImageFile]:
    if not path.exists():
        raise InputError(f"{path} does not exist. Correct the path in the recipe.")
    with _readable(path), np.load(path, allow_pickle=False) as arrays:
        names = list(arrays.files)
    there = [key for key in keys if key in names] or (names if len(names) == 1 else [])
    if not there or (len(keys) == 1 and there[0] != keys[0]):
        raise InputError(
            f"{path} has the arrays {abbreviate(names)}, expected one of "
            f"{', '.join(keys)}. Write {path.name}:KEY to name the array."
        )
    stack = NpzArray(path, there[0])
    with _readable(path):
        shape = stack.values.shape
    if len(shape) not in (3, 4) or not shape[0]:
        raise InputError(
            f"{path}:{there[0]} has shape {shape}, expected a stack (n, y, x), "
            f"(n, c, y, x) or (n, y, x, c)."
        )
    return [ImageFile(str(i), path, stack=stack, index=i) for i in range(shape[0])]


@contextmanager
def _readable(file: ImageFile | Path) -> Iterator[None]:
    """Convert the errors of image libraries on damaged files to InputError."""
    try:
        yield
    except InputError:
        raise
    except (*READER_ERRORS, zipfile.BadZipFile) as error:
        raise InputError(
            f"{file} cannot be read ({error_text(error)}). The file is damaged or not an "
            f"image; copy or export it again."
        ) from error


def _channels_first(file: ImageFile, array: Pixels, axes: str | None) -> Pixels:
    """Return an array as (c, y, x): drop axes of length 1; the remaining axis is c."""
    letters = [
        a for a, n in zip(axes or "?" * array.ndim, array.shape, strict=True) if n > 1
    ]
    plane = [n for n in array.shape if n > 1]
    if len(plane) < 2:  # height or width is 1: keep the last two axes
        letters, plane = list("YX"), list(array.shape[-2:])
    array = array.reshape(plane)
    if array.ndim == 2:
        return array[None]
    if array.ndim != 3 or set(letters) & set("ZT"):
        raise InputError(
            f"{file} has shape {array.shape}{f' (axes {axes})' if axes else ''}, "
            f"expected a plane of one or more channels. Export one plane."
        )
    last = letters[-1] == "S" or (
        "?" in letters and array.shape[2] <= _MAX_COLOURS < array.shape[0]
    )
    return np.moveaxis(array, -1, 0) if last else array


def _zeros(shape: Sequence[int], dtype: Any) -> Pixels:
    """Return an array that takes no memory."""
    return np.broadcast_to(np.zeros((), dtype), tuple(shape))


def _read_tiff(file: ImageFile, stream: BinaryIO, *, decode: bool) -> Pixels:
    """Read the first series of a TIFF."""
    import tifffile

    try:
        with tifffile.TiffFile(stream) as tif:
            series = tif.series[0]
            array = series.asarray() if decode else _zeros(series.shape, series.dtype)
            return _channels_first(file, array, series.axes)
    except tifffile.TiffFileError as error:  # not a builtin type in older releases
        raise ValueError(str(error)) from error


def _read_png(stream: BinaryIO, *, decode: bool) -> Pixels:
    from PIL import Image, ImageMode

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(stream) as image:
                bands = _COLOUR_BANDS.get(image.mode, 1)
                if not decode:
                    dtype = ImageMode.getmode(image.mode).typestr
                    return _zeros((bands, image.height, image.width), dtype)
                array = np.asarray(image)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(f"too large for a PNG, which is read whole: {error}") from error
    # the alpha band is not a channel
    return array[None] if array.ndim == 2 else np.moveaxis(array[..., :bands], -1, 0)
