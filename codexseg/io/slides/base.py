"""The slide image: one lazy (c, y, x) image, whatever the format of the file."""

import hashlib
import math
import operator
import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from codexseg.core.grid import Window
from codexseg.errors import InputError
from codexseg.io.slides.panel import read_panel

DTYPES: Final = ("uint8", "uint16", "float32")
# What tifffile, imagecodecs, zarr and numcodecs raise for a file that is not sound.
# MemoryError is not among them: that is not the file's fault.
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
    """What a reader found out about a slide; `names` are the file's own, if it has any."""

    path: Path
    format: str
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    levels: tuple[tuple[int, int], ...]
    names: tuple[str | None, ...] | None
    mpp: float | None


class SlideImage(ABC):
    """A multichannel slide (c, y, x), read window by window.

    Attributes
    ----------
    path : Path
        Absolute path of the file or folder.
    panel_file : Path or None
        The file that names the channels, where it is not the slide itself.
    format : str
        "OME-TIFF", "qptiff", "TIFF", "OME-Zarr", "PNG", "JPEG" or "BMP".
    shape : (int, int, int)
        Channels, height and width in px of the full resolution.
    dtype : np.dtype
        uint8, uint16 or float32, in native byte order.
    channel_names : tuple of str
        One name per channel; duplicates are possible. Of a picture: red, green and
        blue, or grey.
    mpp : float or None
        Micrometres per pixel, where the file says so.
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

    @abstractmethod
    def __reduce__(self) -> tuple[Callable[..., "SlideImage"], tuple[Any, ...]]:
        """Pickle as the arguments of a function that opens the slide again."""

    def __repr__(self) -> str:
        return f"<{self.format} {self.path.name}, (c, y, x) = {self.shape}, {self.dtype}>"

    def read(self, channel: int, window: Window, level: int = 0) -> NDArray[Any]:
        """Read one channel in a window; only the tiles under it are touched.

        Parameters
        ----------
        channel : int
            Number of the channel, from 0.
        window : Window
            Pixels of the given level; inside the slide, at least 1 px.
        level : int
            Pyramid level, 0 = full resolution.

        Returns
        -------
        (y, x) array
            A copy in native byte order, C-contiguous.

        Raises
        ------
        InputError
            If channel, window or level are not in the slide, or the file is damaged
            there: the message names file, channel and window.
        """
        channel, level = operator.index(channel), operator.index(level)
        if not 0 <= channel < self.shape[0]:
            raise InputError(
                f"channel {channel} is not in {self.path}, which has {self.shape[0]} "
                f"channels: expected 0 to {self.shape[0] - 1}."
            )
        if not 0 <= level < len(self.levels):
            raise InputError(
                f"pyramid level {level} is not in {self.path}: expected 0 to "
                f"{len(self.levels) - 1}."
            )
        height, width = self.levels[level]
        if not (
            0 <= window.y0 < window.y1 <= height and 0 <= window.x0 < window.x1 <= width
        ):
            raise InputError(
                f"{window} is not a window of {self.path}: expected at least one px "
                f"inside height {height} and width {width} (level {level})."
            )
        try:
            return self._read(channel, window, level)
        except READER_ERRORS as error:
            raise InputError(
                f"{self.path}: channel {channel} ({self.channel_names[channel]!r}) cannot "
                f"be read in {window} (level {level}): {_reason(error)}. The file is "
                f"damaged or gone there; copy or export it again."
            ) from error

    @abstractmethod
    def _read(self, channel: int, window: Window, level: int) -> NDArray[Any]:
        """Read a window that was checked; raise what `READER_ERRORS` lists."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Identify the content, whatever the path and the time of the file.

        Sizes, metadata and evenly spaced samples are hashed (sha256, hex), not every
        byte: cheap for 100 GB, blind to an edit between the samples that keeps the size.
        The panel file has no part in it.
        """


def _check_info(info: SlideInfo) -> None:
    """Refuse images without pixels and dtypes that are not read."""
    if min(info.shape) < 1:
        raise InputError(
            f"{info.path} holds no pixels: channels, height, width = {info.shape}."
        )
    if info.dtype.newbyteorder("=").name not in DTYPES:
        raise InputError(
            f"{info.path} has dtype {info.dtype.name}; read are {', '.join(DTYPES)}. "
            f"Convert it first, for example in Fiji (Image > Type) or in Python with "
            f"numpy: array.clip(0, 65535).round().astype('uint16')."
        )


def _channel_names(info: SlideInfo, panel_file: Path | None) -> tuple[str, ...]:
    """Take the names of the panel file, else of the image, else number the channels."""
    count, names = info.shape[0], info.names
    if panel_file is not None:
        names = tuple(read_panel(panel_file))
    if names is None:
        names = (None,) * count
    if len(names) != count:
        source = panel_file or "its metadata"
        raise InputError(
            f"{info.path} holds {count} channels, but {source} names {len(names)}: give a "
            f"panel file (data.antibodies_file) with one name per channel."
        )
    return tuple(name or f"Channel {number}" for number, name in enumerate(names))


def channel_axis(
    axes: Sequence[str], shape: Sequence[int], channels: str, path: Path
) -> int:
    """Find the channel axis of an image, and refuse what is not (c, y, x) in any order.

    Parameters
    ----------
    axes : sequence of str
        One upper-case letter per axis; Y and X are the plane.
    shape : sequence of int
        Length of each axis.
    channels : str
        Letters of the axes that may count channels.

    Returns
    -------
    int
        Index of the channel axis, -1 where there is none (one channel).
    """
    if "Y" not in axes or "X" not in axes:
        raise InputError(
            f"{path} has the axes {''.join(axes)!r}: expected y, x and perhaps c."
        )
    found = [
        i for i, n in enumerate(shape) if axes[i] in channels and (n != 1 or axes[i] == "C")
    ]
    for axis, length in zip(axes, shape, strict=True):
        if axis not in "YX" and axis not in channels and length != 1:
            meaning = {"Z": "a 3-D stack", "T": "a time series"}.get(axis, "no plane image")
            raise InputError(
                f"{path} is {meaning}: {length} steps along axis {axis!r}, expected 1. "
                f"Project it or export one plane; if these are channels, export them so."
            )
    # a singleton C beside one real channel axis says nothing
    several = [i for i in found if shape[i] != 1] or found[:1]
    if len(several) > 1:
        sizes = ", ".join(f"{axes[i]}: {shape[i]}" for i in several)
        raise InputError(
            f"{path} counts channels along several axes ({sizes}): expected one of them. "
            f"Export it with axes (c, y, x)."
        )
    return several[0] if several else -1


def resolve_mpp(from_file: float | None, from_config: float | None, path: Path) -> float:
    """Decide the micrometres per pixel: the file's, else the config's.

    Raises
    ------
    InputError
        If they differ by more than 1 %, if there is neither, or if the config's is no
        positive number.
    """
    if from_config is not None and not (math.isfinite(from_config) and from_config > 0):
        raise InputError(
            f"data.image_mpp is {from_config}: expected micrometres per pixel, above 0."
        )
    if from_file is None and from_config is None:
        raise InputError(
            f"{path} does not say its pixel size: give it in micrometres per pixel, as "
            f"data.image_mpp in the config (0.5 at 20x, as a rule), or have the scale "
            f"found from the size of the cells, with segmentation.diameter: auto."
        )
    if from_file is None or from_config is None:
        return float(from_config if from_file is None else from_file)  # type: ignore[arg-type]
    if abs(from_file - from_config) > 0.01 * max(from_file, from_config):
        raise InputError(
            f"{path} says {from_file:.6g} um per pixel, data.image_mpp says "
            f"{from_config:.6g}: remove data.image_mpp, or correct the one that is wrong."
        )
    return float(from_file)


def hash_samples(
    digest: Any, file: BinaryIO, size: int, *, ends: int = 2**16, samples: int = 64
) -> None:
    """Feed a hash with the first and last bytes of a file and 4 KB blocks between them."""
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


def file_fingerprint(path: Path) -> str:
    """Return sha256 over size, first and last 64 KB and 64 blocks of 4 KB of a file."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        hash_samples(digest, file, size)
    return digest.hexdigest()


def _reason(error: BaseException) -> str:
    """Say what a library's exception says, on one line."""
    text = " ".join(str(error).split()) or "no reason given"
    return f"{type(error).__name__}: {text.rstrip('.')}"
