"""An array in memory as a slide image."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from codexseg.arrays import Pixels
from codexseg.core.grid import Window
from codexseg.io.slides.base import SlideImage, SlideInfo


class ArraySlide(SlideImage):
    """A multichannel image in memory; see `SlideImage`.

    Parameters
    ----------
    pixels : (c, y, x) uint8, uint16 or float32
        The image. It is not copied.
    channel_names : sequence of str
        One name per channel.
    mpp : float
        Micrometres per pixel.

    Raises
    ------
    InputError
        If shape, dtype or the number of names are not supported.
    """

    def __init__(self, pixels: Pixels, channel_names: Sequence[str], mpp: float) -> None:
        channels, height, width = pixels.shape
        info = SlideInfo(
            path=Path("array"),
            format="array",
            shape=(channels, height, width),
            dtype=pixels.dtype,
            levels=((height, width),),
            names=tuple(channel_names),
            mpp=mpp,
        )
        super().__init__(info, None)
        self._pixels = pixels

    def __reduce__(self) -> tuple[Callable[..., SlideImage], tuple[Any, ...]]:
        return ArraySlide, (self._pixels, self.channel_names, self.mpp)

    def _read(self, channel: int, window: Window, level: int) -> Pixels:
        del level
        return np.array(self._pixels[channel][window.slices], self.dtype, order="C")

    def fingerprint(self) -> str:
        """Return the sha256 of shape, dtype and pixels."""
        digest = hashlib.sha256(f"{self._pixels.shape} {self.dtype}".encode())
        digest.update(np.ascontiguousarray(self._pixels).data)
        return digest.hexdigest()
