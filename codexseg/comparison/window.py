"""Window of an image that backends are compared on, and its reference labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from codexseg.arrays import Float32, Labels, Pixels
from codexseg.config.schema import Config
from codexseg.core.grid import PatchGrid, Window
from codexseg.core.intensity.histogram import block_mean
from codexseg.errors import InputError
from codexseg.io.labels.finder import find_labels
from codexseg.io.labels.reader import open_labels
from codexseg.io.slides.base import SlideImage, resolve_mpp
from codexseg.io.slides.channels import (
    SegmentationChannels,
    check_channels,
    with_channels_by_name,
)
from codexseg.io.slides.open import open_image

DEFAULT_SIDE_PX = 2048
"""Longest side of the window that is chosen if the user passes none."""
MIN_SIDE_PX = 64
MAX_AREA_PX = 8192**2
"""Larger windows need the bounded memory of `codexseg run`."""
_BLOCK_PX = 64
_MIN_LEVEL_PX = 1024
_TILE_PX = 2048


@dataclass(frozen=True)
class ComparisonWindow:
    """Window of an image and its segmentation channels.

    Attributes
    ----------
    slide : SlideImage
        The whole image.
    config : Config
        Configuration of the image, with channels by name.
    window : Window
        In px of the image.
    """

    slide: SlideImage
    config: Config
    window: Window

    @classmethod
    def open(
        cls, config: Config, window: Sequence[int] | None = None
    ) -> "ComparisonWindow":
        """Open the image of a configuration.

        Parameters
        ----------
        config : Config
            The sections data and channels are used, and `segmentation.diameter`.
        window : four ints, optional
            y0, x0, height, width, px; by default :func:`brightest_window`.

        Raises
        ------
        InputError
            If the image cannot be read, a channel or the pixel size is missing, or the
            window is too small, too large or outside the image.
        """
        data = config.data
        if data.file_name is None:
            raise InputError("data.file_name is missing. Set it to the path of the image.")
        slide = open_image(data.file_name, data.antibodies_file)
        if config.segmentation.diameter != "auto" and not data.image_mpp:
            resolve_mpp(slide.mpp, None, slide.path)
        check_channels(config, slide.channel_names)
        config = with_channels_by_name(config, slide.channel_names)
        if window is not None:
            return cls(slide, config, _checked(window, slide.shape[1:]))
        nucleus = SegmentationChannels.resolve(config, slide.channel_names).nucleus
        return cls(slide, config, brightest_window(slide, nucleus))

    @property
    def channels(self) -> SegmentationChannels:
        """Channels of the image that are segmented."""
        return SegmentationChannels.resolve(self.config, self.slide.channel_names)

    @property
    def mpp(self) -> float | None:
        """Micrometres per pixel: of the configuration, else of the image."""
        return self.config.data.image_mpp or self.slide.mpp

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the whole image, px."""
        return self.slide.shape[1], self.slide.shape[2]

    def config_of_file(self, config: Config, path: Path) -> Config:
        """Return a configuration of the image, changed for the file of :meth:`write`."""
        data = {"file_name": path, "antibodies_file": None, "image_mpp": self.mpp}
        sections = {
            "data": config.data.model_copy(update=data),
            "channels": self.config.channels,
        }
        return config.model_copy(update=sections)

    def read(self) -> Pixels:
        """Read the pixels of the window, (2, y, x): nucleus, whole cell."""
        return self.channels.read(self.slide, self.window)

    def write(self, path: Path) -> None:
        """Write the segmentation channels of the window as an OME-TIFF."""
        import tifffile

        numbers = self.channels.all
        pixels = np.stack([self.slide.read(c, self.window) for c in numbers])
        names = [self.slide.channel_names[c] for c in numbers]
        metadata = {"axes": "CYX", "Channel": {"Name": names}}
        options: dict[str, Any] = {"photometric": "minisblack", "metadata": metadata}
        tifffile.imwrite(path, pixels, ome=True, tile=(512, 512), **options)


