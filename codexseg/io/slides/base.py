"""Slide images of any file format as lazy (c, y, x) images."""

import hashlib
import math
import operator
import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from codexseg.arrays import Pixels
from codexseg.core.grid import Window
from codexseg.errors import InputError
from codexseg.io.slides.panel import read_panel

COLOURS: Final = ("red", "green", "blue")
"""Channel names of colour pictures."""
DTYPES: Final = ("uint8", "uint16", "float32")
# Exceptions of tifffile, imagecodecs, zarr and numcodecs for damaged files. MemoryError
# does not indicate a damaged file.
READER_ERRORS: Final = (
    OSError,
    ValueError,
    RuntimeError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    ImportError,
    EOFError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True)
class SlideInfo:
    """Properties of a slide; `names` are the channel names in the file, None if absent."""

    path: Path
    format: str
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    levels: tuple[tuple[int, int], ...]
    names: tuple[str | None, ...] | None
    mpp: float | None


class SlideImage(ABC):
    """A multichannel slide image (c, y, x), read window by window.

    Attributes
    ----------
    path : Path
        Absolute path of the file or folder.
    panel_file : Path or None
        File with the channel names, if they are not taken from the slide.
    format : str
        "OME-TIFF", "qptiff", "TIFF", "OME-Zarr", "PNG", "JPEG" or "BMP".
    shape : (int, int, int)
        Channels, height and width in px of the full resolution.
    dtype : np.dtype
        uint8, uint16 or float32, in native byte order.
    channel_names : tuple of str
        One name per channel; duplicates are possible. Pictures have red, green and blue,
        or grey.
    mpp : float or None
        Micrometres per pixel; None if the file has no pixel size.
    levels : tuple of (int, int)
        Height and width of each pyramid level, full resolution first.
    """

    def __init__(self, info: SlideInfo, panel_file: Path | None) -> None:
        _check_info(info)
        self.path = info.path
        self.panel_file = panel_file
        self.format = info.format
        self.shape = info.shape
        self.dtype = info.dtype.newbyteorder("=")
        self.channel_names = _channel_names(info, panel_file)
        self.mpp = info.mpp
        self.levels = info.levels

    def __reduce__(self) -> tuple[Callable[..., "SlideImage"], tuple[Any, ...]]:
        """Pickle as path and panel file: readers of files open them again."""
        return type(self), (self.path, self.panel_file)

    def __repr__(self) -> str:
        return f"<{self.format} {self.path.name}, (c, y, x) = {self.shape}, {self.dtype}>"

    def read(self, channel: int, window: Window, level: int = 0) -> Pixels:
        """Read one channel in a window; only the tiles under it are decoded.

        Parameters
        ----------
        channel : int
            Index of the channel.
        window : Window
            Window of at least 1 px inside the slide, px of the given level.
        level : int
            Pyramid level; 0 is the full resolution.

        Returns
        -------
        (y, x) array
            A copy in native byte order, C-contiguous.

        Raises
        ------
        InputError
            If channel, window or level are not in the slide, or the file is damaged in
            the window.
        """
        channel, level = operator.index(channel), operator.index(level)
        if not 0 <= channel < self.shape[0]:
            raise InputError(
                f"Channel {channel} is not in {self.path}, which has {self.shape[0]} "
                f"channels. Expected 0 to {self.shape[0] - 1}."
            )
        if not 0 <= level < len(self.levels):
            raise InputError(
                f"Pyramid level {level} is not in {self.path}. Expected 0 to "
                f"{len(self.levels) - 1}."
            )
        height, width = self.levels[level]
        if not (
            0 <= window.y0 < window.y1 <= height and 0 <= window.x0 < window.x1 <= width
        ):
            raise InputError(
                f"{window} is not a window of {self.path}. Expected at least one px "
                f"inside height {height} and width {width} (level {level})."
            )
        try:
            return self._read(channel, window, level)
        except READER_ERRORS as error:
            raise InputError(
                f"{self.path}: channel {channel} ({self.channel_names[channel]!r}) cannot "
                f"be read in {window} (level {level}): {error_text(error)}. The file is "
                f"damaged or missing. Copy or export it again."
            ) from error

    @abstractmethod
    def _read(self, channel: int, window: Window, level: int) -> Pixels:
        """Read a valid window; raise one of `READER_ERRORS` for a damaged file."""

    def fingerprint(self) -> str:
        """Identify the content, independent of path and modification time.

        The hash (sha256, hexadecimal) covers sizes, metadata and evenly spaced samples
        instead of every byte: of a file, its size, the first and last 64 KB and 64 blocks
        of 4 KB. It is fast for 100 GB, and does not change with an edit between the
        samples that keeps the size. The panel file is not included.
        """
        size = self.path.stat().st_size
        digest = hashlib.sha256(str(size).encode())
        with self.path.open("rb") as file:
            hash_samples(digest, file, size)
        return digest.hexdigest()


def _check_info(info: SlideInfo) -> None:
    """Raise InputError for images without pixels and unsupported dtypes."""
    if min(info.shape) < 1:
        raise InputError(
            f"{info.path} has no pixels: channels, height, width = {info.shape}. Export it "
            f"again."
        )
    if info.dtype.newbyteorder("=").name not in DTYPES:
        raise InputError(
            f"{info.path} has dtype {info.dtype.name}, expected {', '.join(DTYPES)}. "
            f"Convert it first, for example in Fiji (Image > Type) or with numpy: "
            f"array.clip(0, 65535).round().astype('uint16')."
        )


