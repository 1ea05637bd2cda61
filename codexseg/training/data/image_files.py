"""Images and labels as users have them: in folders, zips and npz; PNG, TIFF, OME-TIFF.

Files are listed first and read when they are asked for, so that a folder may be larger
than memory; what a header says of shape and type is known without the pixels.
"""

import io
import re
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from codexseg.core.labels.operations import Labels, as_labels
from codexseg.errors import InputError
from codexseg.io.slides.base import READER_ERRORS

SUFFIXES = (".png", ".tif", ".tiff")
_LABEL_WORD = re.compile(r"(?<=.)_(masks?|labels?)$", re.IGNORECASE)
_GREY = {"1": "bool", "L": "uint8", "I": "int32", "F": "float32", "P": "uint8"}
_COLOUR_BANDS = {"LA": 1, "RGB": 3, "RGBA": 3, "CMYK": 3, "YCbCr": 3}
_MOST_COLOURS = 4
_LISTED = 5


@dataclass(frozen=True)
class Header:
    """What is known of a picture before it is read: (c, y, x), and the type of a pixel."""

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class Picture:
    """An image or label image that was found, and not read yet.

    Attributes
    ----------
    name : str
        What it is paired by: without suffixes, of labels also without _masks, _labels.
    path : Path
        The file, the zip or the npz.
    member : str
        The file in the zip, the array of the npz.
    index : int or None
        Which image of the npz.
    """

    name: str
    path: Path
    member: str = ""
    index: int | None = None

    def __str__(self) -> str:
        inside = f":{self.member}" if self.member else ""
        return f"{self.path}{inside}" + (
            f"[{self.index}]" if self.index is not None else ""
        )

    @property
    def short(self) -> str:
        """What to call it beside others of one folder."""
        if self.index is not None:
            return f"[{self.index}]"
        return PurePosixPath(self.member).name or self.path.name

    def header(self) -> Header:
        """Say what it holds.

        Raises
        ------
        InputError
            If it cannot be read, or is no image of a plane.
        """
        with _readable(self):
            if self.index is not None:
                array = _array(self)[self.index]
                return _header(self, array.shape, array.dtype, None)
            with self._open() as file:
                if self._is_png():
                    return _png_header(self, file)
                return _tiff_header(self, file)

    def pixels(self) -> NDArray[Any]:
        """Read an image: (c, y, x) uint8, uint16 or float32, of at least 0.

        Raises
        ------
        InputError
            If it cannot be read, or holds what is no grey level.
        """
        found = self._read()
        if found.dtype == np.bool_:
            found = found.astype(np.uint8)
        if found.dtype.newbyteorder("=").name in ("uint8", "uint16"):
            return np.ascontiguousarray(found, found.dtype.newbyteorder("="))
        found = np.ascontiguousarray(found, np.float32)
        if not (np.isfinite(found).all() and found.min(initial=0) >= 0):
            raise InputError(
                f"{self} holds values below 0, NaN or infinity, expected grey levels of at "
                f"least 0: export it again, as uint8, uint16 or float."
            )
        return found

    def labels(self) -> Labels:
        """Read a label image: (y, x) uint32, 0 is background.

        Raises
        ------
        InputError
            If it cannot be read, or holds no labels.
        """
        found = self._read()
        if found.shape[0] != 1:
            raise _no_plane(self, found.shape)
        plane = found[0].astype(np.uint8) if found.dtype == np.bool_ else found[0]
        return as_labels(plane, str(self))

    def _read(self) -> NDArray[Any]:
        with _readable(self):
            if self.index is not None:
                array = _array(self)[self.index]
                return _channels_first(self, array, None)
            with self._open() as file:
                return _read_png(file) if self._is_png() else _read_tiff(self, file)

    def _is_png(self) -> bool:
        return (self.member or self.path.name).lower().endswith(".png")

    @contextmanager
    def _open(self) -> Iterator[BinaryIO]:
        if self.member:
            with zipfile.ZipFile(self.path) as archive:
                yield io.BytesIO(archive.read(self.member))
        else:
            with self.path.open("rb") as file:
                yield file