def _checked(window: Sequence[int], shape: tuple[int, int]) -> Window:
    y0, x0, height, width = window
    checked = Window(y0, x0, y0 + height, x0 + width)
    inside = min(y0, x0) >= 0 and checked.y1 <= shape[0] and checked.x1 <= shape[1]
    if not inside or min(height, width) < MIN_SIDE_PX or checked.area > MAX_AREA_PX:
        raise InputError(
            f"--window is {y0} {x0} {height} {width} (y0 x0 height width, px), expected at "
            f"least {MIN_SIDE_PX} px a side, at most {MAX_AREA_PX / 1e6:.0f} Mpx, and "
            f"inside the image (height {shape[0]}, width {shape[1]} px). For larger "
            f"windows use codexseg run for each backend, then codexseg evaluate."
        )
    return checked


def read_reference(
    path: Path, compartment: str, shape: tuple[int, int], window: Window
) -> Labels:
    """Read reference labels of a window, (y, x) uint32.

    Parameters
    ----------
    path : Path
        Label image of the whole image or of the window, or a run directory.
    compartment : str
        Labels of a run directory: cell or nucleus.
    shape : (int, int)
        Height and width of the image, px.
    window : Window
        In px of the image.

    Raises
    ------
    InputError
        If the path contains no label image, several, or one of another size or dtype.
    """
    files = find_labels(path, compartment)
    if len(files) != 1:
        raise InputError(f"{path} contains {len(files)} label images, expected one.")
    with open_labels(files[0]) as labels:
        if labels.is_probability:
            raise InputError(f"{labels.title} contains floats, expected integer labels.")
        if labels.shape == shape:
            return labels.read(window)
        if labels.shape == window.shape:
            return labels.read(Window(0, 0, *window.shape))
        raise InputError(
            f"{labels.title} has height and width {labels.shape}, expected {shape} (the "
            f"image) or {window.shape} (the window)."
        )


def brightest_window(slide: SlideImage, channel: int) -> Window:
    """Return the brightest window of at most 2048 x 2048 px in a channel.

    The search uses means of 64 px blocks on a coarse level. Values are clipped at the
    first and last percentile, because a camera offset or one bright smear would dominate
    the sums.
    """
    height, width = slide.shape[1:]
    size = min(DEFAULT_SIDE_PX, height), min(DEFAULT_SIDE_PX, width)
    if size == (height, width):
        return Window(0, 0, height, width)
    levels = [k for k, shape in enumerate(slide.levels) if max(shape) >= _MIN_LEVEL_PX]
    level = levels[-1] if levels else 0
    scale = height / slide.levels[level][0]
    side = max(1, round(_BLOCK_PX / scale))
    means = _block_means(slide, channel, level, side)
    low, high = np.percentile(means, (1, 99))
    y, x = _brightest_rectangle(
        means.clip(low, high) - low, [max(1, round(n / scale / side)) for n in size]
    )
    y0 = min(round(y * side * scale), height - size[0])
    x0 = min(round(x * side * scale), width - size[1])
    return Window(y0, x0, y0 + size[0], x0 + size[1])


def _block_means(slide: SlideImage, channel: int, level: int, side: int) -> Float32:
    """Return the means of blocks of `side` px of a level, read tile by tile."""
    grid = PatchGrid(slide.levels[level], (_TILE_PX // side * side,) * 2, (0, 0))
    tiles = [block_mean(slide.read(channel, tile.core, level), side) for tile in grid]
    columns = grid.counts[1]
    starts = range(0, len(tiles), columns)
    return np.block([tiles[start : start + columns] for start in starts])


def _brightest_rectangle(means: Float32, size: Sequence[int]) -> tuple[int, int]:
    """Return the corner of the rectangle with the largest sum (summed-area table)."""
    rows, columns = (min(n, m) for n, m in zip(size, means.shape, strict=True))
    table = np.pad(means.cumsum(axis=0, dtype=np.float64).cumsum(axis=1), ((1, 0), (1, 0)))
    sums = table[rows:, columns:] - table[:-rows, columns:]
    sums = sums - table[rows:, :-columns] + table[:-rows, :-columns]
    y, x = np.unravel_index(int(sums.argmax()), sums.shape)
    return int(y), int(x)
