"""InstanSeg: nuclei and cells, paired, from one network for any number of channels.

Goldsborough et al., A novel channel invariant architecture for the segmentation of cells
and nuclei in multiplexed images using InstanSeg, bioRxiv 2024.09.04.611150. One TorchScript
file contains the network and its post-processing.
"""

import warnings
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from codexseg.arrays import Float32, Labels
from codexseg.backends.base import SlideContext
from codexseg.backends.networks.onnx import loading
from codexseg.backends.optional import check_options, check_torch, torch_device
from codexseg.backends.process_cache import load_once
from codexseg.backends.tiled.backend import Channels, Tiled
from codexseg.backends.tiled.instanseg_weights import resolve_torchscript
from codexseg.errors import InputError

VERSION = 1
MIN_PX = 32
"""Minimum height and width of an image."""


class Instanseg(Tiled):
    """Nuclei and cells from InstanSeg; label i of both is one cell.

    The network is not local: it uses coordinates in the image, so labels depend slightly
    on the size of the image, and the cost per pixel grows with it. The fixed tile grid of
    :class:`codexseg.backends.tiled.backend.Tiled` makes the result a function of the
    slide. A channel without contrast is left out; without the whole-cell channel the
    network derives cells from the nuclear one. A worker on the CPU needs about 2.5 GB.

    Parameters
    ----------
    config
        The segmentation section. Model_path, device and normalization are read.
    slide : SlideContext
        `mpp` and `shape` set the image of 0.5 um per px that the network sees.

    Raises
    ------
    ConfigError
        If `options` are given.
    BackendUnavailable
        If torch, the weights or the requested GPU are missing.
    InputError
        If the weights cannot be read.
    """

    name: ClassVar[str] = "instanseg"
    mpp = 0.5
    percents = (0.1, 99.9)
    tile_core_px = 416  # with margins 512, the tile size of InstanSeg itself
    margin_px = 48  # multiples of 16, to which the network pads
    largest_px = 64  # an object ends within 64 px of its seed
    planes = ((0, 1),)

    def __init__(self, config: Any, slide: SlideContext) -> None:
        check_options(self.name, config.options, {})
        check_torch(self.name, config.device)
        self._weights = resolve_torchscript(config.model_path)
        super().__init__(config, slide)

    def fingerprint(self) -> str:
        """Return a name of the computation and the weights."""
        return f"{self.name}-{VERSION}-{self._weights.digest[:16]}"

    def segment(self, channels: Channels) -> tuple[Labels, str]:
        """Segment a tile."""
        network = load_network(
            self._weights.path, self._weights.digest, self._config.device
        )
        image = np.stack([channel for channel in channels if channel is not None])
        return network.segment(image), network.device


class InstansegNetwork:
    """The loaded TorchScript file.

    Parameters
    ----------
    path : Path
    device : {"auto", "cpu", "cuda"}

    Raises
    ------
    InputError
        If torch cannot load it.
    """

    def __init__(self, path: Path, device: str) -> None:
        import torch

        self.device = torch_device(device)
        self._path = path
        expected = (
            "a TorchScript file of InstanSeg. Correct segmentation.model_path, or remove "
            "it for the published weights."
        )
        # with optimisation the first call takes minutes
        with (
            loading(path, f"torch {torch.__version__}", expected),
            torch.jit.optimized_execution(False),  # noqa: FBT003
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript
            self._module = torch.jit.load(str(path), map_location=self.device).eval()

    def segment(self, channels: Float32) -> Labels:
        """Segment an image.

        Parameters
        ----------
        channels : (c, y, x) float32
            Intensities; 0 and 1 are the percentiles.

        Returns
        -------
        labels : (2, y, x) uint32
            Cells, nuclei; equal labels are one cell, and nuclei are inside their cells.

        Raises
        ------
        InputError
            If the output of the network has another shape.
        """
        import torch

        height, width = channels.shape[1:]
        below, right = (max(0, MIN_PX - side) for side in (height, width))
        padded = np.pad(channels, ((0, 0), (0, below), (0, right)), "edge")
        image = torch.from_numpy(padded[None]).to(self.device)
        with (
            torch.jit.optimized_execution(False),  # noqa: FBT003
            torch.inference_mode(),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")  # beta state of torch's sparse matrices
            output = self._module(image).cpu().numpy()
        if output.shape not in ((1, n, *padded.shape[1:]) for n in (1, 2)):
            raise InputError(
                f"{self._path} gives labels of shape {output.shape} for an image of shape "
                f"{padded.shape}. Expected (1, 2, y, x), nuclei and cells, or (1, 1, y, "
                f"x), nuclei. Set segmentation.model_path to a network of InstanSeg."
            )
        nuclei, cells = output[0, 0], output[0, -1]
        labels = np.stack([np.where(nuclei > 0, nuclei, cells), nuclei])
        return labels[:, :height, :width].astype(np.uint32)


def load_network(path: Path, digest: str, device: str) -> InstansegNetwork:
    """Load a network, once per process and content."""
    return load_once(InstansegNetwork, path, device, content=digest)
