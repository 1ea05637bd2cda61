"""Pictures (png, jpg, bmp) as slide images of one or three channels.

Pictures are small compared with slides, and are decoded as a whole when opened. The alpha
channel is dropped and a palette is applied. Their resolution is ignored because it refers
to printing.
"""

import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np

from codexseg.arrays import Pixels
from codexseg.core.grid import Window
from codexseg.errors import InputError
from codexseg.io.slides.base import COLOURS, SlideImage, SlideInfo, reading

GREY: Final = ("grey",)
MAGIC: Final = {b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"BM": "BMP"}
MAX_PX: Final = 2**27
"""Limit of a picture, because it is in memory as a whole."""

_GREY_MODES: Final = {"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L"}
_DEEP: Final = 16  # bits per sample
_PNG_HEADER: Final = 26  # bytes; the last but one is the bit depth


class PictureImage(SlideImage):
    """A png, jpg or bmp; see `SlideImage` and `codexseg.io.slides.open.open_image`.

    Raises
    ------
    InputError
        If it is damaged, larger than 2**27 px, or animated.
    """

    def __init__(self, path: Path, panel_file: Path | None) -> None:
        kind, names, self._pixels = _read_picture(path)
        shape = self._pixels.shape[1], self._pixels.shape[2]
        info = SlideInfo(
            path=path,
            format=kind,
            shape=(len(names), *shape),
            dtype=self._pixels.dtype,
            levels=(shape,),
            names=names,
            mpp=None,
        )
        super().__init__(info, panel_file)

    def _read(self, channel: int, window: Window, level: int) -> Pixels:
        del level
        return np.array(self._pixels[channel, *window.slices], order="C")


def is_picture(start: bytes) -> bool:
    """Whether the first bytes of a file are those of a picture."""
    return any(start.startswith(magic) for magic in MAGIC)


def _read_picture(path: Path) -> tuple[str, tuple[str, ...], Pixels]:
    """Return format, channel names and pixels (c, y, x) of a picture."""
    from PIL import Image

    try:
        with reading(path, "picture", SyntaxError), warnings.catch_warnings():
            # Pillow warns about large pictures; the size is checked below
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=tuple(MAGIC.values())) as image:
                if image.width * image.height > MAX_PX:
                    raise _too_large(path)
                frames = getattr(image, "n_frames", 1)
                if frames != 1:
                    raise InputError(
                        f"{path} is an animation of {frames} frames, expected one. Export "
                        f"one frame."
                    )
                return str(image.format), *_decoded(path, image)
    except Image.DecompressionBombError as error:
        raise _too_large(path) from error


def _decoded(path: Path, image: Any) -> tuple[tuple[str, ...], Pixels]:
    """Return the channel names of a picture and its pixels (c, y, x)."""
    names = GREY if _is_grey(image) else COLOURS
    if _is_deep(path):  # Pillow halves the depth of colours
        import imagecodecs

        pixels = np.asarray(imagecodecs.png_decode(path.read_bytes()))
    elif image.mode in ("LA", "RGBA"):  # without blending them with black
        pixels = np.asarray(image)
    else:
        pixels = np.asarray(image.convert("L" if names == GREY else "RGB"))
    planes = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
    return names, np.ascontiguousarray(planes[: len(names)])


def _is_grey(image: Any) -> bool:
    """Whether the mode of a picture is grey, or all colours of its palette are."""
    if image.mode != "P":
        return image.mode in _GREY_MODES
    palette = np.array(image.getpalette() or [0, 0, 0]).reshape(-1, 3)
    return bool((palette == palette[:, :1]).all())


def _is_deep(path: Path) -> bool:
    """Whether a picture is a png with 16 bits per sample."""
    with path.open("rb") as file:
        header = file.read(_PNG_HEADER)
    return header.startswith(b"\x89PNG") and header[-2] == _DEEP


def _too_large(path: Path) -> InputError:
    return InputError(
        f"{path} is a picture of more than {MAX_PX} px, too large for memory. Convert it "
        f"to a tiled TIFF, which is read lazily."
    )
