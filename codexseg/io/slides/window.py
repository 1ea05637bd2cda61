"""A rectangle of a slide, presented as a slide of its own."""

import hashlib
import operator
from collections.abc import Callable, Sequence
from typing import Any

from codexseg.arrays import Pixels
from codexseg.core.grid import Window
from codexseg.errors import InputError
from codexseg.io.slides.base import SlideImage, SlideInfo


class SlideWindow(SlideImage):
    """A rectangle of another slide; see `SlideImage`.

    Path, format, dtype, channel names and pixel size are those of the whole slide, sizes
    and coordinates those of the rectangle. `crop_slide` checks the rectangle and creates
    the object.

    Attributes
    ----------
    parent : SlideImage
        The whole slide.
    window : Window
        The rectangle, px of the slide's full resolution.
    """

    def __init__(self, parent: SlideImage, window: Window) -> None:
        self._blocks = {
            level: block
            for level in range(len(parent.levels))
            if (block := _on_level(window, parent, level)) is not None
        }
        info = SlideInfo(
            path=parent.path,
            format=parent.format,
            shape=(parent.shape[0], *window.shape),
            dtype=parent.dtype,
            levels=tuple(block.shape for block in self._blocks.values()),
            names=parent.channel_names,
            mpp=parent.mpp,
        )
        super().__init__(info, None)
        self.panel_file = parent.panel_file
        self.parent = parent
        self.window = window

    def __reduce__(self) -> tuple[Callable[..., SlideImage], tuple[Any, ...]]:
        return SlideWindow, (self.parent, self.window)

    def _read(self, channel: int, window: Window, level: int) -> Pixels:
        parent_level, block = list(self._blocks.items())[level]
        y0, x0 = block.y0 + window.y0, block.x0 + window.x0
        height, width = window.shape
        shifted = Window(y0, x0, y0 + height, x0 + width)
        return self.parent._read(channel, shifted, parent_level)

    def fingerprint(self) -> str:
        """Identify slide and rectangle; see `SlideImage.fingerprint`."""
        w = self.window
        text = f"{self.parent.fingerprint()} {w.y0} {w.x0} {w.y1} {w.x1}"
        return hashlib.sha256(text.encode()).hexdigest()


def crop_slide(slide: SlideImage, window: Sequence[int]) -> SlideWindow:
    """Present a rectangle of a slide as a slide of its own.

    Parameters
    ----------
    slide : SlideImage
        The slide; the window of a window refers to the whole slide again.
    window : (int, int, int, int)
        First row, first column, height and width, px of the full resolution.

    Returns
    -------
    SlideWindow
        The full resolution of the rectangle, and every pyramid level on which its edges
        fall on pixel borders.

    Raises
    ------
    InputError
        If the window is empty or not inside the slide.
    """
    try:
        y0, x0, height, width = map(operator.index, window)
    except (TypeError, ValueError):
        raise InputError(
            f"Invalid window {window!r}. Expected four integers: first row, first column, "
            f"height and width in px."
        ) from None
    rows, columns = slide.shape[1:]
    if not (0 <= y0 < y0 + height <= rows and 0 <= x0 < x0 + width <= columns):
        raise InputError(
            f"The window {(y0, x0, height, width)} is not inside {slide.path}, which is "
            f"{rows} px high and {columns} px wide. Choose y0, x0, height and width so "
            f"that y0 + height <= {rows} and x0 + width <= {columns}."
        )
    if isinstance(slide, SlideWindow):
        y0, x0, slide = y0 + slide.window.y0, x0 + slide.window.x0, slide.parent
    return SlideWindow(slide, Window(y0, x0, y0 + height, x0 + width))


def _on_level(window: Window, slide: SlideImage, level: int) -> Window | None:
    """Return the window in px of a pyramid level; None where pixels would be cut.

    At the bottom and right edges of the slide, the last pixel of a level may cover less
    than the others, so that windows may end there.
    """
    full, shape = slide.levels[0], slide.levels[level]
    axis = full.index(max(full))
    factor = round(full[axis] / shape[axis])
    block = []
    for length, size, span in zip(full, shape, window.slices, strict=True):
        at_edge = span.stop == length
        if size not in (max(1, length // factor), -(-length // factor)):
            return None  # reduced by another factor, or not by a whole number
        if span.start % factor or (span.stop % factor and not at_edge):
            return None
        block.append((span.start // factor, size if at_edge else span.stop // factor))
    (y0, y1), (x0, x1) = block
    return Window(y0, x0, y1, x1) if y0 < y1 and x0 < x1 else None
