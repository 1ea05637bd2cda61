"""A U-Net in onnxruntime, and the slide_pass that has it predict a slide, tile by tile."""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from codexseg.backends.base import SlideView
from codexseg.backends.networks.onnx import Session
from codexseg.backends.networks.runtime import Batch
from codexseg.backends.networks.weights import Weights
from codexseg.backends.panoptic.image import Image
from codexseg.backends.panoptic.passes import TilesPass
from codexseg.backends.unet.spec import UnetSpec, to_unit
from codexseg.core.algorithms.tiles import TILE_PX
from codexseg.core.grid import Window
from codexseg.errors import InputError

Floats = NDArray[np.float32]
Limits = Sequence[tuple[float, float]]


class UnetNetwork:
    """A U-Net, loaded.

    Attributes
    ----------
    runtime, device : str
        onnxruntime; cpu or cuda.
    """

    runtime = "onnxruntime"

    def __init__(self, weights: Weights, device: str) -> None:
        self._session = Session(weights.path, device)
        self.device = self._session.device

    def predict(self, tiles: Floats) -> Floats:
        """Predict a batch: (n, y, x, inputs) to (n, outputs, y, x), float32."""
        (maps,) = self._session.run(None, {self._session.inputs[0]: tiles})
        return np.ascontiguousarray(np.moveaxis(maps, -1, 1))


@lru_cache(maxsize=1)
def open_unet(weights: Weights, device: str = "auto") -> UnetNetwork:
    """Load a U-Net, once per process.

    Raises
    ------
    BackendUnavailable
        If the device cannot be had.
    InputError
        If the file cannot be loaded.
    """
    return UnetNetwork(weights, device)


class UnetPass(TilesPass):
    """The probabilities of a slide.

    The tiles are those of :mod:`codexseg.core.algorithms.tiles`, of 256 px, the height of
    an image
    in training: every one is a function of the slide alone, so patches cannot show. The
    receptive field of a deep U-Net is wider than a tile's overlap; what its border does to
    the maps of a tile is what it did in training, and fades out where tiles blend.

    Parameters
    ----------
    image : Image
        What the network sees of the slide.
    weights, spec
        The network.
    limits : callable
        Returns the grey levels that become 0 and 1, for each input; called once the
        slide's statistics are needed.
    device : str
        See :func:`open_unet`.
    batch : Batch
        How many tiles go to the network at once.
    names : dict of str
        By which name the map of an output is kept; others are not.
    """

    def __init__(
        self,
        image: Image,
        weights: Weights,
        spec: UnetSpec,
        limits: Callable[[], Limits],
        device: str,
        batch: Batch,
        names: dict[str, str],
    ) -> None:
        kept = [(spec.outputs.index(output), name) for output, name in names.items()]
        super().__init__(image, batch, kept)
        self._weights, self._spec = weights, spec
        self._limits, self._device = limits, device

    def _open(self) -> UnetNetwork:
        return open_unet(self._weights, self._device)

    def _seen(self, window: Window, slide: SlideView) -> Floats:
        """Read what the network is given of a window: (inputs, y, x), 0 to 1."""
        channels = dict(
            zip(("nucleus", "wholecell"), self._image.read(window, slide), strict=True)
        )
        return np.stack(
            [
                to_unit(channels[name], *levels)
                for name, levels in zip(self._spec.inputs, self._limits(), strict=True)
            ]
        )

    def _checked(self, output: Floats) -> Floats:
        expected = (len(self._spec.outputs), TILE_PX, TILE_PX)
        if output.shape != expected or not np.isfinite(output).all():
            raise InputError(
                f"{self._weights.path} gives maps of {output.shape} or NaN, expected "
                f"probabilities of {expected}: it is damaged or diverged in training; "
                f"train or export it again."
            )
        return output
