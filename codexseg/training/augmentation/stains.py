"""Stains that follow labels: synthetic membrane stains and nuclei of varying brightness.

Tissues differ in the cells that a marker stains and in the stained part of a cell. Stains
drawn from the labels of real tissue keep its shapes, so the network does not overfit to
the stain of one tissue.
"""

import numpy as np
from scipy import ndimage

from codexseg.arrays import Float32, Labels
from codexseg.core.labels.operations import inner_boundary
from codexseg.core.labels.stitching import dense
from codexseg.training.augmentation.illumination import smooth_field
from codexseg.training.data.examples import Rng

_NESTS = 6, 6
_LEFT_OUT = 0.1, 0.9
_RIMS_PX = 0.6, 1.5
_GRAIN_PX = 1.0
_SPREAD = 0.3


def stain_cells(
    membrane: Float32, cells: Labels, nuclei: Labels | None, rng: Rng
) -> Float32:
    """Stain clusters of cells: their membrane, their cytoplasm, or both.

    Parameters
    ----------
    membrane : (y, x) float32
        Membrane channel.
    cells, nuclei : (y, x) uint32
        Cells to stain; nuclei are left unstained.
    rng : Generator
        Source of all random numbers.

    Returns
    -------
    stained : (y, x) float32
    """
    cells, _ = dense(cells)
    highest = int(cells.max(initial=0))
    if highest == 0:
        return membrane
    nests = smooth_field(cells.shape, _NESTS, rng)
    areas = np.bincount(cells.ravel(), minlength=highest + 1)
    level = np.bincount(cells.ravel(), nests.ravel(), highest + 1) / np.maximum(areas, 1)
    brightness = np.exp(rng.normal(0, _SPREAD, highest + 1))
    is_cell = areas > 0
    is_cell[0] = False
    min_level = np.quantile(level[is_cell], rng.uniform(*_LEFT_OUT))
    brightness[~is_cell | (level < min_level)] = 0
    stain = brightness.astype(np.float32)[cells]
    rim = ndimage.gaussian_filter(stain * inner_boundary(cells), rng.uniform(*_RIMS_PX))
    inside = stain if nuclei is None else stain * (nuclei == 0)
    inside = ndimage.gaussian_filter(inside, rng.uniform(*_RIMS_PX))
    strong, weak = rng.uniform(0.3, 1.2), rng.uniform(0, 0.6)
    if rng.random() < 0.3:
        strong, weak = weak, strong
    signal = np.float32(strong) * rim / max(float(rim.max()), 1e-6)
    signal += np.float32(weak) * inside / max(float(inside.max()), 1e-6)
    grain = ndimage.gaussian_filter(rng.standard_normal(cells.shape, np.float32), _GRAIN_PX)
    signal *= np.exp(np.float32(rng.uniform(0, 1.5)) * grain)
    if rng.random() < 0.5:
        return np.asarray(np.maximum(membrane, signal), np.float32)
    return np.asarray(membrane + signal, np.float32)


def vary_nuclei(
    nucleus: Float32, nuclei: Labels | None, rng: Rng, max_spread: float
) -> Float32:
    """Change the brightness of each nucleus independently.

    Parameters
    ----------
    nucleus : (y, x) float32
        Nuclear channel.
    nuclei : (y, x) uint32 or None
        None leaves the channel unchanged.
    rng : Generator
        Source of all random numbers.
    max_spread : float
        Maximum standard deviation of the logarithm of the brightness of a nucleus.

    Returns
    -------
    varied : (y, x) float32
    """
    if nuclei is None:
        return nucleus
    nuclei, _ = dense(nuclei)
    gain = rng.normal(0, rng.uniform(0, max_spread), int(nuclei.max(initial=0)) + 1)
    gain[0] = 0
    smooth = ndimage.gaussian_filter(gain.astype(np.float32)[nuclei], _GRAIN_PX)
    return np.asarray(nucleus * np.exp(smooth), np.float32)
