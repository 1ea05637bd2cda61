"""What a comparison looks at: a window of an image, and the truth of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codexseg.config.schema import Config
from codexseg.core.grid import PatchGrid, Window
from codexseg.core.intensity.histogram import block_mean
from codexseg.core.labels.operations import Labels
from codexseg.errors import InputError
from codexseg.io.labels.finder import find_labels
from codexseg.io.labels.reader import open_labels
from codexseg.io.slides.base import SlideImage, resolve_mpp
from codexseg.io.slides.open import open_image
from codexseg.stages.channels import check_channels, with_channels_by_name
from codexseg.stages.pixels import SegmentationChannels

LARGEST_PX = 2048
"""Longest side of what is segmented where no window is asked for."""
SMALLEST_PX = 64
"""Least side of a window."""
MOST_PX = 8192**2
"""A larger window is for `codexseg run`."""
_COARSE_PX = 64
_SEARCHED_PX = 1024
_STRIP_PX = 2048


@dataclass(frozen=True)
class Scene:
    """A window of an image, and which of its channels are segmented.

    Attributes
    ----------
    slide : SlideImage
        The whole image.
    config : Config
        How it is to be looked at; channels by name.
    window : Window
        Px of the image.
    """

    slide: SlideImage
    config: Config
    window: Window

    @classmethod
    def open(cls, config: Config, window: Sequence[int] | None = None) -> "Scene":
        """Open the image of a configuration.

        Parameters
        ----------
        config : Config
            Its sections data and channels are used, and whether a diameter is looked for.
        window : four ints, optional
            y0, x0, height, width, px; otherwise see :func:`brightest_window`.

        Raises
        ------
        InputError
            If the image cannot be read, a channel is not there, the pixel size is
            unknown, or the window is not in it.
        """
        data = config.data
        if data.file_name is None:
            raise InputError("there is no image: data.file_name is missing.")
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
        """Which channels of the image are segmented."""
        return SegmentationChannels.resolve(self.config, self.slide.channel_names)

    @property
    def mpp(self) -> float | None:
        """Micrometres per pixel: the user's word, else the image's."""
        return self.config.data.image_mpp or self.slide.mpp

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the whole image, px."""
        return self.slide.shape[1], self.slide.shape[2]

    def narrowed(self, config: Config, path: Path) -> Config:
        """Bring the configuration of the image to what :meth:`write` wrote."""
        data = {"file_name": path, "antibodies_file": None, "image_mpp": self.mpp}
        sections = {
            "data": config.data.model_copy(update=data),
            "channels": self.config.channels,
        }
        return config.model_copy(update=sections)

    def read(self) -> NDArray[Any]:
        """Read the window, (2, y, x): nucleus, whole cell."""
        return self.channels.read(self.slide, self.window)

    def write(self, path: Path) -> None:
        """Write the window as an OME-TIFF of the channels that are needed."""
        import tifffile

        numbers = self.channels.all
        pixels = np.stack([self.slide.read(c, self.window) for c in numbers])
        names = [self.slide.channel_names[c] for c in numbers]
        metadata = {"axes": "CYX", "Channel": {"Name": names}}
        options: dict[str, Any] = {"photometric": "minisblack", "metadata": metadata}
        tifffile.imwrite(path, pixels, ome=True, tile=(512, 512), **options)


def _checked(window: Sequence[int], shape: tuple[int, int]) -> Window:
    y0, x0, height, width = window
    found = Window(y0, x0, y0 + height, x0 + width)
    inside = min(y0, x0) >= 0 and found.y1 <= shape[0] and found.x1 <= shape[1]
    if not inside or min(height, width) < SMALLEST_PX or found.area > MOST_PX:
        raise InputError(
            f"--window is {y0} {x0} {height} {width} (y0 x0 height width, px), expected at "
            f"least {SMALLEST_PX} px a side, inside the image (height {shape[0]}, width "
            f"{shape[1]} px), and at most {MOST_PX / 1e6:.0f} Mpx: for more, run each "
            f"backend with codexseg run, and codexseg evaluate one run by the other."
        )
    return found


def read_truth(
    path: Path, compartment: str, shape: tuple[int, int], window: Window
) -> Labels:
    """Read true labels of a window, (y, x) uint32.

    Parameters
    ----------
    path : Path
        One label image, of the whole image or of the window.
    compartment : str
        cell or nucleus, where the path is a run directory.
    shape : (int, int)
        Height and width of the image, px.
    window : Window
        Of the image.

    Raises
    ------
    InputError
        If there is none, or several, or of another size, or no labels.
    """
    files = find_labels(path, compartment)
    if len(files) != 1:
        raise InputError(f"{path} holds {len(files)} label images, expected one.")
    with open_labels(files[0]) as labels:
        if labels.is_probability:
            raise InputError(f"{labels.title} holds floats, expected labels: integers.")
        if labels.shape == shape:
            return labels.read(window)
        if labels.shape == window.shape:
            return labels.read(Window(0, 0, *window.shape))
        raise InputError(
            f"{labels.title} has height and width {labels.shape}, expected those of the "
            f"image, {shape}, or of the window, {window.shape}."
        )


def brightest_window(slide: SlideImage, channel: int) -> Window:
    """Return the window of at most 2048 x 2048 px that holds most light of a channel.

    It is looked for on a coarse level of the slide, between the darkest and the brightest
    hundredth, so that neither a camera's offset nor one bright smear counts.
    """
    height, width = slide.shape[1:]
    size = min(LARGEST_PX, height), min(LARGEST_PX, width)
    if size == (height, width):
        return Window(0, 0, height, width)
    levels = [k for k, shape in enumerate(slide.levels) if max(shape) >= _SEARCHED_PX]
    level = levels[-1] if levels else 0
    scale = height / slide.levels[level][0]
    side = max(1, round(_COARSE_PX / scale))
    grid = PatchGrid(slide.levels[level], (_STRIP_PX // side * side,) * 2, (0, 0))
    parts = [block_mean(slide.read(channel, p.core, level), side) for p in grid]
    columns = grid.counts[1]
    light = np.concatenate(
        [
            np.concatenate(parts[i : i + columns], axis=1)
            for i in range(0, len(parts), columns)
        ]
    )
    low, high = np.percentile(light, (1, 99))
    y, x = _best_square(
        light.clip(low, high) - low, [max(1, round(n / scale / side)) for n in size]
    )
    y0 = min(round(y * side * scale), height - size[0])
    x0 = min(round(x * side * scale), width - size[1])
    return Window(y0, x0, y0 + size[0], x0 + size[1])


def _best_square(light: NDArray[np.float32], size: Sequence[int]) -> tuple[int, int]:
    """Return the corner of the rectangle with the largest sum."""
    rows, columns = (min(n, m) for n, m in zip(size, light.shape, strict=True))
    total = np.zeros((light.shape[0] + 1, light.shape[1] + 1))
    total[1:, 1:] = light.cumsum(axis=0, dtype=np.float64).cumsum(axis=1)
    sums = total[rows:, columns:] - total[:-rows, columns:]
    sums = sums - total[rows:, :-columns] + total[:-rows, :-columns]
    y, x = np.unravel_index(int(sums.argmax()), sums.shape)
    return int(y), int(x)