def list_pictures(path: Path, keys: Sequence[str], *, labels: bool) -> list[Picture]:
    """List the pictures of a path, in the order of their names.

    Parameters
    ----------
    path : Path
        A folder or a zip of PNG and TIFF files, ``file.npz``, or ``file.npz:key``.
    keys : sequence of str
        Names that the array of an npz may have where none is given.
    labels : bool
        Whether they are labels. A folder may hold images and labels side by side: what
        ends in _masks, _mask, _labels or _label is a label image, and beside such files
        nothing else is.

    Raises
    ------
    InputError
        If there is nothing, or two files have one name.
    """
    file, colon, key = str(path).rpartition(".npz:")
    if colon:
        return _list_npz(Path(f"{file}.npz"), (key,))
    if not path.exists():
        raise InputError(
            f"{path} does not exist, expected a folder, a zip or an npz of images: correct "
            f"the path in the recipe, or name the folder of the data with --data."
        )
    if path.suffix.lower() == ".npz":
        return _list_npz(path, keys)
    if path.is_dir():
        found = [Picture(_stem(p.name), p) for p in sorted(path.iterdir()) if p.is_file()]
    else:
        found = _list_zip(path)
    found = [p for p in found if p.short.lower().endswith(SUFFIXES) and p.short[0] != "."]
    return _one_each(path, _of_kind(found, labels=labels))


def listed(names: Sequence[str]) -> str:
    """Name some, and say how many more there are."""
    more = len(names) - _LISTED
    words = ", ".join(names[:_LISTED]) or "none"
    return f"{words} and {more} more" if more > 0 else words


def _stem(name: str) -> str:
    name = re.sub(r"\.(tiff?|png)$", "", name, flags=re.IGNORECASE)
    return re.sub(r"(?<=.)\.ome$", "", name, flags=re.IGNORECASE)


def _of_kind(found: Sequence[Picture], *, labels: bool) -> list[Picture]:
    marked = [p for p in found if _LABEL_WORD.search(p.name)]
    if labels:
        chosen = marked or found
        return [
            Picture(_LABEL_WORD.sub("", p.name), p.path, p.member, p.index) for p in chosen
        ]
    return [p for p in found if not _LABEL_WORD.search(p.name)] or list(found)


def _one_each(path: Path, found: Sequence[Picture]) -> list[Picture]:
    if not found:
        raise InputError(
            f"{path} holds no image, expected files {', '.join(SUFFIXES)} (in a folder not "
            f"in folders below it): correct the path in the recipe."
        )
    by_name: dict[str, Picture] = {}
    for picture in found:
        if picture.name in by_name:
            raise InputError(
                f"{by_name[picture.name].short} and {picture.short} in {path} are both "
                f"{picture.name!r}, expected one file of a name: keep one of them there."
            )
        by_name[picture.name] = picture
    return list(by_name.values())


def _list_zip(path: Path) -> list[Picture]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(n for n in archive.namelist() if not n.startswith("__MACOSX"))
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} is neither a folder nor a readable zip ({error}), expected a folder, "
            f"a zip or an npz of images: correct the path, or copy the file again."
        ) from error
    return [Picture(_stem(PurePosixPath(name).name), path, name) for name in names]


def _list_npz(path: Path, keys: Sequence[str]) -> list[Picture]:
    if not path.exists():
        raise InputError(f"{path} does not exist: correct the path in the recipe.")
    probe = Picture("", path)
    with _readable(probe), np.load(path, allow_pickle=False) as arrays:
        names = list(arrays.files)
    there = [key for key in keys if key in names] or (names if len(names) == 1 else [])
    if not there or (len(keys) == 1 and there[0] != keys[0]):
        raise InputError(
            f"{path} has the arrays {listed(names)}, expected one of {', '.join(keys)}: "
            f"write {path.name}:KEY with the one that is meant."
        )
    with _readable(probe):
        array = _array(Picture("", path, there[0]))
    if array.ndim not in (3, 4) or not len(array):
        raise InputError(
            f"{path}:{there[0]} has shape {array.shape}, expected a stack (n, y, x), "
            f"(n, c, y, x) or (n, y, x, c)."
        )
    return [Picture(str(i), path, there[0], i) for i in range(len(array))]


