"""Lazy slide image for notebooks: channels by name, windows, overviews."""

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any, Final

import numpy as np

from codexseg.arrays import Pixels
from codexseg.core.grid import Window
from codexseg.errors import InputError
from codexseg.io.slides.base import resolve_mpp
from codexseg.io.slides.open import open_image
from codexseg.io.slides.panel import resolve_channel

_BAND_PIXELS: Final = 2**24
"""Pixels that `overview` reads at once."""

ChannelName = str | int


class CodexImage:
    """A multichannel slide, opened lazily.

    Parameters
    ----------
    path : str or Path
        OME-TIFF, QPTIFF, multi-page TIFF or OME-Zarr.
    panel_file : str or Path, optional
        Table of channel names (`data.antibodies_file`), which replace those of the file.
    mpp : float, optional
        Micrometres per pixel, for a file without a pixel size.

    Raises
    ------
    InputError
        If the image or the panel cannot be used, or `mpp` contradicts the file.

    Examples
    --------
    >>> image = CodexImage("slide.qptiff")  # doctest: +SKIP
    >>> image.read("DAPI", (0, 0, 512, 512)).shape  # doctest: +SKIP
    (512, 512)
    """

    def __init__(
        self,
        path: str | Path,
        panel_file: str | Path | None = None,
        mpp: float | None = None,
    ) -> None:
        self._slide = open_image(path, panel_file)
        self._mpp = self._slide.mpp
        if self._mpp is not None or mpp is not None:
            self._mpp = resolve_mpp(self._mpp, mpp, self._slide.path)

    def __repr__(self) -> str:
        return f"CodexImage({self._slide!r})"

    @property
    def path(self) -> Path:
        """Absolute path of the slide."""
        return self._slide.path

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Names of the channels, in the order of the file."""
        return self._slide.channel_names

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of channels, height and width (px)."""
        return self._slide.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the pixels: uint8, uint16 or float32."""
        return self._slide.dtype

    @property
    def mpp(self) -> float | None:
        """Micrometres per pixel; None if neither file nor caller gave it."""
        return self._mpp

    def read(
        self,
        channels: ChannelName | Sequence[ChannelName],
        window: Window | tuple[int, int, int, int],
    ) -> Pixels:
        """Read the pixels of a window; only its tiles are decoded.

        Parameters
        ----------
        channels : str, int, or a list of them
            Names (exact, else without regard to case) or numbers.
        window : Window or (y0, x0, y1, x1)
            Half-open window, in px of the full resolution.

        Returns
        -------
        (y, x) array
            Pixels of one channel; (c, y, x) for a list.

        Raises
        ------
        InputError
            If a channel is unknown or ambiguous, the window is not in the slide, or its
            pixels are damaged.
        """
        window = window if isinstance(window, Window) else Window(*window)
        if isinstance(channels, str | int):
            return self._slide.read(self._number(channels), window)
        numbers = [self._number(channel) for channel in channels]
        if not numbers:
            raise InputError("The list of channels is empty. Pass at least one name.")
        return np.stack([self._slide.read(number, window) for number in numbers])

    def overview(self, channel: ChannelName, max_px: int = 1024) -> Pixels:
        """Return a small preview of a channel: every n-th pixel of a pyramid level.

        Without a pyramid the whole channel is read once, in bands: memory is bounded,
        time grows with the slide.

        Parameters
        ----------
        channel : str or int
            Name or number.
        max_px : int
            Maximum length of the longer side, px.

        Returns
        -------
        (y, x) array
            Pixels of the slide's dtype.
        """
        if max_px < 1:
            raise InputError(f"max_px is {max_px}, expected at least 1.")
        number, levels = self._number(channel), self._slide.levels
        level = max((i for i, s in enumerate(levels) if max(s) >= max_px), default=0)
        height, width = levels[level]
        step = ceil(max(height, width) / max_px)
        rows = step * max(1, _BAND_PIXELS // (step * width))
        bands = [
            self._slide.read(number, Window(y, 0, min(height, y + rows), width), level)[
                ::step, ::step
            ].copy()
            for y in range(0, height, rows)
        ]
        return np.concatenate(bands)

    def info(self) -> dict[str, Any]:
        """Return path, format, size, dtype, mpp, channels and pyramid levels."""
        return {
            "path": str(self.path),
            "format": self._slide.format,
            "size": {"channels": self.shape[0], "y": self.shape[1], "x": self.shape[2]},
            "dtype": self.dtype.name,
            "mpp": self.mpp,
            "channels": list(self.channel_names),
            "pyramid": [list(level) for level in self._slide.levels],
        }

    def _number(self, channel: ChannelName) -> int:
        if isinstance(channel, str):
            return resolve_channel(channel, self.channel_names)
        return channel