def _channel_names(info: SlideInfo, panel_file: Path | None) -> tuple[str, ...]:
    """Return the names in the panel file, else in the image, else numbered names."""
    count, names = info.shape[0], info.names
    if panel_file is not None:
        names = tuple(read_panel(panel_file))
    if names is None:
        names = (None,) * count
    if len(names) != count:
        source = panel_file or "its metadata"
        raise InputError(
            f"{info.path} has {count} channels, but {source} has {len(names)} names. Pass "
            f"a panel file (data.antibodies_file) with one name per channel."
        )
    return tuple(name or f"Channel {number}" for number, name in enumerate(names))


def channel_axis(
    axes: Sequence[str], shape: Sequence[int], channels: str, path: Path
) -> int:
    """Find the channel axis of an image with axes c, y and x in any order.

    Parameters
    ----------
    axes : sequence of str
        One upper-case letter per axis; Y and X are the plane.
    shape : sequence of int
        Length of each axis.
    channels : str
        Letters of possible channel axes.

    Returns
    -------
    int
        Index of the channel axis; -1 if there is none (one channel).

    Raises
    ------
    InputError
        If y or x is missing, another axis is longer than 1, or there are several channel
        axes.
    """
    if "Y" not in axes or "X" not in axes:
        raise InputError(
            f"{path} has the axes {''.join(axes)!r}. Expected y, x and optionally c."
        )
    candidates = [
        i for i, n in enumerate(shape) if axes[i] in channels and (n != 1 or axes[i] == "C")
    ]
    for axis, length in zip(axes, shape, strict=True):
        if axis not in "YX" and axis not in channels and length != 1:
            kind = {"Z": "a 3-D stack", "T": "a time series"}.get(axis, "not a plane image")
            raise InputError(
                f"{path} is {kind}: {length} steps along axis {axis!r}, expected 1. "
                f"Export one plane or a projection. If these are channels, export them as "
                f"axis 'C'."
            )
    # a C axis of length 1 is ignored if another channel axis is longer
    channel_axes = [i for i in candidates if shape[i] != 1] or candidates[:1]
    if len(channel_axes) > 1:
        sizes = ", ".join(f"{axes[i]}: {shape[i]}" for i in channel_axes)
        raise InputError(
            f"{path} has several channel axes ({sizes}), expected one. Export it with axes "
            f"(c, y, x)."
        )
    return channel_axes[0] if channel_axes else -1


def resolve_mpp(from_file: float | None, from_config: float | None, path: Path) -> float:
    """Return the micrometres per pixel of the file, else of the config.

    Raises
    ------
    InputError
        If the two differ by more than 1 %, if there is neither, or if the value of the
        config is not a positive number.
    """
    if from_config is not None and not (math.isfinite(from_config) and from_config > 0):
        raise InputError(
            f"data.image_mpp is {from_config}, expected micrometres per pixel above 0."
        )
    if from_file is None and from_config is None:
        raise InputError(
            f"{path} has no pixel size. Set data.image_mpp in the config (micrometres per "
            f"pixel, usually 0.5 at 20x), or let segmentation.diameter: auto estimate the "
            f"scale from the size of the cells."
        )
    if from_file is None or from_config is None:
        return float(from_config if from_file is None else from_file)  # type: ignore[arg-type]
    if abs(from_file - from_config) > 0.01 * max(from_file, from_config):
        raise InputError(
            f"{path} has {from_file:.6g} um per pixel, but data.image_mpp is "
            f"{from_config:.6g}. Remove data.image_mpp, or correct the wrong value."
        )
    return float(from_file)


def hash_samples(
    digest: Any, file: BinaryIO, size: int, *, ends: int = 2**16, samples: int = 64
) -> None:
    """Update a hash with the ends of a file and evenly spaced blocks of 4 KB."""
    block = 4096
    if size <= 2 * ends + samples * block:
        digest.update(file.read())
        return
    digest.update(file.read(ends))
    for i in range(samples):
        file.seek(ends + (size - 2 * ends - block) * i // (samples - 1))
        digest.update(file.read(block))
    file.seek(size - ends)
    digest.update(file.read(ends))


@contextmanager
def reading(path: Path, kind: str, *errors: type[Exception]) -> Iterator[None]:
    """Convert the errors of a reading library to InputError.

    Parameters
    ----------
    path : Path
        The file or folder.
    kind : str
        Type of the file, for the message.
    *errors : exception types
        Errors of the library beside `READER_ERRORS`.
    """
    converted: tuple[type[Exception], ...] = (*READER_ERRORS, *errors)
    try:
        yield
    except InputError:
        raise
    except converted as error:
        raise InputError(
            f"{path} is not a readable {kind}, or it is truncated ({error_text(error)}). "
            f"Copy or export it again."
        ) from error


def error_text(error: BaseException) -> str:
    """Return type and text of a library's exception on one line."""
    text = " ".join(str(error).split()) or "no reason given"
    return f"{type(error).__name__}: {text.rstrip('.')}"