def _array(picture: Picture) -> NDArray[Any]:
    return _load(picture.path, picture.member, picture.path.stat().st_mtime_ns)


@lru_cache(maxsize=4)  # images, cells, nuclei: an npz is read once, and whole
def _load(path: Path, key: str, _stamp: int) -> NDArray[Any]:
    with np.load(path, allow_pickle=False) as arrays:
        array: NDArray[Any] = arrays[key]
    return array


@contextmanager
def _readable(picture: Picture) -> Iterator[None]:
    """Turn what libraries raise for a damaged file into an InputError."""
    try:
        yield
    except InputError:
        raise
    except (*READER_ERRORS, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split()) or "no reason given"
        raise InputError(
            f"{picture} cannot be read ({type(error).__name__}: {reason.rstrip('.')}): it "
            f"is damaged or no image. Copy or export it again."
        ) from error


def _no_plane(picture: Picture, shape: Sequence[int]) -> InputError:
    return InputError(
        f"{picture} has shape {tuple(shape)}, expected labels of one plane (y, x), one "
        f"number per object: export it as a grey image of integers."
    )


def _header(picture: Picture, shape: Sequence[int], dtype: Any, axes: str | None) -> Header:
    empty = np.broadcast_to(np.zeros((), dtype), tuple(shape))
    channels, height, width = _channels_first(picture, empty, axes).shape
    return Header((channels, height, width), np.dtype(dtype))


def _channels_first(
    picture: Picture, array: NDArray[Any], axes: str | None
) -> NDArray[Any]:
    """Bring an array to (c, y, x): axes of 1 go, and what else is left counts channels."""
    letters = [
        a for a, n in zip(axes or "?" * array.ndim, array.shape, strict=True) if n > 1
    ]
    plane = [n for n in array.shape if n > 1]
    if len(plane) < 2:  # lines of one pixel: only as (y, x)
        letters, plane = list("YX"), list(array.shape[-2:])
    array = array.reshape(plane)
    if array.ndim == 2:
        return array[None]
    if array.ndim != 3 or set(letters) & set("ZT"):
        raise InputError(
            f"{picture} has shape {array.shape}{f' (axes {axes})' if axes else ''}, "
            f"expected a plane of one or more channels: export one plane."
        )
    last = letters[-1] == "S" or (
        "?" in letters and array.shape[2] <= _MOST_COLOURS < array.shape[0]
    )
    return np.moveaxis(array, -1, 0) if last else array


def _tiff_header(picture: Picture, file: BinaryIO) -> Header:
    import tifffile

    try:
        with tifffile.TiffFile(file) as tif:
            series = tif.series[0]
            return _header(picture, series.shape, series.dtype, series.axes)
    except tifffile.TiffFileError as error:  # of no builtin type in older releases
        raise ValueError(str(error)) from error


def _read_tiff(picture: Picture, file: BinaryIO) -> NDArray[Any]:
    import tifffile

    try:
        with tifffile.TiffFile(file) as tif:
            series = tif.series[0]
            return _channels_first(picture, series.asarray(), series.axes)
    except tifffile.TiffFileError as error:
        raise ValueError(str(error)) from error


@contextmanager
def _png(file: BinaryIO) -> Iterator[Any]:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                yield image
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(f"too large for a PNG, which is read whole: {error}") from error


def _png_header(picture: Picture, file: BinaryIO) -> Header:
    with _png(file) as image:
        width, height = image.size
        bands = _COLOUR_BANDS.get(image.mode, 1)
        dtype = _GREY.get(
            image.mode, "uint16" if image.mode.startswith("I;16") else "uint8"
        )
        del picture
        return Header((bands, height, width), np.dtype(dtype))


def _read_png(file: BinaryIO) -> NDArray[Any]:
    with _png(file) as image:
        array = np.asarray(image)
        bands = _COLOUR_BANDS.get(image.mode, 1)
    # transparency is no channel
    return array[None] if array.ndim == 2 else np.moveaxis(array[..., :bands], -1, 0)
