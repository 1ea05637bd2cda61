"""InstanSeg: nuclei and cells, paired, from one network for any number of channels.

Goldsborough et al., A novel channel invariant architecture for the segmentation of cells
and nuclei in multiplexed images using InstanSeg, bioRxiv 2024.09.04.611150. The network
and what makes objects of its output are one TorchScript file, which is run as it is.
"""

import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from codexseg.backends.base import Labels, SlideContext
from codexseg.backends.networks.onnx import first_line
from codexseg.backends.optional import check_options, check_torch, torch_device
from codexseg.backends.tiled.backend import Channels, Floats, Tiled
from codexseg.backends.tiled.instanseg_weights import resolve_torchscript
from codexseg.errors import InputError

VERSION = 1
SMALLEST_PX = 32
"""The network takes no smaller image."""


class Instanseg(Tiled):
    """Nuclei and cells from InstanSeg; label i of both is one cell.

    The network is not local: it spreads coordinates over the image that it is given, so
    a pixel's label depends a little on the size of that image, and the cost per pixel
    grows with it. Tiles that are fixed on the slide make it a function of the slide; see
    :class:`codexseg.backends.tiled.backend.Tiled`, also for normalisation. A channel
    without
    contrast is left out; where that is the whole-cell channel, the network makes cells of
    the nuclear one. A worker on the CPU needs about 2.5 GB.

    Parameters
    ----------
    config
        The segmentation section: model_path, device and normalization are read.
    slide : SlideContext
        `mpp` and `shape` set the image of 0.5 um per px that the network sees.

    Raises
    ------
    ConfigError
        If `options` are given: there are none.
    BackendUnavailable
        If torch is missing, or the weights, or the GPU that was asked for.
    InputError
        If the weights cannot be read.
    """

    name: ClassVar[str] = "instanseg"
    mpp = 0.5
    percents = (0.1, 99.9)
    tile_core_px = 416  # with the margins 512, the size that InstanSeg itself cuts
    margin_px = 48  # both multiples of 16, to which the network pads
    largest_px = 64  # an object ends within 64 px of its seed
    planes = ((0, 1),)

    def __init__(self, config: Any, slide: SlideContext) -> None:
        check_options(self.name, config.options, {})
        check_torch(self.name, config.device)
        self._weights = resolve_torchscript(config.model_path)
        super().__init__(config, slide)

    @property
    def about(self) -> dict[str, str | bool | None]:
        """What the manifest says of the weights."""
        weights = self._weights
        return {
            "weights": weights.name,
            "weights_path": str(weights.path),
            "weights_digest": weights.digest,
            "weights_verified": weights.verified,
            "licence": weights.licence,
        }

    def fingerprint(self) -> str:
        """Name the computation and the weights."""
        return f"{self.name}-{VERSION}-{self._weights.digest[:16]}"

    def segment(self, channels: Channels) -> tuple[Labels, str]:
        """Segment a tile; see :class:`codexseg.backends.tiled.backend.Tiled`."""
        network = load_network(
            self._weights.path, self._weights.digest, self._config.device
        )
        image = np.stack([channel for channel in channels if channel is not None])
        return network.segment(image), network.device


class Network:
    """The TorchScript file, loaded.

    Parameters
    ----------
    path : Path
        The file.
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
        try:
            # optimised, the first call would take minutes
            with (
                torch.jit.optimized_execution(False),  # noqa: FBT003
                warnings.catch_warnings(),
            ):
                warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript
                self._module = torch.jit.load(str(path), map_location=self.device).eval()
        except (RuntimeError, ValueError) as error:
            raise InputError(
                f"{path} cannot be loaded by torch {torch.__version__} "
                f"({first_line(error)}), expected a TorchScript file of InstanSeg: correct "
                f"segmentation.model_path, or leave it out for the published weights."
            ) from error

    def segment(self, channels: Floats) -> Labels:
        """Segment an image.

        Parameters
        ----------
        channels : (c, y, x) float32
            0 and 1 at the percentiles.

        Returns
        -------
        labels : (2, y, x) uint32
            Cells, nuclei; equal labels are one cell, and nuclei lie within their cells.

        Raises
        ------
        InputError
            If the network gives something else.
        """
        import torch

        height, width = channels.shape[1:]
        below, right = (max(0, SMALLEST_PX - side) for side in (height, width))
        padded = np.pad(channels, ((0, 0), (0, below), (0, right)), "edge")
        image = torch.from_numpy(padded[None]).to(self.device)
        with (
            torch.jit.optimized_execution(False),  # noqa: FBT003
            torch.inference_mode(),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")  # torch's sparse matrices are in beta
            found = self._module(image).cpu().numpy()
        if found.shape not in ((1, n, *padded.shape[1:]) for n in (1, 2)):
            raise InputError(
                f"{self._path} gives labels of shape {found.shape} for an image of shape "
                f"{padded.shape}, expected (1, 2, y, x), nuclei and cells, or (1, 1, y, x)"
                f", nuclei: is it InstanSeg's? Correct segmentation.model_path."
            )
        nuclei, cells = found[0, 0], found[0, -1]
        both = np.stack([np.where(nuclei > 0, nuclei, cells), nuclei])
        return both[:, :height, :width].astype(np.uint32)


@lru_cache(maxsize=1)
def load_network(path: Path, digest: str, device: str) -> Network:
    """Load a network, once per process and content."""
    del digest
    return Network(path, device)
