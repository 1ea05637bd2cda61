"""A U-Net in onnxruntime, and the slide pass that predicts a slide tile by tile."""

from collections.abc import Callable, Sequence

import numpy as np

from codexseg.arrays import Float32
from codexseg.backends.networks.onnx import Session
from codexseg.backends.networks.runtime import Batch
from codexseg.backends.networks.weights import Weights
from codexseg.backends.panoptic.image import Image
from codexseg.backends.panoptic.passes import TilesPass
from codexseg.backends.process_cache import load_once
from codexseg.backends.slide_pass import SlideView
from codexseg.backends.unet.spec import UnetSpec, scale_to_unit
from codexseg.core.algorithms.tiles import TILE_PX
from codexseg.core.grid import Window
from codexseg.errors import InputError

Limits = Sequence[tuple[float, float]]


class UnetNetwork:
    """A loaded U-Net.

    Attributes
    ----------
    runtime : {"onnxruntime"}
    device : {"cpu", "cuda"}
    """

    runtime = "onnxruntime"

    def __init__(self, weights: Weights, device: str) -> None:
        self._session = Session(weights.path, device)
        self.device = self._session.device

    def predict(self, tiles: Float32) -> Float32:
        """Predict a batch: (n, y, x, inputs) to (n, outputs, y, x), float32."""
        (maps,) = self._session.run(None, {self._session.inputs[0]: tiles})
        return np.ascontiguousarray(np.moveaxis(maps, -1, 1))


def open_unet(weights: Weights, device: str = "auto") -> UnetNetwork:
    """Load a U-Net, once per process.

    Raises
    ------
    BackendUnavailable
        If the device is not available.
    InputError
        If the file cannot be loaded.
    """
    return load_once(UnetNetwork, weights, device)


class UnetPass(TilesPass):
    """Foreground probabilities of a slide.

    The tiles of 256 px of :mod:`codexseg.core.algorithms.tiles` do not depend on patches,
    and have the height of training images. The receptive field of a deep U-Net is wider
    than the overlap of tiles. The border affects a tile as in training, and its effect
    fades out where tiles blend.

    Parameters
    ----------
    image : Image
        Image of the network.
    weights, spec
        The network.
    limits : callable
        Returns the intensities that become 0 and 1, for each input; called when the first
        tile is read.
    device : str
        Argument of :func:`open_unet`.
    batch : Batch
        Number of tiles that the network predicts at once.
    names : dict of str
        Output to the name of its map; other outputs are not kept.
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

    def _input(self, window: Window, slide: SlideView) -> Float32:
        """Read the input of the network in a window: (inputs, y, x), 0 to 1."""
        channels = dict(
            zip(("nucleus", "wholecell"), self._image.read(window, slide), strict=True)
        )
        return np.stack(
            [
                scale_to_unit(channels[name], *levels)
                for name, levels in zip(self._spec.inputs, self._limits(), strict=True)
            ]
        )

    def _checked(self, output: Float32) -> Float32:
        expected = (len(self._spec.outputs), TILE_PX, TILE_PX)
        if output.shape != expected or not np.isfinite(output).all():
            raise InputError(
                f"{self._weights.path} gives maps of {output.shape} or NaN, expected "
                f"probabilities of {expected}. It is damaged or diverged in training. "
                f"Train or export it again."
            )
        return output
