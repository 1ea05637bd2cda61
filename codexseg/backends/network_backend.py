"""Base class of backends that run a model over the whole slide."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import ceil
from typing import Any

import numpy as np

from codexseg.arrays import Labels, Pixels
from codexseg.backends.base import SlideContext, enlargement
from codexseg.backends.networks.weights import Weights
from codexseg.backends.panoptic.image import Image
from codexseg.backends.slide_pass import InMemory, SlidePass, SlideView
from codexseg.core.grid import Window


class NetworkBackend(ABC):
    """Backend that passes over the slide, or each patch, before it segments windows.

    A subclass calls `_set_margins` and defines the abstract methods.

    Parameters
    ----------
    config
        The segmentation section.
    slide : SlideContext
        `mpp` and `shape` set the image that the model sees.

    Attributes
    ----------
    mpp : float or None
        Pixel size of the model, um; None: that of the slide.
    slide_passes : sequence of SlidePass
        With slide normalisation those of the slide, else none: each patch is an image of
        its own.
    """

    mpp: float | None = None
    slide_passes: Sequence[SlidePass] = ()
    _weights: Weights

    def __init__(self, config: Any, slide: SlideContext) -> None:
        self._config, self._slide = config, slide

    @property
    def about(self) -> dict[str, str | bool | None]:
        """Weights and licence, for the manifest of a run."""
        return self._weights.about

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a name of the computation, the packages, the weights and the options."""

    @abstractmethod
    def segment_window(self, window: Window, slide: SlideView) -> Labels:
        """Segment a window of a slide after the slide passes.

        Parameters
        ----------
        window : Window
            Window of the slide, px.
        slide : SlideView
            The slide with the results of all slide passes.

        Returns
        -------
        labels : (2, y, x) uint32
            Cells, nuclei. Objects farther than `context_px` from a cut edge of the window
            are those of the whole slide.
        """

    @abstractmethod
    def _slide_passes(self, shape: tuple[int, int]) -> Sequence[SlidePass]:
        """Return the slide passes over a slide of `shape` px."""

    def _passes_over(self, pixels: Pixels) -> Sequence[SlidePass]:
        """Return the slide passes over an image of its own, (2, y, x)."""
        height, width = pixels.shape[1:]
        return self._slide_passes((height, width))

    def predict(self, patches: Pixels, windows: Sequence[Window]) -> Labels:
        """Segment each patch as an image of its own.

        Parameters and result are those of :meth:`codexseg.backends.base.Backend.predict`;
        `windows` are not used.
        """
        del windows
        labels = np.zeros(patches.shape, np.uint32)
        for pixels, planes in zip(patches, labels, strict=True):
            planes[:] = self._segment_alone(InMemory(pixels, self._passes_over(pixels)))
        return labels

    def _segment_alone(self, image: InMemory) -> Labels:
        return self.segment_window(Window(0, 0, *image.shape), image)

    def _set_margins(self, context_px: int, cell_px: int) -> None:
        """Set `context_px` and `halo_px` from distances in the image of the model."""
        per_px = enlargement(self._slide, self.mpp or self._slide.mpp)
        self.context_px = ceil(context_px / per_px)
        self.halo_px = ceil((context_px + cell_px) / per_px)

    def _image(self, shape: tuple[int, int]) -> Image:
        """Return the image that the model sees of a slide of `shape` px."""
        return Image.of(shape, self._slide.mpp, self.mpp)
