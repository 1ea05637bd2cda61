"""A U-Net in onnxruntime."""

import numpy as np

from codexseg.arrays import Float32
from codexseg.backends.networks.onnx import Session
from codexseg.backends.networks.weights import Weights
from codexseg.backends.process_cache import load_once
from codexseg.errors import InputError


class UnetNetwork:
    """A loaded U-Net.

    Attributes
    ----------
    runtime : {"onnxruntime"}
    device : {"cpu", "cuda"}
    """

    runtime = "onnxruntime"

    def __init__(self, weights: Weights, outputs: tuple[str, ...], device: str) -> None:
        self._path, self._outputs = weights.path, outputs
        self._session = Session(weights.path, device)
        self.device = self._session.device

    def predict(self, tiles: Float32) -> Float32:
        """Predict a batch: (n, y, x, inputs) to (n, outputs, y, x), float32.

        Raises
        ------
        InputError
            If the network gives maps of another shape, or NaN.
        """
        (maps,) = self._session.run(None, {self._session.inputs[0]: tiles})
        maps = np.ascontiguousarray(np.moveaxis(maps, -1, 1))
        expected = (len(self._outputs), *tiles.shape[1:3])
        if maps.shape[1:] != expected or not np.isfinite(maps).all():
            raise InputError(
                f"{self._path} gives maps of {maps.shape[1:]} or NaN, expected "
                f"probabilities of {expected}. It is damaged or diverged in training. "
                f"Train or export it again."
            )
        return maps


def open_unet(
    weights: Weights, outputs: tuple[str, ...], device: str = "auto"
) -> UnetNetwork:
    """Load a U-Net with outputs of these names, once per process.

    Raises
    ------
    BackendUnavailable
        If the device is not available.
    InputError
        If the file cannot be loaded.
    """
    return load_once(UnetNetwork, weights, outputs, device)
